package model

// This file stands before every call of a provider: how many are under way at a time, how many wait, and whether the
// provider has failed so often that it is left alone for a while.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"

	"github.com/nidohq/nido/commands"
)

// gate lets calls of one provider through.
type gate struct {
	name     string
	slots    *semaphore.Weighted // nil: any number
	maxQueue int64
	patience time.Duration // of a call that waits for a slot
	active   atomic.Int64
	waiting  atomic.Int64

	breaker *gobreaker.TwoStepCircuitBreaker[struct{}] // nil: none
	openFor time.Duration
	opened  atomic.Int64 // when, in Unix nanoseconds
}

func newGate(name string, c Config) *gate {
	g := &gate{name: name, maxQueue: int64(max(0, c.MaxQueue)), patience: c.QueueTimeout, openFor: c.BreakerOpen}
	if c.MaxConcurrent > 0 {
		g.slots = semaphore.NewWeighted(int64(c.MaxConcurrent))
	}
	if c.BreakerFailures > 0 {
		g.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: name, MaxRequests: uint32(c.BreakerProbes), Timeout: c.BreakerOpen,
			ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= uint32(c.BreakerFailures) },
			IsExcluded:  func(err error) bool { return errors.Is(err, errNotCounted) },
			OnStateChange: func(_ string, _, to gobreaker.State) {
				if to == gobreaker.StateOpen {
					g.opened.Store(time.Now().UnixNano())
				}
			},
		})
	}
	return g
}

// errNotCounted is told to the breaker of a call that says nothing about the provider.
var errNotCounted = errors.New("says nothing about the provider")

// pass is a call that has been let through.
type pass struct {
	gate *gate
	done func(error) // tells the breaker; nil without one, or once it has been told
}

// enter waits for a slot, and says for how long it did. The error is a *fault, or the context's.
func (g *gate) enter(ctx context.Context) (_ *pass, queued time.Duration, _ error) {
	if g.breaker != nil && g.breaker.State() == gobreaker.StateOpen { // no use in waiting for a slot
		return nil, 0, g.resting()
	}
	began := time.Now()
	err := g.acquire(ctx)
	queued = time.Since(began)
	if err != nil {
		return nil, queued, err
	}
	p := &pass{gate: g}
	if g.breaker != nil {
		if p.done, err = g.breaker.Allow(); err != nil {
			g.release()
			return nil, queued, g.resting()
		}
	}
	g.active.Add(1)
	return p, queued, nil
}

func (g *gate) acquire(ctx context.Context) error {
	if g.slots == nil || g.slots.TryAcquire(1) {
		return nil
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.maxQueue {
		return g.busy(fmt.Errorf("its calls are all under way, and %d more wait", g.maxQueue))
	}
	limited, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	if g.slots.Acquire(limited, 1) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return g.busy(fmt.Errorf("none of its calls has ended within %v", g.patience))
}

func (g *gate) release() {
	if g.slots != nil {
		g.slots.Release(1)
	}
}

// busy is a provider that has as many calls under way as it may.
func (g *gate) busy(why error) *fault {
	return &fault{elsewhere: true, model: &commands.ModelError{Code: upstreamBusy, Retryable: true, Err: why}}
}

// resting is a provider that has failed too often.
func (g *gate) resting() *fault {
	left := time.Until(time.Unix(0, g.opened.Load()).Add(g.openFor))
	return &fault{elsewhere: true, model: &commands.ModelError{
		Code: upstreamUnavailable, Retryable: true, RetryAfter: max(left, time.Second),
		Err: errors.New("it has failed too often and is left alone"),
	}}
}

// alive tells a breaker that waits for a sign of life that there is one; to others the whole call counts.
func (p *pass) alive() {
	if p.done != nil && p.gate.breaker.State() == gobreaker.StateHalfOpen {
		p.done(nil)
		p.done = nil
	}
}

// leave ends the call.
func (p *pass) leave(f *fault) {
	p.gate.active.Add(-1)
	p.gate.release()
	if p.done == nil {
		return
	}
	switch {
	case f == nil:
		p.done(nil)
	case f.caller != nil:
		p.done(errNotCounted)
	case !f.answered:
		p.done(f)
	case p.gate.breaker.State() == gobreaker.StateHalfOpen:
		p.done(nil) // it refuses this call, but it is there again
	default:
		p.done(errNotCounted)
	}
}

// state is the breaker's: "closed", "half-open" or "open".
func (g *gate) state() string {
	if g.breaker == nil {
		return gobreaker.StateClosed.String()
	}
	return g.breaker.State().String()
}
