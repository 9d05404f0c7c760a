package commands_test

// This file stands at the policy that tells of reached limits: nodes that see the same, stores that are away, days that
// end, and nodes that died before they could tell.

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
)

// nearLimit answers a sweep.
type nearLimit []commands.DayCount

func (n nearLimit) NearLimit(context.Context, int) ([]commands.DayCount, error) { return n, nil }

func newLimitWatch(m *memory, counts nearLimit) *commands.Watch {
	return commands.NewWatch(m.store(), counts, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
}

func openAccount(t *testing.T, m *memory, id string) {
	t.Helper()
	accounts := commands.NewAccounts(m.store(), commands.NewKeys(m.store()))
	if _, err := accounts.Open(t.Context(), metaAt(1), commands.OpenAccount{ID: id, Name: "Sol", Plan: account.Free}); err != nil {
		t.Fatal(err)
	}
}

func counted(id string, limit, used int64) commands.DayCount {
	return commands.DayCount{Account: id, Day: noon, Limit: limit, Used: used}
}

// reached are the thresholds that the log tells of, in its order.
func reached(t *testing.T, m *memory) (percents []int) {
	t.Helper()
	for _, event := range m.accepted(t, "account") {
		if e, is := event.(account.LimitReached); is {
			percents = append(percents, e.Percent)
		}
	}
	return percents
}

func tell(t *testing.T, watch *commands.Watch) {
	t.Helper()
	if err := watch.Tell(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAReachedLimitIsToldOnceHoweverManyNodesSeeIt(t *testing.T) {
	m := newMemory()
	openAccount(t, m, "acc_1")
	nodes := []*commands.Watch{newLimitWatch(m, nil), newLimitWatch(m, nil), newLimitWatch(m, nil)}
	for _, used := range []int64{7, 8, 9, 10, 10, 10} {
		var all sync.WaitGroup
		for _, node := range nodes {
			node.Counted(counted("acc_1", 10, used))
			all.Go(func() {
				if err := node.Tell(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if got := reached(t, m); !slices.Equal(got, []int{80, 100}) {
		t.Errorf("the log tells of %v", got)
	}
	loads := m.loadCount()
	nodes[0].Counted(counted("acc_1", 10, 10))
	tell(t, nodes[0])
	if m.loadCount() != loads {
		t.Error("a node that knows that it was told asks again")
	}
}

func TestAReachedLimitThatCouldNotBeToldIsToldLater(t *testing.T) {
	m := newMemory()
	openAccount(t, m, "acc_1")
	watch := newLimitWatch(m, nil)
	watch.Counted(counted("acc_1", 10, 8))
	for _, next := range []fate{refused, lost} {
		m.fates = func(domain.Commit) fate { return next }
		if err := watch.Tell(t.Context()); err == nil {
			t.Fatal("told without a log")
		}
	}
	m.fates = func(domain.Commit) fate { return unheard } // it is in the log, and nobody knows
	if err := watch.Tell(t.Context()); !errors.Is(err, commands.ErrUnknownOutcome) {
		t.Fatal(err)
	}
	m.fates = nil
	watch.Counted(counted("acc_1", 10, 9))
	tell(t, watch)
	if got := reached(t, m); !slices.Equal(got, []int{80}) {
		t.Errorf("the log tells of %v", got)
	}
}

func TestAStoreThatIsAwayIsNotAskedForEachAccount(t *testing.T) {
	m := newMemory()
	watch := newLimitWatch(m, nil)
	for _, id := range []string{"acc_1", "acc_2", "acc_3"} {
		openAccount(t, m, id)
		watch.Counted(counted(id, 10, 8))
	}
	appends := 0
	m.fates = func(domain.Commit) fate { appends++; return refused }
	if err := watch.Tell(t.Context()); !errors.Is(err, commands.ErrUnavailable) || appends != 1 {
		t.Errorf("%d accounts were tried: %v", appends, err)
	}
	m.fates = nil
	tell(t, watch)
	if got := reached(t, m); !slices.Equal(got, []int{80, 80, 80}) {
		t.Errorf("the log tells of %v", got)
	}
}

func TestASweepTellsWhatADeadNodeHasNot(t *testing.T) {
	m := newMemory()
	openAccount(t, m, "acc_1")
	openAccount(t, m, "acc_2")
	newLimitWatch(m, nil).Counted(counted("acc_1", 10, 8)) // and then it dies
	watch := newLimitWatch(m, nearLimit{counted("acc_1", 10, 10), counted("acc_2", 100, 80), counted("acc_gone", 1, 1)})
	for range 2 {
		if err := watch.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		tell(t, watch)
	}
	if got := reached(t, m); !slices.Equal(got, []int{80, 100, 80}) {
		t.Errorf("the log tells of %v", got)
	}
}

func TestNobodyWaitsForTheTelling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		openAccount(t, m, "acc_1")
		m.fates = func(domain.Commit) fate { return refused }
		watch := newLimitWatch(m, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watch.Run(ctx) }()
		began := time.Now()
		for used := range int64(11) {
			watch.Counted(counted("acc_1", 10, used))
		}
		if time.Since(began) != 0 {
			t.Error("a request waited")
		}
		synctest.Wait()
		if len(reached(t, m)) != 0 {
			t.Fatal("told without a log")
		}
		m.mu.Lock()
		m.fates = nil
		m.mu.Unlock()
		<-time.After(5 * time.Second) // of the test's clock
		synctest.Wait()
		if got := reached(t, m); !slices.Equal(got, []int{80, 100}) {
			t.Errorf("the log tells of %v", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
