package admission

// This file stands where requests wait: one line per account, and one call for all who stand in it.

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/quota"
)

const (
	// maxBatch bounds the requests of one call, and with it how long the account's lock is held.
	maxBatch = 256
	// callTimeout bounds one call, the wait for other nodes' included.
	callTimeout = 5 * time.Second
)

// Admission counts requests. Each node has one.
type Admission struct {
	pool   *pgxpool.Pool
	now    func() time.Time // this node's clock
	at     func() *time.Time
	memory memory
	calls  atomic.Int64 // of Postgres, since the start
	watch  Observer

	mu    sync.Mutex
	lines map[string]*line // by account; there only while somebody waits or a call is under way
}

// New counts through a pool on the primary.
func New(pool *pgxpool.Pool) *Admission {
	return &Admission{
		pool: pool, now: time.Now, at: func() *time.Time { return nil },
		memory: memory{full: map[counterOf]blocked{}}, lines: map[string]*line{}, watch: nobody{},
	}
}

// Watched has somebody told of every verdict, from before the first request on.
func (a *Admission) Watched(by Observer) *Admission {
	a.watch = by
	return a
}

// line is the requests of one account that wait for the next call.
type line struct {
	waiting []*ticket
}

// ticket is one waiting request.
type ticket struct {
	request quota.Request
	answer  chan answer // takes one answer without anybody waiting for it
}

type answer struct {
	verdict quota.Verdict
	err     error
}

// Admit lets a request in and counts it on every one of its rules, or on none. Requests of an account are looked at in the
// order in which they came to this node. One whose context ends while it waits is not counted; one whose context
// ends during the call may be.
func (a *Admission) Admit(ctx context.Context, request quota.Request) (quota.Verdict, error) {
	verdict, err := a.decide(ctx, request)
	switch {
	case err == nil && verdict.Admitted:
		a.watch.Admitted()
	case err == nil:
		a.watch.Refused(string(verdict.Blocking.Policy))
	case ctx.Err() == nil: // else it was given up by whoever asked
		a.watch.Unanswered()
	}
	return verdict, err
}

func (a *Admission) decide(ctx context.Context, request quota.Request) (quota.Verdict, error) {
	if len(request.Rules) == 0 {
		return quota.Verdict{Admitted: true}, nil
	}
	if verdict, full := a.memory.refuse(request, a.now()); full {
		return verdict, nil
	}
	mine := &ticket{request: request, answer: make(chan answer, 1)}
	a.mu.Lock()
	waiting, busy := a.lines[request.Account]
	if !busy {
		waiting = &line{}
		a.lines[request.Account] = waiting
	}
	waiting.waiting = append(waiting.waiting, mine)
	a.mu.Unlock()
	if !busy {
		go a.serve(context.WithoutCancel(ctx), request.Account, waiting)
	}
	select {
	case got := <-mine.answer:
		return got.verdict, got.err
	case <-ctx.Done():
		a.leave(waiting, mine)
		return quota.Verdict{}, fmt.Errorf("wait to be admitted: %w", context.Cause(ctx))
	}
}

// leave takes a request out of its line, if it still stands there.
func (a *Admission) leave(from *line, gone *ticket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, other := range from.waiting {
		if other == gone {
			from.waiting = append(from.waiting[:i], from.waiting[i+1:]...)
			return
		}
	}
}

// serve calls for whoever stands in the line, until nobody does.
func (a *Admission) serve(ctx context.Context, account string, waiting *line) {
	for {
		batch := a.next(account, waiting)
		if batch == nil {
			return
		}
		if batch = a.refuseFromMemory(batch); len(batch) > 0 {
			a.call(ctx, account, batch)
		}
	}
}

// next takes the first of the line; nil ends it.
func (a *Admission) next(account string, waiting *line) []*ticket {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(waiting.waiting), maxBatch)
	if n == 0 {
		delete(a.lines, account)
		return nil
	}
	batch := waiting.waiting[:n:n]
	waiting.waiting = waiting.waiting[n:]
	return batch
}

// refuseFromMemory answers those whose counter turned out to be full while they waited.
func (a *Admission) refuseFromMemory(batch []*ticket) []*ticket {
	now := a.now()
	var left []*ticket
	for _, one := range batch {
		if verdict, full := a.memory.refuse(one.request, now); full {
			one.answer <- answer{verdict: verdict}
		} else {
			left = append(left, one)
		}
	}
	return left
}

// call asks Postgres about a batch and gives everybody their answer.
func (a *Admission) call(ctx context.Context, account string, batch []*ticket) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	requests := make([]quota.Request, len(batch))
	for i, one := range batch {
		requests[i] = one.request
	}
	a.calls.Add(1)
	sent := a.now()
	result, err := a.admit(ctx, account, requests)
	received := a.now()
	for i, one := range batch {
		if err != nil {
			one.answer <- answer{err: err}
			continue
		}
		verdict := result.verdict(i)
		if !verdict.Admitted {
			a.memory.remember(account, verdict, sent, received)
		}
		one.answer <- answer{verdict: verdict}
	}
}
