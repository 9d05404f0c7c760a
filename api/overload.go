package api

// This file stands at the door: how many requests a node works on at a time. One that is offered more than it can do
// refuses the rest at once, instead of being late for everybody. A turn counts until its message has been accepted: while
// it waits for the model it is no load, however many there are.

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nidohq/nido/domain/apikey"
)

// What is asked of Kafka and Postgres answers in milliseconds; analyses take what ClickHouse takes, and must not stand in
// the way of chats.
var (
	workGate = gateConfig{
		least: 96, most: 2048, target: 60 * time.Millisecond, patience: 250 * time.Millisecond, crowdedPatience: 5 * time.Millisecond,
	}
	analysesGate = gateConfig{
		least: 8, most: 64, target: time.Second, patience: 2 * time.Second, crowdedPatience: 250 * time.Millisecond,
	}
)

// gates are a node's: chats, what is asked of ClickHouse, and the rest do not crowd each other out.
type gates struct {
	chats, analyses, rest gate
	known                 acquaintances
	refused               refusals
}

func newGates() *gates {
	return &gates{chats: newGate(workGate), analyses: newGate(analysesGate), rest: newGate(workGate)}
}

// of is the gate of an operation. Probes and documents are asked for when things go badly, and what administrators do may
// be what helps: they have none.
func (g *gates) of(op *operation) *gate {
	switch {
	case op.open, op.scope == apikey.Admin:
		return nil
	case op.chat:
		return &g.chats
	case op.scope == apikey.LogsRead, op.scope == apikey.StatsRead:
		return &g.analyses
	}
	return &g.rest
}

// errCrowded is what the log has of requests that were not let in.
var errCrowded = errors.New("more requests than the node can do")

// enter takes the request through its gate, where its key waits with those of others. Nobody has looked yet whether there is
// such a key.
func (s *Server) enter(r *http.Request, op *operation) error {
	x := exchangeOf(r)
	leave, ok := s.gates.of(op).enter(r.Context(), s.gates.known.queueOf(x.key))
	if !ok {
		x.refused = op.chat
		s.gates.refused.note(r.Context(), s.logger, time.Now())
		return &Problem{Code: "overloaded", cause: errCrowded, counted: true}
	}
	x.left = sync.OnceFunc(leave)
	return nil
}

// leave says that the request is no load any more.
func (x *exchange) leave() {
	if x.left != nil {
		x.left()
	}
}

// refusals writes to the log how many requests were not let in, once in a while: a line for each of them would be work that
// grows with what is refused.
type refusals struct {
	mu    sync.Mutex
	since time.Time // of the last line
	count int       // not told yet
}

// refusalsEvery is the pause between two lines.
const refusalsEvery = time.Second

func (l *refusals) note(ctx context.Context, log *slog.Logger, now time.Time) {
	l.mu.Lock()
	l.count++
	count, pause := l.count, now.Sub(l.since)
	due := pause >= refusalsEvery
	if due {
		l.since, l.count = now, 0
	}
	l.mu.Unlock()
	if due {
		log.WarnContext(ctx, "requests refused", "code", "overloaded", "error", errCrowded, "requests", count)
	}
}
