package commands

// This file stands at the command: load, decide, append, wait for the outcome, and again where somebody else won.

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nidohq/nido/domain"
)

// maxAttempts bounds how often a command is decided anew because other commits won. Commands of one node queue for
// their stream, so that only other nodes compete.
const maxAttempts = 12

// Store is what every handler needs: the log, the streams' snapshots, and the fold's progress.
type Store struct {
	Log      Log
	Streams  Streams
	Outcomes Outcomes
	Queue    *Queue   // of this node's commands, by stream
	Observer Observer // of what becomes of them; nil for nobody
	// BackOff waits before the attempt-th try of a command that others keep beating; default a few random milliseconds.
	BackOff func(ctx context.Context, attempt int) error
	// OutcomeTimeout bounds appending a commit, and then the wait for the fold's word on it; default 10 seconds.
	OutcomeTimeout time.Duration
}

// Handler runs the commands of one aggregate.
type Handler[C, E, S any] struct {
	Store
	Aggregate domain.Aggregate[C, E, S]
}

// Result is what a command came to.
type Result[E, S any] struct {
	State   S              // behind the command
	Version domain.Version // behind the command
	Events  []E            // none if there was nothing new, or if a retry found the command committed already
	Already bool           // the command had been committed before
}

// Known is a stream as a decision sees it.
type Known[S any] struct {
	State     S
	Version   domain.Version
	Committed domain.Version // the version at which the command was committed before, 0 if it was not
}

// Handle runs a command on a stream. step names the command among those of its request, for its id. It returns the
// decider's *domain.Refusal, or an error that wraps ErrUnknownOutcome, ErrUnavailable or ErrConflict.
func (h Handler[C, E, S]) Handle(ctx context.Context, name, step string, meta Meta, command C) (Result[E, S], error) {
	return h.handle(ctx, name, step, meta, command, nil)
}

// handle is Handle for a stream that may be known already, from a commit of ours or because nobody else can have written
// to it. Where that is out of date the commit loses, and the stream is read.
func (h Handler[C, E, S]) handle(ctx context.Context, name, step string, meta Meta, command C, known *Known[S]) (Result[E, S], error) {
	leave, err := h.Queue.enter(ctx, h.Aggregate.Stream(name))
	if err != nil {
		return Result[E, S]{}, fmt.Errorf("queue for %s: %w: %w", h.Aggregate.Kind, ErrUnavailable, err)
	}
	defer leave()
	return h.attempt(ctx, name, step, meta, command, known)
}

// attempt decides and commits until a commit of ours has won. known, if not nil, saves the first look at the stream.
func (h Handler[C, E, S]) attempt(ctx context.Context, name, step string, meta Meta, command C, known *Known[S]) (Result[E, S], error) {
	began, called := time.Now(), commandName(h.Aggregate.Kind, step)
	ctx, span := span(ctx, called)
	result, lost, err := h.attempts(ctx, name, step, meta, command, known)
	outcome := outcomeOf(err)
	if err == nil {
		outcome = result.outcome()
	}
	endSpan(span, outcome)
	h.observer().Commanded(called, outcome, lost, time.Since(began))
	return result, err
}

func (h Handler[C, E, S]) attempts(ctx context.Context, name, step string, meta Meta, command C, known *Known[S]) (result Result[E, S], lost int, err error) {
	var none Result[E, S]
	wait := h.BackOff
	if wait == nil {
		wait = backOff
	}
	for attempt := range maxAttempts {
		if attempt > 0 {
			if err := wait(ctx, attempt); err != nil {
				return none, attempt, fmt.Errorf("%w: %w", ErrConflict, err)
			}
		}
		if known == nil {
			loaded, err := h.load(ctx, name, step, meta)
			if err != nil {
				return none, attempt, err
			}
			known = &loaded
		}
		decision, err := h.Decide(*known, name, step, meta, command)
		if err != nil || decision.Settled() {
			return decision.Result, attempt, err
		}
		accepted, err := h.Commit(ctx, decision.Commit)
		if err != nil {
			return none, attempt, err
		}
		if accepted {
			return decision.Result, attempt, nil
		}
		known = nil
	}
	return none, maxAttempts, ErrConflict
}

