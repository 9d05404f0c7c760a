package commands

// This file stands behind admission: a policy that tells the log when an account comes to its day's limit. Whoever counts
// requests reports to it and never waits. What it decides goes through the account's stream, so that of many nodes that
// see the same, one tells it.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
)

const (
	// maxWatched bounds the accounts that are remembered and those that wait. What does not fit is reported again: by the
	// account's next request, or by the next sweep.
	maxWatched = 100_000
	// watchPatience bounds one command, watchPause is what lies between two tries where the stores are away.
	watchPatience = 15 * time.Second
	watchPause    = 2 * time.Second
)

// DayCount is how many of an account's requests have come in on a day.
type DayCount struct {
	Account string
	Day     time.Time // any instant of it
	Limit   int64
	Used    int64
}

// DayCounts finds accounts that have come near the day's limit.
type DayCounts interface {
	// NearLimit returns the accounts that have used at least so many percent of what they may today.
	NearLimit(ctx context.Context, percent int) ([]DayCount, error)
}

// Watch is the policy. Each node has one.
type Watch struct {
	accounts Handler[account.Command, account.Event, account.State]
	counts   DayCounts
	clock    Clock
	log      *slog.Logger
	wake     chan struct{}

	mu      sync.Mutex
	told    map[string]account.Reached // as the account's stream had it when this node last looked
	waiting map[string]account.ReachLimit
}

// NewWatch wires the policy. Run does the telling.
func NewWatch(store Store, counts DayCounts, clock Clock, log *slog.Logger) *Watch {
	return &Watch{
		accounts: Handler[account.Command, account.Event, account.State]{Store: store, Aggregate: account.Aggregate},
		counts:   counts, clock: clock, log: log, wake: make(chan struct{}, 1),
		told: map[string]account.Reached{}, waiting: map[string]account.ReachLimit{},
	}
}

// Counted reports where an account stands after a request. It goes by levels and not by edges: the node that saw a
// threshold being crossed may have died before it could tell.
func (w *Watch) Counted(count DayCount) {
	if count.Used*100 < count.Limit*int64(account.Thresholds[0]) {
		return // nearly always
	}
	seen := account.ReachLimit{Day: count.Day.UTC().Format(time.DateOnly), Limit: count.Limit, Used: count.Used}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told[count.Account].News(seen)) == 0 {
		return
	}
	if before, waits := w.waiting[count.Account]; (!waits && len(w.waiting) >= maxWatched) || (waits && before.Day > seen.Day) {
		return
	}
	w.waiting[count.Account] = seen
	select {
	case w.wake <- struct{}{}:
	default: // it has been woken
	}
}

// Run tells what was reported until the context ends. What it leaves behind then, a sweep finds.
func (w *Watch) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		}
		for err := w.Tell(ctx); err != nil && ctx.Err() == nil; err = w.Tell(ctx) {
			w.log.WarnContext(ctx, "reached limits not told yet; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

// Sweep looks for accounts of whose limits nobody has told: a node died, or the plan became smaller than what had been
// used.
func (w *Watch) Sweep(ctx context.Context) error {
	found, err := w.counts.NearLimit(ctx, account.Thresholds[0])
	if err != nil {
		return fmt.Errorf("look for accounts near their limit: %w", err)
	}
	for _, count := range found {
		w.Counted(count)
	}
	return nil
}

// Tell tells what waits. What fails goes on waiting, and so does the rest where a store is away: to find that out again for
// each account would take hours.
func (w *Watch) Tell(ctx context.Context) error {
	w.mu.Lock()
	waiting := w.waiting
	w.waiting = map[string]account.ReachLimit{}
	w.mu.Unlock()
	var first error
	faults, away := 0, false
	for _, id := range slices.Sorted(maps.Keys(waiting)) {
		var reached account.Reached
		var err error
		if !away {
			reached, err = w.tell(ctx, id, waiting[id])
		}
		w.mu.Lock()
		if _, newer := w.waiting[id]; (away || err != nil) && !newer {
			w.waiting[id] = waiting[id]
		}
		if !away && err == nil {
			w.remember(id, reached)
		}
		w.mu.Unlock()
		if err != nil {
			first, faults = cmp.Or(first, err), faults+1
			away = errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknownOutcome)
		}
	}
	if faults > 1 {
		return fmt.Errorf("%d accounts, the first of them: %w", faults, first)
	}
	return first
}

// remember keeps what has been told, so that the account's further requests need no look at its stream.
func (w *Watch) remember(id string, reached account.Reached) {
	if len(w.told) >= maxWatched {
		today := w.clock().UTC().Format(time.DateOnly)
		maps.DeleteFunc(w.told, func(_ string, told account.Reached) bool { return told.Day < today })
	}
	if _, known := w.told[id]; known || len(w.told) < maxWatched {
		w.told[id] = reached
	}
}

func (w *Watch) tell(ctx context.Context, id string, seen account.ReachLimit) (account.Reached, error) {
	ctx, cancel := context.WithTimeout(ctx, watchPatience)
	defer cancel()
	meta := Meta{Account: id, Actor: domain.Actor{Kind: "system", ID: "limits"}, Inputs: NewInputs(w.clock())}
	result, err := w.accounts.Handle(ctx, id, "reach limit", meta, seen)
	if _, refused := errors.AsType[*domain.Refusal](err); refused {
		return account.Reached{}, nil // there is no such account: nobody to tell
	}
	if err != nil {
		return account.Reached{}, fmt.Errorf("tell that %s has reached %d of %d: %w", id, seen.Used, seen.Limit, err)
	}
	return result.State.Reached, nil
}
