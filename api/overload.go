package api

// This file stands at the door: how many requests a node works on at a time. One that is offered more than it can do
// refuses the rest at once, instead of being late for everybody. A turn counts until its message has been accepted: while
// it waits for the model it is no load, however many there are.

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nidohq/nido/domain/apikey"
)

// gateConfig is how a gate measures.
type gateConfig struct {
	least, most int           // how many may be inside; it begins with the least
	target      time.Duration // what half of them may take; or slack times what they take when there is room
	patience    time.Duration // how long others may have to wait outside
}

const (
	// slack is how many times longer than on an idle node work may take before the gate lets fewer in.
	slack = 3
	// sampled is how many requests the gate looks at together.
	sampled = 64
)

// What is asked of Kafka and Postgres answers in milliseconds; analyses take what ClickHouse takes, and must not stand in
// the way of chats.
var (
	workGate     = gateConfig{least: 64, most: 2048, target: 60 * time.Millisecond, patience: 60 * time.Millisecond}
	analysesGate = gateConfig{least: 8, most: 64, target: time.Second, patience: 2 * time.Second}
)

// gates are a node's: chats, what is asked of ClickHouse, and the rest do not crowd each other out.
type gates struct{ chats, analyses, rest gate }

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

// enter takes the request through its gate.
func (s *Server) enter(r *http.Request, op *operation) error {
	leave, err := s.gates.of(op).enter(r.Context())
	if err != nil {
		exchangeOf(r).refused = op.chat
		return err
	}
	exchangeOf(r).left = sync.OnceFunc(leave)
	return nil
}

// leave says that the request is no load any more.
func (x *exchange) leave() {
	if x.left != nil {
		x.left()
	}
}

// gate lets requests in. How many depends on what they take: more where there is no room and they are quick, fewer where
// they become slow.
type gate struct {
	gateConfig
	mu      sync.Mutex
	limit   float64
	inside  int
	waiting []chan struct{} // the next in line first; each takes one token without anybody listening
	took    []time.Duration // of the sample
	crowded bool            // the limit was reached during the sample
	half    time.Duration   // what half of the last sample took
	idle    time.Duration   // what half of a sample takes where there is room
}

func newGate(c gateConfig) gate { return gate{gateConfig: c, limit: float64(c.least)} }

// errCrowded is what the log has of requests that were not let in.
var errCrowded = errors.New("more requests than the node can do")

// enter lets a request in, or refuses it: at once, where the line outside is longer than what its patience will see
// served. leave is to be called once.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	if g == nil {
		return func() {}, nil
	}
	if !g.pass(ctx) {
		return nil, &Problem{Code: "overloaded", cause: errCrowded}
	}
	began := time.Now()
	return func() { g.leave(time.Since(began)) }, nil
}

func (g *gate) pass(ctx context.Context) bool {
	g.mu.Lock()
	if g.inside < int(g.limit) {
		g.inside++
		g.mu.Unlock()
		return true
	}
	g.crowded = true
	if len(g.waiting) >= g.line() {
		g.mu.Unlock()
		return false
	}
	mine := make(chan struct{}, 1)
	g.waiting = append(g.waiting, mine)
	g.mu.Unlock()
	patience := time.NewTimer(2 * g.patience) // for work that has become slow since the line was measured
	defer patience.Stop()
	select {
	case <-mine:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, mine); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return false
	}
	return true // let in at the last moment
}

// line is how many may stand outside: as many as are let in during the patience, when all that are inside slow each other
// down. Of those that are refused nobody has waited, and of those that wait nearly everybody is served.
func (g *gate) line() int {
	return int(g.limit * float64(g.patience) / float64(max(g.half, g.target)))
}

func (g *gate) leave(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.took = append(g.took, took); len(g.took) == sampled {
		g.adjust()
	}
	for len(g.waiting) > 0 && g.inside < int(g.limit) {
		g.inside++
		g.waiting[0] <- struct{}{}
		g.waiting = g.waiting[1:]
	}
}

// adjust draws the conclusion from a sample.
func (g *gate) adjust() {
	slices.Sort(g.took)
	half := g.took[sampled/2]
	g.half = half
	switch {
	case g.idle == 0 || half < g.idle:
		g.idle = half
	case !g.crowded: // what is slower without a crowd is slow by itself
		g.idle += (half - g.idle) / 8
	}
	switch allowed := max(g.target, slack*g.idle); {
	case half > allowed:
		g.limit = max(float64(g.least), g.limit*0.9)
	case g.crowded && half < allowed*3/4:
		g.limit = min(float64(g.most), g.limit+math.Sqrt(g.limit))
	}
	g.took, g.crowded = g.took[:0], false
}
