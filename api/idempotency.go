package api

// This file stands around the handlers that write: a request that carries an Idempotency-Key takes effect once, and its
// repetitions get the first answer again, byte by byte.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

const idempotencyHeader = "Idempotency-Key"

// Errors of Idempotency.
var (
	// ErrKeyReused: the key was used for another request.
	ErrKeyReused = &Problem{Code: "idempotency_key_reused", Field: idempotencyHeader}
	// ErrInFlight: another node, or this one, is still at the first request.
	ErrInFlight = &Problem{Code: "idempotency_in_flight", Field: idempotencyHeader}
	// ErrErased: the first request was made in a conversation that has been erased since.
	ErrErased = &Problem{Code: "conversation_erased", Field: idempotencyHeader}
)

// Recorded is an answer as it was sent. Its body may hold a new key: whoever keeps it seals it.
type Recorded struct {
	Status      int
	ContentType string
	Headers     map[string]string // Location and the like; not the request id
	Body        []byte
	Began       time.Time // names the answer in the store, which sets it
	// Owner is the stream of the conversation whose texts are in the answer, with which it is to be erased; empty for none.
	Owner string
}

// Run is one try at a request under an Idempotency-Key. Account, caller (the public id of the API key) and key together name
// the request.
type Run struct {
	Account, Caller, Key string
	Proposed             commands.Inputs // what its commands are made from where it is the first
}

// Idempotency keeps what was asked and answered under a client's key, for 24 hours. What a run no longer has, since another
// has it or has ended it, none of its methods changes; that is no error.
type Idempotency interface {
	// Begin notes a run with the inputs that its commands will be made from. It returns those proposed, or with the seed
	// of a first run that died before it was answered; or the answer to a first run that was. Its errors are
	// ErrKeyReused where the fingerprint is another's, ErrInFlight where the first run is still being worked on,
	// ErrErased where its answer has been erased; then the replay says only whose it was.
	Begin(ctx context.Context, run Run, fingerprint []byte) (inputs commands.Inputs, replay *Recorded, err error)
	// Finish keeps the answer.
	Finish(ctx context.Context, run Run, answer Recorded) error
	// Abandon says that there is no answer worth keeping: the next run starts at once, with the same seed. It tells whether
	// the run had the request, which after a Begin that failed is not known.
	Abandon(ctx context.Context, run Run) (had bool, err error)
	// Forget says that the run came to nothing, for good: the next request with this key is a new one.
	Forget(ctx context.Context, run Run) error
	// ForgetAnswer says the same of a request that has an answer, unless another has taken its place.
	ForgetAnswer(ctx context.Context, run Run, answer Recorded) error
}

// errNotNoted has a request looked for again.
var errNotNoted = errors.New("the request has not been noted yet")

const (
	// settleTimeout bounds keeping an answer; by then the client may be gone.
	settleTimeout = 5 * time.Second
	// settlePatience bounds how long it is tried again behind the answer. A request that is never settled stays in flight
	// for as long as its node lives, and every repetition of it is refused.
	settlePatience = 15 * time.Minute
	// settleFirst and settleMax bound the pause between two tries.
	settleFirst, settleMax = 100 * time.Millisecond, 5 * time.Second
	// lateRow is for how long a request is looked for that may be noted late: the store cancels a statement after 30 s.
	lateRow = 35 * time.Second
	// maxSettling bounds how many are tried again at a time. They are those that were under way when the store went away.
	maxSettling = 1024
)

// attempt is a run of a request that this server works on.
type attempt struct {
	server  *Server
	r       *http.Request
	run     Run
	settled bool
}

// settle keeps what came of it, or gives it up; where the store cannot be reached, behind the answer, until it can.
func (a *attempt) settle(what func(ctx context.Context, run Run) error) {
	a.settled = true
	do := func(ctx context.Context) error { return what(ctx, a.run) }
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.r.Context()), settleTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		a.server.logger.WarnContext(ctx, "answer to an idempotent request not settled; trying again", "error", err)
		a.server.settleBehind(ctx, do)
	}
}

func (a *attempt) finish(answer Recorded) {
	answer.Owner = exchangeOf(a.r).owner()
	a.settle(func(ctx context.Context, run Run) error { return a.server.config.Idempotency.Finish(ctx, run, answer) })
}

