package postgres_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/postgres"
)

func TestNeverMoreThanSoManyWaitForAConversation(t *testing.T) {
	pool := migrated(t)
	waiters := postgres.NewWaiters(pool)
	take := func(conversation, waiter string, until time.Duration) bool {
		took, err := waiters.Take(t.Context(), domain.StreamID("conversation-"+conversation), waiter, 16, until)
		if err != nil {
			t.Fatal(err)
		}
		return took
	}
	var taken atomic.Int32
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			if took, err := waiters.Take(t.Context(), "conversation-a", fmt.Sprintf("wait_%d", i), 16, time.Hour); err != nil {
				t.Error(err)
			} else if took {
				taken.Add(1)
			}
		})
	}
	all.Wait()
	if taken.Load() != 16 {
		t.Fatalf("%d of 64 got one of 16 places", taken.Load())
	}
	if take("a", "wait_late", time.Hour) || !take("b", "wait_other", time.Hour) {
		t.Error("a conversation's places are not its own")
	}
	one := one[string](t, pool, `SELECT waiter FROM turn_waiters WHERE conversation = 'conversation-a' LIMIT 1`)
	for range 2 { // to leave twice gives one place
		if err := waiters.Leave(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if !take("a", "wait_next", time.Hour) || take("a", "wait_late", time.Hour) {
		t.Error("leaving does not free exactly one place")
	}
	run(t, pool, `UPDATE turn_waiters SET until = now() - interval '1 second' WHERE waiter = 'wait_next' OR conversation = 'conversation-b'`)
	if !take("a", "wait_after", time.Hour) {
		t.Error("a place that was not given back is never free again")
	}
	eldest := func(conversation, want string) {
		t.Helper()
		if got, err := waiters.Eldest(t.Context(), domain.StreamID("conversation-"+conversation)); err != nil || got != want {
			t.Errorf("before %s %q has waited for longest, %v", conversation, got, err)
		}
	}
	if !take("c", "wait_second", time.Hour) || !take("c", "wait_third", 2*time.Hour) {
		t.Error("no place")
	}
	eldest("b", "") // its place is not given back, and is over
	eldest("c", "wait_second")
	if err := waiters.Leave(t.Context(), "wait_second"); err != nil {
		t.Fatal(err)
	}
	eldest("c", "wait_third")
	if swept, err := waiters.Sweep(t.Context()); err != nil || swept != 1 {
		t.Errorf("swept %d, %v", swept, err)
	}
}
