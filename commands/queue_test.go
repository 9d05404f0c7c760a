package commands_test

// This file stands before the decision: one node's commands on one stream, one after the other.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

func TestOneAtATimeWorksOnAStream(t *testing.T) {
	const streams, workers, rounds = 3, 8, 200
	queue := commands.NewQueue()
	var inside [streams]atomic.Int32
	var done [streams]int // guarded by the queue alone: the race detector watches
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for round := range rounds {
				i := (worker + round) % streams
				leave, err := queue.Enter(t.Context(), domain.StreamID(fmt.Sprint("tally-", i)))
				if err != nil {
					t.Error(err)
					return
				}
				if inside[i].Add(1) != 1 {
					t.Error("two work on one stream")
				}
				done[i]++
				inside[i].Add(-1)
				leave()
			}
		})
	}
	all.Wait()
	if sum := done[0] + done[1] + done[2]; sum != workers*rounds {
		t.Errorf("%d of %d were let in", sum, workers*rounds)
	}
	if queue.Lanes() != 0 {
		t.Errorf("%d lanes are left behind", queue.Lanes())
	}
}

func TestOthersStreamsAreNotWaitedFor(t *testing.T) {
	queue := commands.NewQueue()
	leaveOne, err := queue.Enter(t.Context(), "tally-1")
	if err != nil {
		t.Fatal(err)
	}
	leaveTwo, err := queue.Enter(t.Context(), "tally-2")
	if err != nil {
		t.Fatal(err)
	}
	if queue.Lanes() != 2 {
		t.Errorf("%d lanes", queue.Lanes())
	}
	leaveOne()
	leaveTwo()
	if queue.Lanes() != 0 {
		t.Errorf("%d lanes are left behind", queue.Lanes())
	}
}

func TestWhoeverStopsWaitingLeavesTheQueueInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := commands.NewQueue()
		leave, err := queue.Enter(t.Context(), "tally-1")
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("the caller hung up")
		impatient, hangUp := context.WithCancelCause(t.Context())
		gaveUp, entered := make(chan error, 1), make(chan func(), 1)
		go func() { _, err := queue.Enter(impatient, "tally-1"); gaveUp <- err }()
		go func() {
			leave, err := queue.Enter(t.Context(), "tally-1")
			if err != nil {
				t.Error(err)
			}
			entered <- leave
		}()
		synctest.Wait()
		if len(gaveUp)+len(entered) != 0 {
			t.Fatal("somebody came in while the stream was taken")
		}
		hangUp(why)
		if err := <-gaveUp; !errors.Is(err, why) {
			t.Errorf("gave up with %v", err)
		}
		synctest.Wait()
		if len(entered) != 0 || queue.Lanes() != 1 {
			t.Errorf("%d came in, %d lanes", len(entered), queue.Lanes())
		}
		leave()
		(<-entered)()
		if queue.Lanes() != 0 {
			t.Errorf("%d lanes are left behind", queue.Lanes())
		}
	})
}

func TestACommandThatCannotGetInIsUnavailable(t *testing.T) {
	m := newMemory()
	handler := tallying(m)
	leave, err := handler.Queue.Enter(t.Context(), "tally-s")
	if err != nil {
		t.Fatal(err)
	}
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := handler.Handle(gone, "s", "add", metaAt(1), add{Name: "a"}); !errors.Is(err, commands.ErrUnavailable) || len(m.commits()) != 0 {
		t.Fatalf("answered %v after %d commits", err, len(m.commits()))
	}
	leave()
	if _, err := handler.Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"}); err != nil || handler.Queue.Lanes() != 0 {
		t.Fatalf("afterwards %v, %d lanes", err, handler.Queue.Lanes())
	}
}