// giveUp lets the next request begin: from the same seed, or anew where the turn that they made has failed.
func (a *attempt) giveUp() {
	if exchangeOf(a.r).failed {
		a.settle(a.server.config.Idempotency.Forget)
		return
	}
	a.settle(func(ctx context.Context, run Run) error {
		_, err := a.server.config.Idempotency.Abandon(ctx, run)
		return err
	})
}

// once runs a handler, under the client's Idempotency-Key if there is one.
func (s *Server) once(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	x, key := exchangeOf(r), r.Header.Get(idempotencyHeader)
	if !x.op.idempotent || key == "" {
		handler.ServeHTTP(w, r)
		return
	}
	streamed := x.op.streams && wantsStream(x)
	try := &attempt{server: s, r: r, run: Run{Account: x.caller.Account, Caller: x.caller.PublicID, Key: key, Proposed: x.inputs}}
	inputs, replay, err := s.beginOnce(try, x, streamed)
	if replay != nil {
		x.record.Owner = replay.Owner // its words are those of the first request
		if err == nil {
			err = s.mayBeTold(r.Context(), replay)
		}
	}
	switch {
	case err != nil:
		s.refuse(w, r, err)
		return
	case replay != nil:
		x.refused = false
		s.replay(w, r, replay)
		x.afterwards(func() {
			if x.failed { // its node died, or else the answer would not have been there: who asks again is not told so for a day
				try.settle(func(ctx context.Context, run Run) error { return s.config.Idempotency.ForgetAnswer(ctx, run, *replay) })
			}
		})
		return
	}
	// The seed is the first attempt's, and so are all ids. The time is not: what has been committed has its own, and what is
	// decided only now happens now. A turn that began an hour ago would be past its deadline.
	x.inputs.Seed, x.inputs.Fresh = inputs.Seed, inputs.Fresh
	defer func() {
		if !try.settled { // the handler panicked
			try.giveUp()
		}
	}()
	if streamed {
		s.streamOnce(w, r, try, handler)
		return
	}
	held := &heldAnswer{header: w.Header()}
	handler.ServeHTTP(held, r)
	if held.worthKeeping(x.record.ErrorCode) {
		try.finish(held.recorded())
	} else {
		try.giveUp()
	}
	if held.status == http.StatusNoContent {
		w.WriteHeader(held.status)
		return
	}
	s.send(w, r, held.status, held.body.Bytes())
}

// mayBeTold refuses an answer from a conversation that is to be erased: nobody reads it from the moment when that was answered,
// and not only when it has been carried out.
func (s *Server) mayBeTold(ctx context.Context, replay *Recorded) error {
	if replay.Owner == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	_, err := s.config.Erasures.Of(ctx, domain.StreamID(replay.Owner))
	switch {
	case err == nil:
		return ErrErased
	case errors.Is(err, projections.ErrNotFound):
		return nil
	}
	return err
}

// settleBehind settles behind the answer, unless there is too much to settle already: then the request stays in flight for as
// long as the node lives, or a day.
func (s *Server) settleBehind(ctx context.Context, do func(ctx context.Context) error) {
	select {
	case s.settling <- struct{}{}:
		go func() {
			defer func() { <-s.settling }()
			s.settleLater(context.WithoutCancel(ctx), do)
		}()
	default:
		s.logger.ErrorContext(ctx, "too many idempotent requests wait to be settled")
	}
}

// settleLater tries until it succeeds: the store comes back, and then the client's repetition must find the answer, or
// be let in. A node that ends before leaves its requests to whoever gets the repetition.
func (s *Server) settleLater(ctx context.Context, do func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for pause := settleFirst; ; pause = min(2*pause, settleMax) {
		select {
		case <-ctx.Done():
			s.logger.ErrorContext(ctx, "answer to an idempotent request never settled")
			return
		case <-time.After(pause):
		}
		trying, giveUp := context.WithTimeout(ctx, settleTimeout)
		err := do(trying)
		giveUp()
		if err == nil {
			return
		}
	}
}

