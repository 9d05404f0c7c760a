package api

// What the stores and commands behind the API answer in the tests.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

func (w *world) Authenticate(_ context.Context, publicID string) (projections.Caller, error) {
	w.lookups++
	caller, ok := w.callers[publicID]
	if !ok {
		return projections.Caller{}, projections.ErrNotFound
	}
	return caller, nil
}

func (w *world) Admit(_ context.Context, admission projections.Admission) (projections.Admitted, error) {
	w.lookups++
	var found projections.Admitted
	caller, ok := w.callers[admission.PublicID]
	if !ok {
		return found, nil
	}
	found.Caller = &caller
	for _, a := range w.agents {
		if a.Account == caller.Account && (a.ID == admission.AgentID || admission.AgentID == "" && a.Slug == admission.Slug) {
			found.Agent = &a
			found.Stream = projections.ConversationStream(a.ID, admission.Mac)
			found.Snapshot.Committed = w.committed
			found.Erased = admission.Mac == "mac-of-again"
			if admission.Key != "" {
				found.Key = &projections.WrappedKey{ID: admission.Key, Owner: string(found.Stream), Wrapped: []byte{1}}
			}
		}
	}
	return found, nil
}

// blanksOf is conversations that lie ready, last first.
type blanksOf struct{ *world }

func (w blanksOf) Take(door string) (commands.Blank, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.blanks[door]) - 1
	if last < 0 {
		return commands.Blank{}, false
	}
	taken := w.blanks[door][last]
	w.blanks[door] = w.blanks[door][:last]
	return taken, true
}

func (w blanksOf) GiveBack(door string, blank commands.Blank) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blanks[door] = append(w.blanks[door], blank)
}

func (w blanksOf) Begun(_ context.Context, door, agent string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doors = append(w.doors, door+" "+agent)
}

type turnsOf struct{ *world }

func (w turnsOf) Begin(ctx context.Context, meta commands.Meta, turn commands.Turn) (*commands.Live, error) {
	w.mu.Lock()
	w.turns, w.metas = append(w.turns, turn), append(w.metas, meta)
	send := w.send
	w.mu.Unlock()
	reply, err := send(ctx, turn)
	_, failed := errors.AsType[*commands.ModelError](err)
	if err != nil && !failed && !errors.Is(err, commands.ErrClientGone) {
		return nil, err
	}
	live := commands.NewLive(meta.Inputs.ID("turn"), turn.Conversation, turn.AgentID, reply.MessageID, noon)
	live.DataKey = plainKey("dk_1")
	if w.begun != nil {
		w.begun <- live
		return live, nil
	}
	live.Say(reply.Text)
	live.End(reply, err)
	return live, nil
}

func (w turnsOf) Queue(ctx context.Context, conversation domain.StreamID) (*commands.Waiter, error) {
	return w.line.Enter(ctx, conversation)
}

func (w turnsOf) Running(string) *commands.Live { return nil }

func (w *world) FindTurn(ctx context.Context, account, turn string) (projections.Turn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent { // a store that is asked and does not answer
		<-ctx.Done()
		return projections.Turn{}, fmt.Errorf("find the turn: %w", ctx.Err())
	}
	found, ok := w.found[turn]
	if !ok || account != "acc_1" {
		return projections.Turn{}, projections.ErrNotFound
	}
	return found, nil
}

func (w *world) Read(_ context.Context, turn string, from int) ([]commands.TurnPiece, error) {
	var pieces []commands.TurnPiece
	for _, piece := range w.pieces[turn] {
		if piece.Offset+len(piece.Text.Data) > from {
			pieces = append(pieces, piece)
		}
	}
	return pieces, nil
}

func (w *world) Record(request projections.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, request)
}

func (w *world) Check(context.Context) (bool, map[string]string, map[string]Lag) {
	return w.ready, map[string]string{"postgres": "ok", "clickhouse": "not reachable"},
		map[string]Lag{"postgres": {}, "clickhouse": {Records: 42, Age: 90500 * time.Millisecond}}
}

func (r Run) name() string { return r.Account + r.Caller + r.Key }

func (w *world) Begin(ctx context.Context, run Run, fingerprint []byte) (commands.Inputs, *Recorded, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, proposed := run.name(), run.Proposed
	kept, ok := w.kept[name]
	switch {
	case ctx.Err() != nil:
		return proposed, nil, ctx.Err()
	case !ok && w.lostFor > 0:
		time.AfterFunc(w.lostFor, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.kept[name] == nil {
				w.kept[name] = &keptAnswer{fingerprint: fingerprint, inputs: proposed, run: proposed.Seed, inFlight: true}
			}
		})
		return proposed, nil, context.DeadlineExceeded
	case !ok && w.lost:
		w.kept[name] = &keptAnswer{fingerprint: fingerprint, inputs: proposed, run: proposed.Seed, inFlight: true}
		return proposed, nil, context.DeadlineExceeded
	case !ok:
		w.kept[name] = &keptAnswer{fingerprint: fingerprint, inputs: proposed, run: proposed.Seed, inFlight: true}
		return proposed, nil, nil
	case !bytes.Equal(kept.fingerprint, fingerprint):
		return proposed, nil, ErrKeyReused
	case kept.inFlight:
		return proposed, nil, ErrInFlight
	}
	if kept.answer == nil {
		kept.inFlight, kept.run = true, proposed.Seed
	}
	return kept.inputs, kept.answer, nil
}

