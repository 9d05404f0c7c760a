package commands

// This file stands between a turn and its readers: text is written where every node finds it before anybody sees it, so
// that a reader may come back anywhere, even after this node was killed. A node has one insert under way at a time, with
// everything in it that came meanwhile.

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
)

// TurnPiece is a piece of a running turn's text: the bytes from an offset on, sealed.
type TurnPiece struct {
	Turn   string
	Offset int
	Text   domain.Sealed
}

// TurnTexts holds the text of running turns.
type TurnTexts interface {
	// Keep writes pieces. One that begins where an earlier one began replaces it.
	Keep(ctx context.Context, pieces []TurnPiece) error
	// Read returns a turn's pieces from one that holds the offset on, in order.
	Read(ctx context.Context, turn string, from int) ([]TurnPiece, error)
	// Forget drops all pieces of turns.
	Forget(ctx context.Context, turns ...string) error
}

const (
	// keepTimeout bounds one write.
	keepTimeout = 5 * time.Second
	// keepPause lies between the beginnings of two writes, unless a turn says its first word: a token can wait that long, and
	// what comes meanwhile costs one write instead of many. Where many turns speak it grows up to longKeepPause, a frame of a
	// film: a turn says more in one write then, for which its reader is woken once and its client gets one packet.
	keepPause     = 5 * time.Millisecond
	longKeepPause = 40 * time.Millisecond
	// keepGrowth is how many turns in one write make the pause behind it a keepPause longer. Then they are many, and read what
	// their models said in the last keepPause before the next write.
	keepGrowth = 8
	// keepBatch bounds how many turns one write is about.
	keepBatch = 500
)

// keeper writes the text of this node's turns.
type keeper struct {
	texts TurnTexts // nil keeps nothing
	log   *slog.Logger

	mu      sync.Mutex
	first   []*Live   // say their first word, which waits for nothing
	waiting []*Live   // have more text that is not kept
	over    []spent   // turns whose pieces may go
	due     time.Time // when those two are seen to
	working bool
	urgent  chan struct{} // holds one token while a turn's first word waits
	frames  frames        // for which turns rest that have more to say
	closed  chan struct{}
	running sync.WaitGroup
}

// spent is a turn whose pieces may go. Those that were handed over before are written by then.
type spent struct {
	turn    string
	dropped chan error // takes one answer without anybody waiting for it
}

func newKeeper(texts TurnTexts, log *slog.Logger) *keeper {
	return &keeper{texts: texts, log: log, urgent: make(chan struct{}, 1), closed: make(chan struct{})}
}

// add notes that a turn has text to keep.
func (k *keeper) add(ctx context.Context, live *Live, first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if first {
		k.first = append(k.first, live)
		select {
		case k.urgent <- struct{}{}:
		default: // somebody else's first word hurries it already
		}
	} else {
		k.waiting = append(k.waiting, live)
	}
	k.work(ctx)
}

// forget notes that nobody needs a turn's pieces: its end holds the text now, or it has not begun. What became of them comes
// by the channel, unless the keeper is closed before.
func (k *keeper) forget(ctx context.Context, live *Live) (dropped <-chan error) {
	if live.keep == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := spent{live.Turn, make(chan error, 1)}
	k.over = append(k.over, gone)
	k.work(ctx)
	return gone.dropped
}

// work sees to it that somebody works. Behind close nobody begins: what is left then the sweep gets.
func (k *keeper) work(ctx context.Context) {
	if k.working || k.isClosed() {
		return
	}
	k.working = true
	k.running.Go(func() {
		pause := time.NewTimer(0)
		defer pause.Stop()
		for {
			select {
			case <-pause.C:
			case <-k.urgent:
			case <-k.closed:
			}
			next, more := k.once(ctx)
			if !more {
				return
			}
			pause.Reset(time.Until(next))
		}
	})
}

// take returns what is to be done now, and when to come again; where there is nothing any more, nobody works from then on.
func (k *keeper) take() (waiting []*Live, gone []spent, next time.Time, more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	n := min(len(k.first), keepBatch)
	waiting, k.first = k.first[:n:n], k.first[n:]
	if !now.Before(k.due) || k.isClosed() {
		n := min(len(k.waiting), keepBatch-len(waiting))
		pause := pauseAfter(n)
		k.due = now.Add(pause)
		if pause > keepPause {
			k.frames.end(pause - keepPause)
		}
		waiting, k.waiting = append(waiting, k.waiting[:n]...), k.waiting[n:]
		gone, k.over = k.over, nil
	}
	k.working = len(waiting)+len(gone)+len(k.waiting)+len(k.over) > 0
	return waiting, gone, k.due, k.working
}

// pauseAfter is the time between the beginning of a write about so many turns and that of the next.
func pauseAfter(turns int) time.Duration {
	return min(keepPause*time.Duration(1+turns/keepGrowth), longKeepPause)
}

// once does what is to be done now. next is when to come again, if there may be more.
func (k *keeper) once(ctx context.Context) (next time.Time, more bool) {
	waiting, gone, next, more := k.take()
	if len(waiting) > 0 && !k.keep(ctx, waiting) {
		return next, false
	}
	if len(gone) > 0 {
		k.drop(ctx, gone)
	}
	return next, more
}

func (k *keeper) drop(ctx context.Context, gone []spent) {
	limited, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	turns := make([]string, len(gone))
	for i, one := range gone {
		turns[i] = one.turn
	}
	err := k.texts.Forget(limited, turns...)
	if err != nil { // the sweep gets them
		k.log.WarnContext(ctx, "text of ended turns not dropped", "turns", len(turns), "error", err)
	}
	for _, one := range gone {
		one.dropped <- err
	}
}

// keep writes, again and again until it is done: what is not kept is not shown before the turn's end. It gives up, false,
// when the process stops.
func (k *keeper) keep(ctx context.Context, waiting []*Live) bool {
	pieces, ends := make([]TurnPiece, 0, len(waiting)), make([]int, 0, len(waiting))
	owners := waiting[:0]
	for _, live := range waiting {
		if text, offset := live.unkept(); text != "" {
			pieces = append(pieces, TurnPiece{Turn: live.Turn, Offset: offset, Text: live.DataKey.Seal([]byte(text))})
			owners, ends = append(owners, live), append(ends, offset+len(text))
		}
	}
	if len(pieces) == 0 {
		return true
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		limited, cancel := context.WithTimeout(ctx, keepTimeout)
		err := k.texts.Keep(limited, pieces)
		cancel()
		if err == nil {
			break
		}
		k.log.WarnContext(ctx, "text of running turns not kept yet", "turns", len(pieces), "error", err, "retry_in", pause)
		select {
		case <-k.closed:
			return false
		case <-time.After(pause):
		}
	}
	for i, live := range owners {
		live.kept(ends[i])
	}
	return true
}

// close waits for the write under way and tries none again.
func (k *keeper) close() {
	k.mu.Lock()
	if !k.isClosed() {
		close(k.closed)
	}
	k.mu.Unlock()
	k.running.Wait()
}

func (k *keeper) isClosed() bool {
	select {
	case <-k.closed:
		return true
	default:
		return false
	}
}
