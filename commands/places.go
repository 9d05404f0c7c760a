package commands

// This file stands before a turn: the places in which messages wait, of all nodes together, and that the node which answers
// most in a conversation does not keep it to itself.

import (
	"context"
	"time"

	"github.com/nidohq/nido/domain"
)

// Places are where messages wait, on all nodes together.
type Places interface {
	// Take gives a waiter one of so many places before a conversation; false where all are taken. A place that is not given
	// back is free again when the time has passed.
	Take(ctx context.Context, conversation domain.StreamID, waiter string, places int, until time.Duration) (bool, error)
	// Eldest returns who has had a place before a conversation for longest, empty where nobody has one.
	Eldest(ctx context.Context, conversation domain.StreamID) (waiter string, err error)
	// Leave gives it back.
	Leave(ctx context.Context, waiter string) error
}

// wayGiven is how long a message holds back for an older one of another node, which looks once in that time at least.
const wayGiven = 2 * lineLook

// giveWay lets an older message of another node try first. A turn's end is known at once on its node, and on others a tenth
// of a second later: with messages always waiting here, theirs would find the next turn open each time. Whoever has given way
// once does not again, since the other node may be dead. It fails only when the context ends.
func (w *Waiter) giveWay(ctx context.Context) error {
	if w.gaveWay || !w.line.othersFirst(ctx, w.stream) {
		return context.Cause(ctx)
	}
	w.gaveWay = true
	select {
	case <-time.After(wayGiven):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// othersFirst reports whether the oldest message that waits for a conversation does so on another node.
func (l *Line) othersFirst(ctx context.Context, conversation domain.StreamID) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	eldest, err := l.Places.Eldest(ctx, conversation)
	if err != nil { // whoever tries now finds out themselves what is wrong
		l.Logger.WarnContext(ctx, "cannot see who has waited for longest", "error", err)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return eldest != "" && !l.places[eldest]
}
