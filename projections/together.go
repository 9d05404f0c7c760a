package projections

// This file stands before a question that requests ask all the time: those that come while one is on its way to Postgres
// go together in the next, as commits share a sync. A question that is alone is asked at once, by whoever has it. None goes
// out before it was asked, so that what it finds is never older than its request.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// togetherMost bounds the questions of one call, and with them how long each waits for its neighbours' answers.
	togetherMost = 32
	// togetherPatience is how long a call may take before those that wait for its end begin another one: what is slow holds
	// up nobody but those who went along with it.
	togetherPatience = 5 * time.Millisecond
	// togetherCalls bounds the calls under way, all but one of which are slow. The pool has more connections.
	togetherCalls = 8
	// togetherTimeout bounds a call of several. Whoever waits for it has a patience of their own.
	togetherTimeout = 2 * time.Second
)

// together asks questions in calls of as many as there are.
type together[Q, A any] struct {
	// ask puts questions to Postgres and answers them in their order. Its error is that of the whole call.
	ask func(context.Context, []Q) ([]answered[A], error)

	mu       sync.Mutex
	waiting  []*question[Q, A]
	under    int // calls under way
	punctual int // of them, those that have not outlasted the patience; while somebody waits there is one, or all are under way
}

// answered is what became of one question.
type answered[A any] struct {
	answer A
	err    error
	again  bool // it is to be asked by itself
}

// question is one that waits to be asked.
type question[Q, A any] struct {
	what Q
	told chan answered[A] // takes one answer without anybody waiting for it
}

// togetherCall is a call under way.
type togetherCall struct {
	late, over bool
	watch      *time.Timer
}

// Ask returns the answer, or the cause of the context's end where that comes first.
func (t *together[Q, A]) Ask(ctx context.Context, what Q) (A, error) {
	t.mu.Lock()
	if t.punctual == 0 && t.under < togetherCalls {
		call := t.begin(ctx)
		t.mu.Unlock()
		defer t.end(ctx, call)
		return t.alone(ctx, what)
	}
	mine := &question[Q, A]{what, make(chan answered[A], 1)}
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	select {
	case got := <-mine.told:
		if got.again {
			return t.alone(ctx, what)
		}
		return got.answer, got.err
	case <-ctx.Done():
		t.leave(mine)
		var none A
		return none, fmt.Errorf("wait for an answer: %w", context.Cause(ctx))
	}
}

// leave takes back a question that has not been asked yet.
func (t *together[Q, A]) leave(gone *question[Q, A]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, gone); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
}

// begin counts a call. It, over, take and sendOff are called with the mutex held.
func (t *together[Q, A]) begin(ctx context.Context) *togetherCall {
	t.under++
	t.punctual++
	call := &togetherCall{}
	call.watch = time.AfterFunc(togetherPatience, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !call.over {
			call.late = true
			t.punctual--
			t.sendOff(ctx)
		}
	})
	return call
}

// over uncounts a call.
func (t *together[Q, A]) over(call *togetherCall) {
	call.watch.Stop()
	call.over = true
	t.under--
	if !call.late {
		t.punctual--
	}
}

// end is the end of a call of one.
func (t *together[Q, A]) end(ctx context.Context, call *togetherCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over(call)
	t.sendOff(ctx)
}

// take returns those who go next, none where nobody waits or others will take them.
func (t *together[Q, A]) take() []*question[Q, A] {
	if t.punctual > 0 || t.under >= togetherCalls {
		return nil
	}
	n := min(len(t.waiting), togetherMost)
	batch := slices.Clone(t.waiting[:n])
	t.waiting = slices.Delete(t.waiting, 0, n)
	return batch
}

// sendOff begins a call for those who wait.
func (t *together[Q, A]) sendOff(ctx context.Context) {
	if batch := t.take(); len(batch) > 0 {
		ctx = context.WithoutCancel(ctx) // a call of many is nobody's own
		go t.serve(ctx, t.begin(ctx), batch)
	}
}

// serve makes a call, and then the next for those who came meanwhile, until nobody waits.
func (t *together[Q, A]) serve(ctx context.Context, call *togetherCall, batch []*question[Q, A]) {
	for len(batch) > 0 {
		t.call(ctx, batch)
		t.mu.Lock()
		t.over(call)
		if batch = t.take(); len(batch) > 0 {
			call = t.begin(ctx)
		}
		t.mu.Unlock()
	}
}

// call asks for several, and tells each of them.
func (t *together[Q, A]) call(ctx context.Context, batch []*question[Q, A]) {
	ctx, cancel := context.WithTimeout(ctx, togetherTimeout)
	defer cancel()
	asked := make([]Q, len(batch))
	for i, one := range batch {
		asked[i] = one.what
	}
	answers, err := t.ask(ctx, asked)
	_, refused := errors.AsType[*pgconn.PgError](err)
	for i, one := range batch {
		switch {
		case err == nil:
			one.told <- answers[i]
		case refused && len(batch) > 1: // what one of them asks may be at fault, and takes nobody along
			one.told <- answered[A]{again: true}
		default:
			one.told <- answered[A]{err: err}
		}
	}
}

// alone asks for one.
func (t *together[Q, A]) alone(ctx context.Context, what Q) (A, error) {
	answers, err := t.ask(ctx, []Q{what})
	if err != nil {
		var none A
		return none, err
	}
	return answers[0].answer, answers[0].err
}
