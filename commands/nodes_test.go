package commands_test

// This file stands in for what the sweeper reads: the nodes' life signs and what they left.

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

// nodes are the life signs as Postgres would keep them.
type nodes struct {
	mu      sync.Mutex
	beats   map[string]int64
	err     error
	removed []string
	reads   int
	second  func() error // happens ahead of the second read of a look
}

// Beat implements commands.Boots.
func (n *nodes) Beat(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.beats[id]++
	return n.err
}

// All implements commands.Boots.
func (n *nodes) All(context.Context) ([]commands.Boot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reads++; n.reads%2 == 0 && n.second != nil {
		if err := n.second(); err != nil {
			return nil, err
		}
	}
	var boots []commands.Boot
	for id, beat := range n.beats {
		boots = append(boots, commands.Boot{ID: id, Beat: beat})
	}
	return boots, n.err
}

// Remove implements commands.Boots.
func (n *nodes) Remove(_ context.Context, ids ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		delete(n.beats, id)
	}
	n.removed = append(n.removed, ids...)
	return n.err
}

// leftovers finds open turns in memory, as the read model would.
type leftovers struct {
	*memory
	claims   []commands.LeftClaim
	before   time.Time // what claims were asked for
	err      error
	noClaims error
}

// Turns implements commands.Leftovers.
func (l *leftovers) Turns(_ context.Context, living []string, now time.Time, limit int) ([]commands.LeftTurn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var turns []commands.LeftTurn
	for id, stream := range l.streams {
		state, ok := stream.state.(conversation.State)
		if ok && state.Turn != nil && (!slices.Contains(living, state.Turn.Boot) || !state.Turn.Deadline.After(now)) && len(turns) < limit {
			turns = append(turns, commands.LeftTurn{Stream: id, Turn: state.Turn.ID, Boot: state.Turn.Boot, Deadline: state.Turn.Deadline})
		}
	}
	return turns, l.err
}

// Claims implements commands.Leftovers.
func (l *leftovers) Claims(_ context.Context, before time.Time, _ int) ([]commands.LeftClaim, error) {
	l.before = before
	return l.claims, l.noClaims
}