// beginOnce notes the request. A stream waits until the turn of the first one is accepted, to follow it.
func (s *Server) beginOnce(try *attempt, x *exchange, streamed bool) (commands.Inputs, *Recorded, error) {
	ctx, cancel := context.WithTimeout(try.r.Context(), attachTimeout)
	defer cancel()
	for {
		inputs, replay, err := try.begin(x)
		if !streamed || !errors.Is(err, ErrInFlight) {
			return inputs, replay, err
		}
		x.leave() // it waits for another request, which has a place of its own
		select {
		case <-ctx.Done():
			return inputs, replay, err
		case <-time.After(attachPause):
		}
	}
}

// begin notes the request once. A client that leaves does not break it off, since a row that was written and not heard of would
// be in flight for as long as the node lives; where the store itself does not say what came of it, the row is given up as soon
// as it can be. It may be written only after it was looked for: a statement that waits for the disk goes on without its client.
func (a *attempt) begin(x *exchange) (commands.Inputs, *Recorded, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.r.Context()), admitTimeout)
	defer cancel()
	inputs, replay, err := a.server.config.Idempotency.Begin(ctx, a.run, fingerprint(a.r, x.body))
	if _, told := errors.AsType[*Problem](err); err != nil && !told {
		over := time.Now().Add(lateRow)
		a.server.settleBehind(ctx, func(ctx context.Context) error {
			had, err := a.server.config.Idempotency.Abandon(ctx, a.run)
			if err == nil && !had && time.Now().Before(over) {
				return errNotNoted
			}
			return err
		})
	}
	return inputs, replay, err
}

const (
	// attachTimeout bounds the wait for the acceptance of the turn that a repeated stream follows.
	attachTimeout = 10 * time.Second
	attachPause   = 50 * time.Millisecond
)

// streamOnce sends a stream whose repetitions follow the same turn. What is kept of it is the turn's id, from the moment
// it is accepted; so they find it while it runs, and on every node. A turn that fails before its stream's eyes is forgotten.
func (s *Server) streamOnce(w http.ResponseWriter, r *http.Request, try *attempt, handler http.Handler) {
	x := exchangeOf(r)
	x.begun = func(turn string) {
		try.finish(Recorded{Status: http.StatusOK, ContentType: "text/event-stream", Body: []byte(turn)})
	}
	handler.ServeHTTP(w, r)
	if x.failed {
		try.giveUp()
	}
}

// wantsStream reports whether a chat's body asks for events.
func wantsStream(x *exchange) bool {
	var body struct {
		Streaming bool `json:"streaming"` // ours
		Stream    bool `json:"stream"`    // OpenAI's
	}
	return x.op.id == "chatStreamOnHost" || json.Unmarshal(x.body, &body) == nil && (body.Streaming || body.Stream)
}

func (s *Server) replay(w http.ResponseWriter, r *http.Request, first *Recorded) {
	for name, value := range first.Headers {
		w.Header().Set(name, value)
	}
	if first.ContentType != "" {
		w.Header().Set("Content-Type", first.ContentType)
	}
	w.Header().Set("Idempotent-Replayed", "true")
	if first.ContentType == "text/event-stream" {
		s.follow(w, r, string(first.Body))
		return
	}
	if first.Status == http.StatusNoContent {
		w.WriteHeader(first.Status)
		return
	}
	s.send(w, r, first.Status, first.Body)
}

// fingerprint tells one request from another under the same key. The same words to another agent, on its own host, are
// another request.
func fingerprint(r *http.Request, body []byte) []byte {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %s\n", r.Method, exchangeOf(r).slug, r.URL.RequestURI())
	hash.Write(body)
	return hash.Sum(nil)
}

// heldAnswer keeps an answer back until it has been settled: what a client has seen must be what a repetition gets.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *heldAnswer) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

// Write implements http.ResponseWriter.
func (h *heldAnswer) Write(part []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(part)
}

// worthKeeping reports whether the answer would be the same again. What may come out otherwise next time is not kept.
func (h *heldAnswer) worthKeeping(errorCode string) bool {
	return h.status != 0 && h.status < http.StatusInternalServerError && !entries[errorCode].Retryable
}

func (h *heldAnswer) recorded() Recorded {
	kept := map[string]string{}
	for _, name := range []string{"Location", "Cache-Control", "Vary", "X-Should-Retry"} {
		if value := h.header.Get(name); value != "" {
			kept[name] = value
		}
	}
	return Recorded{Status: h.status, ContentType: h.header.Get("Content-Type"), Headers: kept, Body: bytes.Clone(h.body.Bytes())}
}
