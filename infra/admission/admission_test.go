package admission

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/quota"
)

// hold keeps an account's lock, as another node's call does, until it is let go.
func hold(t *testing.T, pool *pgxpool.Pool, account string) (letGo func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1852400745, hashtext($1))`, account); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// standing is how many wait behind the call that is under way.
func (a *Admission) standing(account string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if waiting, busy := a.lines[account]; busy {
		return len(waiting.waiting)
	}
	return -1
}

func TestWhoeverCameFirstIsAdmittedFirst(t *testing.T) {
	pool := open(t, database(t))
	node := New(pool)
	letGo := hold(t, pool, "acc_1")
	const count, limit = 10, 4
	admitted := make([]bool, count)
	var group sync.WaitGroup
	for i := range count {
		group.Go(func() { admitted[i] = ask(t, node, perKey("acc_1", "k", limit)).Admitted })
		await(t, "the request to stand in line", func() bool { return node.standing("acc_1") == i })
	}
	letGo()
	group.Wait()
	for i, got := range admitted {
		if got != (i < limit) {
			t.Errorf("of those who asked one after the other came in: %v", admitted)
			break
		}
	}
	if calls := node.calls.Load(); calls != 2 {
		t.Errorf("%d calls for one request and the nine that waited for its answer", calls)
	}
}

func TestOneWhoLeavesTheLineIsNotCounted(t *testing.T) {
	pool := open(t, database(t))
	node, request := New(pool), perKey("acc_1", "k", 10)
	letGo := hold(t, pool, "acc_1")
	var group sync.WaitGroup
	group.Go(func() { ask(t, node, request) })
	await(t, "the call", func() bool { return node.standing("acc_1") == 0 })
	ctx, leave := context.WithCancel(t.Context())
	group.Go(func() {
		if _, err := node.Admit(ctx, request); !errors.Is(err, context.Canceled) {
			t.Errorf("left with %v", err)
		}
	})
	await(t, "the second to wait", func() bool { return node.standing("acc_1") == 1 })
	leave()
	await(t, "it to leave", func() bool { return node.standing("acc_1") == 0 })
	letGo()
	group.Wait()
	if left := left(t, node, request); left != 9 {
		t.Errorf("%d of 10 are left after one request", left)
	}
}

// left is how many more requests a key may send.
func left(t *testing.T, node *Admission, request quota.Request) int64 {
	t.Helper()
	standings, err := node.Standing(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return standings[0].Remaining
}

func TestAnAccountThatIsBusyKeepsNobodyElseWaiting(t *testing.T) {
	pool := open(t, database(t))
	node := New(pool)
	letGo := hold(t, pool, "acc_1")
	var group sync.WaitGroup
	group.Go(func() { ask(t, node, perKey("acc_1", "k", 1)) })
	await(t, "the call", func() bool { return node.standing("acc_1") == 0 })
	if !ask(t, node, perKey("acc_2", "k", 1)).Admitted {
		t.Error("another account was refused")
	}
	letGo()
	group.Wait()
}

func TestARefusalIsRememberedUntilThereIsRoomOrTheLimitIsAnother(t *testing.T) {
	pool := open(t, database(t))
	clock := newClock()
	node := clock.node(pool)
	calls := func(want int64, when string) {
		t.Helper()
		if got := node.calls.Load(); got != want {
			t.Errorf("%d round trips %s, not %d", got, when, want)
		}
	}
	ask(t, node, perKey("acc_1", "k", 1))
	first := ask(t, node, perKey("acc_1", "k", 1))
	calls(2, "for one that came in and one that did not")
	for range 100 {
		if got := ask(t, node, perKey("acc_1", "k", 1)); got.Admitted || got.RetryAfter != first.RetryAfter || got.Blocking != first.Blocking {
			t.Fatalf("%+v, and before %+v", got, first)
		}
	}
	calls(2, "after a hundred more")
	if !ask(t, node, perKey("acc_1", "k", 2)).Admitted {
		t.Error("a larger plan did not let it in at once")
	}
	if ask(t, node, perKey("acc_1", "k", 1)).Admitted {
		t.Error("a smaller plan let it in")
	}
	calls(3, "after the plan went up and down")
	clock.at = clock.at.Add(first.RetryAfter)
	if !ask(t, node, perKey("acc_1", "k", 2)).Admitted {
		t.Error("there was no room when there should be")
	}
	calls(4, "when there is room again")
}

func TestAClockThatIsSetBackLetsNobodyInTwice(t *testing.T) {
	pool := open(t, database(t))
	clock := newClock()
	request := quota.Request{Account: "acc_1", Rules: []quota.Rule{
		{Policy: quota.Key, Subject: "k", Limit: 3}, {Policy: quota.Day, Limit: 5},
	}}
	for range 3 {
		ask(t, clock.node(pool), request)
	}
	clock.at = clock.at.Add(-36 * time.Hour)
	refused := ask(t, clock.node(pool), request)
	if refused.Admitted || refused.RetryAfter > 61*time.Second {
		t.Errorf("after the clock was set back: %+v", refused)
	}
	clock.at = clock.at.Add(61 * time.Second)
	for range 2 {
		if !ask(t, clock.node(pool), request).Admitted {
			t.Error("there is no room a minute later")
		}
	}
	if got := ask(t, clock.node(pool), request); got.Admitted || got.Blocking.Policy != quota.Day {
		t.Errorf("the day's count was lost with the clock: %+v", got)
	}
}

func TestARequestWithoutLimitsAsksNobody(t *testing.T) {
	node := New(open(t, database(t)))
	if !ask(t, node, quota.Request{Account: "acc_1"}).Admitted || node.calls.Load() != 0 {
		t.Error("an unlimited request was counted")
	}
}

func TestCountersThatNothingCountsOnAreDropped(t *testing.T) {
	pool := open(t, database(t))
	clock := newClock() // months ago by Postgres' own clock, or ahead of it
	clock.at = time.Now().Add(-72 * time.Hour)
	ask(t, clock.node(pool), perKey("acc_1", "old", 1))
	node := New(pool)
	ask(t, node, perKey("acc_1", "new", 1))
	if dropped, err := node.Sweep(t.Context()); err != nil || dropped != 1 {
		t.Errorf("%d dropped, %v", dropped, err)
	}
	if left(t, node, perKey("acc_1", "new", 1)) != 0 {
		t.Error("a counter that counts was dropped")
	}
}

func TestAStoppedPostgresIsAnErrorForEverybodyInLine(t *testing.T) {
	pool := open(t, database(t))
	node := New(pool)
	pool.Close()
	for range 3 {
		if _, err := node.Admit(t.Context(), perKey("acc_1", "k", 1)); err == nil {
			t.Error("somebody was let in")
		}
	}
}

func TestRetryAfterIsTrueByTheRealClock(t *testing.T) {
	pool := open(t, database(t))
	earlier := &clock{time.Now().Add(-60 * time.Second)}
	ask(t, earlier.node(pool), perKey("acc_1", "k", 1))
	node := New(pool)
	refused := ask(t, node, perKey("acc_1", "k", 1))
	if refused.Admitted || refused.RetryAfter > time.Second {
		t.Fatalf("%+v", refused)
	}
	<-time.After(refused.RetryAfter)
	if !ask(t, node, perKey("acc_1", "k", 1)).Admitted {
		t.Errorf("there was no room after %v", refused.RetryAfter)
	}
}