// ending does what only the run does that has the request.
func (w *world) ending(run Run, do func(kept *keptAnswer)) (had bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unsettled > 0 {
		w.unsettled--
		return false, errors.New("the store is away")
	}
	kept := w.kept[run.name()]
	if kept == nil || kept.run != run.Proposed.Seed {
		return false, nil
	}
	do(kept)
	return true, nil
}

func (w *world) Finish(_ context.Context, run Run, answer Recorded) error {
	_, err := w.ending(run, func(kept *keptAnswer) { kept.answer, kept.inFlight = &answer, false })
	return err
}

func (w *world) Abandon(_ context.Context, run Run) (bool, error) {
	return w.ending(run, func(kept *keptAnswer) { kept.inFlight = false })
}

func (w *world) Forget(_ context.Context, run Run) error {
	_, err := w.ending(run, func(*keptAnswer) { delete(w.kept, run.name()) })
	return err
}

func (w *world) ForgetAnswer(_ context.Context, run Run, _ Recorded) error {
	delete(w.kept, run.name())
	return nil
}

func (w *world) Used(publicID string, _ time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = append(w.used, publicID)
}

type limiterOf struct{ *world }

func (l limiterOf) Admit(_ context.Context, request quota.Request) (quota.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.world.counted = append(l.world.counted, request)
	return l.verdict(request), nil
}

func (l limiterOf) Counted(count commands.DayCount) { l.watched = append(l.watched, count) }

func (l limiterOf) Standing(_ context.Context, request quota.Request) ([]quota.Standing, error) {
	return l.verdict(request).Standings, nil
}

const secretKey = "ha_live_abcdefghijkl0123456789ABCDEFGHIJKLMNOPQRSTUV000000"

type logsOf struct{ *world }

func (l logsOf) List(_ context.Context, _ string, filter projections.LogFilter, _ *projections.LogKey) ([]projections.Request, error) {
	requests := make([]projections.Request, filter.Limit)
	for i := range requests {
		requests[i] = projections.Request{ID: "req_1", At: noon, Method: "GET", Route: "/api/me", Path: "/api/me", Status: 200}
	}
	return requests, l.fail
}

func (l logsOf) Get(_ context.Context, _, id string) (projections.Request, bool, error) {
	return projections.Request{ID: id, At: noon, Method: "GET", RequestHeaders: []projections.Header{{Name: "Accept", Value: "a"}, {Name: "Accept", Value: "b"}}}, id != "req_none", l.fail
}
func (l logsOf) Watermark(context.Context) (time.Time, error) { return noon, nil }

type statsOf struct{ *world }

func (s statsOf) Conversations(context.Context, string, projections.StatsQuery) ([]projections.ConversationStats, error) {
	return []projections.ConversationStats{{AgentID: "agt_1", Day: "2026-03-14", Conversations: 2, Resolved: 1, Messages: 4}}, s.fail
}
func (s statsOf) Watermark(context.Context) (time.Time, error) { return noon, nil }

// plainRing seals nothing.
type plainRing struct{}

func (plainRing) Open(_ context.Context, texts []domain.Sealed) ([][]byte, []bool, error) {
	plain := make([][]byte, len(texts))
	for i, text := range texts {
		plain[i] = text.Data
	}
	return plain, make([]bool, len(texts)), nil
}
func (plainRing) Index(id string) string { return "mac-of-" + id }
func (plainRing) Unwrap(id string, _ []byte) (commands.DataKey, error) {
	return plainKey(id), nil
}

type plainKey string

func (k plainKey) ID() string                      { return string(k) }
func (k plainKey) Seal(plain []byte) domain.Sealed { return domain.Sealed{Key: string(k), Data: plain} }
func (k plainKey) Open(s domain.Sealed) ([]byte, error) {
	return s.Data, nil
}

var accountScopes = apikey.AccountScopes()

var adminScopes = []apikey.Scope{apikey.Admin}

// freePlaces are never all taken, and no conversation is busy for longer than a look takes.
type freePlaces struct{ full bool }

func (p *freePlaces) Eldest(context.Context, domain.StreamID) (string, error) { return "", nil }

func (p *freePlaces) Take(context.Context, domain.StreamID, string, int, time.Duration) (bool, error) {
	return !p.full, nil
}
func (p *freePlaces) Leave(context.Context, string) error { return nil }
func (p *freePlaces) Busy(context.Context, []domain.StreamID) ([]domain.StreamID, error) {
	return nil, nil
}