func (h Handler[C, E, S]) load(ctx context.Context, name, step string, meta Meta) (Known[S], error) {
	snapshot, err := h.Streams.Load(ctx, h.Aggregate.Stream(name), meta.Inputs.Command(step))
	if err != nil {
		return Known[S]{}, fmt.Errorf("load %s: %w: %w", h.Aggregate.Kind, ErrUnavailable, err)
	}
	return h.Know(snapshot)
}

// Know reads a snapshot.
func (h Handler[C, E, S]) Know(snapshot domain.Snapshot) (Known[S], error) {
	state, err := h.Aggregate.DecodeState(snapshot.State)
	return Known[S]{State: state, Version: snapshot.Version, Committed: snapshot.Committed}, err
}

// Decision is a command's outcome if its commit wins, and that commit.
type Decision[E, S any] struct {
	Result[E, S]
	Commit domain.Commit
}

// Settled reports that there is nothing to append: nothing new, or committed before.
func (d Decision[E, S]) Settled() bool { return len(d.Commit.Events) == 0 }

// Decide asks the aggregate about a command, and builds the commit.
func (h Handler[C, E, S]) Decide(known Known[S], name, step string, meta Meta, command C) (Decision[E, S], error) {
	decision := Decision[E, S]{Result: Result[E, S]{State: known.State, Version: known.Version}}
	if known.Committed > 0 {
		decision.Already = true
		return decision, nil
	}
	events, err := h.Aggregate.Decider.Decide(command, known.State)
	if err != nil || len(events) == 0 {
		return decision, err
	}
	stored, err := h.Aggregate.Codec.Encode(events)
	if err != nil {
		return decision, err
	}
	for _, event := range events {
		decision.State = h.Aggregate.Decider.Evolve(decision.State, event)
	}
	decision.Version, decision.Events = known.Version+1, events
	decision.Commit = domain.Commit{
		Stream: h.Aggregate.Stream(name), Base: known.Version, Command: meta.Inputs.Command(step),
		Account: meta.Account, Actor: meta.Actor, Time: meta.Inputs.Now, Trace: meta.Trace, Events: stored,
	}
	return decision, nil
}

// Commit appends a commit and waits for the fold's word on it.
func (h Handler[C, E, S]) Commit(ctx context.Context, commit domain.Commit) (accepted bool, err error) {
	position, err := h.append(ctx, commit)
	if err != nil {
		return false, err
	}
	return h.await(ctx, position)
}

func (h Handler[C, E, S]) append(ctx context.Context, commit domain.Commit) (domain.Position, error) {
	ctx, giveUp := context.WithTimeout(ctx, cmp.Or(h.OutcomeTimeout, 10*time.Second))
	defer giveUp()
	began := time.Now()
	ctx, span := span(ctx, "append")
	if at := traceparent(span); at != "" { // whoever folds the commit goes on from here
		commit.Trace = at
	}
	position, err := h.Log.Append(ctx, commit)
	outcome := outcomeOf(err)
	endSpan(span, outcome)
	h.observer().Appended(outcome, time.Since(began))
	if err != nil {
		return position, fmt.Errorf("append to %s: %w", h.Aggregate.Kind, err)
	}
	return position, nil
}

// await waits for the fold's word on what has been appended.
func (h Handler[C, E, S]) await(ctx context.Context, position domain.Position) (accepted bool, err error) {
	ctx, giveUp := context.WithTimeout(ctx, cmp.Or(h.OutcomeTimeout, 10*time.Second))
	defer giveUp()
	began := time.Now()
	ctx, span := span(ctx, "await the fold")
	accepted, err = h.Outcomes.Wait(ctx, position)
	outcome := OutcomeUnknown
	switch {
	case accepted:
		outcome = OutcomeAccepted
	case err == nil:
		outcome = OutcomeLost
	}
	endSpan(span, outcome)
	h.observer().Awaited(outcome, time.Since(began))
	if err != nil {
		return false, fmt.Errorf("await %s at %d:%d: %w: %w", h.Aggregate.Kind, position.Partition, position.Offset, ErrUnknownOutcome, err)
	}
	return accepted, nil
}

// backOff waits a little before the second and later attempts, longer each time, at random: nodes that collide once
// should not do so again in step.
func backOff(ctx context.Context, attempt int) error {
	pause := time.Duration(rand.Int64N(int64(min(attempt, 6)) * int64(4*time.Millisecond)))
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pause):
		return nil
	}
}
