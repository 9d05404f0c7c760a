package commands

// This file stands beside the chat turns: those that run on this node, and those that are about to. Whoever stops the node
// finds them here, and so does whoever has to know whether somebody works on a turn.

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// turns are those of this node.
type turns struct {
	mu        sync.Mutex
	live      map[string]*Live
	beginning map[string]int // runs whose message is on its way, by their turn: those of one request have the same
	stopping  bool
}

func newTurns() *turns { return &turns{live: map[string]*Live{}, beginning: map[string]int{}} }

// begin notes that a turn's message is on its way. What came of it follows, by add or by fail.
func (t *turns) begin(turn string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beginning[turn]++
}

// fail notes that the run has no turn.
func (t *turns) fail(turn string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun(turn)
}

// add notes that it has one. Behind stop it is ended at once.
func (t *turns) add(live *Live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun(live.Turn)
	t.live[live.Turn] = live
	if t.stopping {
		live.stop(errStopping)
	}
}

func (t *turns) begun(turn string) {
	if t.beginning[turn]--; t.beginning[turn] == 0 {
		delete(t.beginning, turn)
	}
}

func (t *turns) drop(live *Live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, live.Turn)
}

// has tells whether a turn runs here, and whether one may be about to.
func (t *turns) has(turn string) (runs, beginning bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live[turn] != nil, t.beginning[turn] > 0
}

// stop ends all turns, and those to come.
func (t *turns) stop() []*Live {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
	all := t.all()
	for _, live := range all {
		live.stop(errStopping)
	}
	return all
}

// wait returns when no turn runs any more, or false when the context ends.
func (t *turns) wait(ctx context.Context) bool {
	for {
		all := t.all()
		if len(all) == 0 {
			return true
		}
		for _, live := range all {
			select {
			case <-live.over:
			case <-ctx.Done():
				return false
			}
		}
	}
}

func (t *turns) all() []*Live {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.live))
}

// Running returns a turn that runs on this node, nil if it does not.
func (c *Chat) Running(turn string) *Live {
	c.turns.mu.Lock()
	defer c.turns.mu.Unlock()
	return c.turns.live[turn]
}

// Open counts the turns that run on this node.
func (c *Chat) Open() int {
	c.turns.mu.Lock()
	defer c.turns.mu.Unlock()
	return len(c.turns.live)
}

// ClosedTurns knows which turns have had their end.
type ClosedTurns interface {
	// Closed returns those of the turns that are not open any more.
	Closed(ctx context.Context, turns []string) ([]string, error)
}

const (
	// watchEvery is the pause between two looks whether this node's turns are still open, and watchTimeout bounds a look.
	watchEvery   = time.Second
	watchTimeout = 5 * time.Second
)

// Watch stops turns of this node that somebody else has ended: a sweeper, or an erasure. Nobody is to go on with what is
// forgotten, nor to pay for it.
func (c *Chat) Watch(ctx context.Context, open ClosedTurns) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		running := map[string]*Live{}
		for _, live := range c.turns.all() {
			running[live.Turn] = live
		}
		if len(running) == 0 {
			continue
		}
		closed, err := c.closed(ctx, open, slices.Collect(maps.Keys(running)))
		if err != nil && ctx.Err() == nil {
			c.Logger.WarnContext(ctx, "running turns not looked after", "error", err)
		}
		for _, turn := range closed {
			running[turn].stop(errEndedByOthers)
		}
	}
}

func (c *Chat) closed(ctx context.Context, open ClosedTurns, turns []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	return open.Closed(ctx, turns)
}

// errEndedByOthers is the cancellation cause of turns that have had their end.
var errEndedByOthers = errors.New("the turn has been ended by somebody else")
