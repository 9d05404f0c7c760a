package projections_test

// This file tests how writers learn what became of their commits, on this node and on others.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

// follow runs a node's Progress until the test ends.
func follow(t testing.TB, pool *pgxpool.Pool) *projections.Progress {
	t.Helper()
	progress := projections.NewProgress(pool, "read", quiet())
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := progress.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return progress
}

// plans is a log in which one account moves between plans; of every three commits the last loses.
func plans(n int) *log {
	var story log
	story.add(opened("a", "c0", 0))
	version := domain.Version(1)
	for i := 1; i < n; i++ {
		base := version
		if i%3 == 2 {
			base--
		} else {
			version++
		}
		story.add(moved("a", fmt.Sprintf("c%d", i), base, []account.Plan{account.Pro, account.Free}[i%2]))
	}
	return &story
}

func lost(i int64) bool { return i%3 == 2 }

func fold(t testing.TB, db *database, story *log, n int) {
	t.Helper()
	after := checkpoint(t, db.projector, 0)
	if err := db.projector.Apply(t.Context(), 0, after, story.records[after+1:][:n]); err != nil {
		t.Fatal(err)
	}
}

// briefly bounds a wait that must not come to anything; it is long enough for the checkpoints to be read twice.
func briefly(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func wantOutcome(t testing.TB, progress *projections.Progress, off int64) {
	t.Helper()
	accepted, err := progress.Wait(soon(t), domain.Position{Offset: off})
	if err != nil || accepted == lost(off) {
		t.Errorf("offset %d: accepted %v, %v", off, accepted, err)
	}
}

func TestAWriterLearnsWhatBecameOfItsCommit(t *testing.T) {
	db := newDatabase(t)
	story := plans(30)
	here, there := follow(t, db.pool), follow(t, db.open(t, "read"))
	for off := range int64(12) {
		var waiting sync.WaitGroup
		for _, progress := range []*projections.Progress{here, there} {
			waiting.Go(func() { wantOutcome(t, progress, off) })
		}
		fold(t, db, story, 1)
		waiting.Wait()
	}
	for off := range int64(12) { // whoever comes later is answered from memory
		wantOutcome(t, here, off)
	}
	wantOutcome(t, follow(t, db.pool), 5) // and a node that starts, from the tables
	if off := there.Checkpoint(0); off != 11 {
		t.Errorf("the checkpoint is %d, want 11", off)
	}
	if all, err := there.Checkpoints(t.Context()); err != nil || len(all) != 1 || all[0] != 11 {
		t.Errorf("the checkpoints are %v, %v", all, err)
	}
}

func TestWaitWakesWithinMilliseconds(t *testing.T) {
	db := newDatabase(t)
	story := plans(200)
	progress := follow(t, db.open(t, "read"))
	fold(t, db, story, 1)
	wantOutcome(t, progress, 0)
	var took []time.Duration
	for off := int64(1); off < 100; off++ {
		done := make(chan time.Time, 1)
		go func() {
			wantOutcome(t, progress, off)
			done <- time.Now()
		}()
		fold(t, db, story, 1)
		committed := time.Now()
		took = append(took, (<-done).Sub(committed))
	}
	slices.Sort(took)
	t.Logf("behind the commit: p50 %v, p90 %v, max %v", took[len(took)/2], took[len(took)*9/10], took[len(took)-1])
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("p50 %v, want a few milliseconds", median)
	}
}

func TestALostNotificationIsMadeUpFor(t *testing.T) {
	db := newDatabase(t)
	story := plans(30)
	progress := follow(t, db.pool)
	fold(t, db, story, 3)
	wantOutcome(t, progress, 2)

	// The fold goes on, and nobody says so.
	execute(t, db.pool, `UPDATE checkpoints SET off = 8`)
	execute(t, db.pool, `INSERT INTO rejections VALUES (0, 5), (0, 8)`)
	began := time.Now()
	var waiting sync.WaitGroup
	for off := int64(3); off <= 8; off++ {
		waiting.Go(func() { wantOutcome(t, progress, off) })
	}
	waiting.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}

	// The listening connection is lost; what happens before it is back is not announced to it.
	killed := query[int32](t, db.pool, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pg_terminate_backend(pid)`)
	if len(killed) != 1 {
		t.Fatalf("killed %v, want the one listening connection", killed)
	}
	execute(t, db.pool, `UPDATE checkpoints SET off = 9`)
	wantOutcome(t, progress, 9)
	for limit := soon(t); ; { // until it listens again
		if again := query[int32](t, db.pool, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`); len(again) == 1 {
			break
		}
		if limit.Err() != nil {
			t.Fatal("it never listened again")
		}
	}
	wantOutcome(t, progress, 9)
}

func TestMoreRejectionsThanAnAnnouncementHoldsAreLookedUp(t *testing.T) {
	db := newDatabase(t)
	progress := follow(t, db.pool)
	var story log
	story.add(opened("a", "c0", 0))
	for i := range 1000 {
		story.add(opened("a", fmt.Sprintf("again%d", i), 0))
	}
	var waiting sync.WaitGroup
	for _, off := range []int64{0, 1, 500, 1000} {
		waiting.Go(func() {
			accepted, err := progress.Wait(soon(t), domain.Position{Offset: off})
			if err != nil || accepted != (off == 0) {
				t.Errorf("offset %d: %v, %v", off, accepted, err)
			}
		})
	}
	fold(t, db, &story, len(story.records))
	waiting.Wait()
	rejected, err := progress.Rejected(soon(t), 0, 0, 1000)
	if err != nil || len(rejected) != 1000 || rejected[0] != 1 {
		t.Errorf("%d rejected, %v, want 1000 from 1 on", len(rejected), err)
	}
}

func TestRejectedWaitsUntilTheFoldHasPassed(t *testing.T) {
	db := newDatabase(t)
	story := plans(30)
	progress := follow(t, db.pool)
	got := make(chan []int64, 1)
	go func() {
		rejected, err := progress.Rejected(soon(t), 0, 2, 9)
		if err != nil {
			t.Error(err)
		}
		got <- rejected
	}()
	fold(t, db, story, 5)
	wantOutcome(t, progress, 4)
	select {
	case early := <-got:
		t.Errorf("answered %v before the fold had passed offset 9", early)
	default:
	}
	fold(t, db, story, 8)
	if rejected := <-got; !slices.Equal(rejected, []int64{2, 5, 8}) {
		t.Errorf("rejected %v, want [2 5 8]", rejected)
	}
	again, err := follow(t, db.pool).Rejected(soon(t), 0, 4, 12)
	if err != nil || !slices.Equal(again, []int64{5, 8, 11}) {
		t.Errorf("from the tables: %v, %v, want [5 8 11]", again, err)
	}
}

func TestNobodyIsToldOfWhatIsBeingFoldedAnew(t *testing.T) {
	db := newDatabase(t)
	story := plans(30)
	progress := follow(t, db.pool)
	fold(t, db, story, 20)
	wantOutcome(t, progress, 19)

	// The tables are replaced under it: what it remembers is still true, but the rejections behind it are gone.
	execute(t, db.pool, `TRUNCATE checkpoints, streams, commits, rejections, accounts`)
	if rejected, err := follow(t, db.pool).Rejected(briefly(t), 0, 0, 19); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new node was told %v, %v", rejected, err)
	}
	if accepted, err := progress.Wait(briefly(t), domain.Position{Offset: 20}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was told %v, %v of what is not folded yet", accepted, err)
	}
	if off := progress.Checkpoint(0); off != -1 {
		t.Errorf("the checkpoint is %d, want it to have followed the tables back", off)
	}
	fold(t, db, story, 30)
	wantOutcome(t, progress, 20)
	wantOutcome(t, progress, 2)

	// Another generation's announcements are not ours.
	execute(t, db.pool, `SELECT pg_notify('nido_progress', '{"s":"read_next","p":0,"f":30,"l":99,"r":[]}')`)
	if accepted, err := progress.Wait(briefly(t), domain.Position{Offset: 40}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was told %v, %v by another generation", accepted, err)
	}
}

func TestTenThousandWaitersAreAllTold(t *testing.T) {
	const n = 10_000
	db := newDatabase(t)
	progress := follow(t, db.pool)
	story := plans(n)
	var waiting, entered sync.WaitGroup
	for off := range int64(n) {
		entered.Add(1)
		waiting.Go(func() {
			if off%10 == 9 { // some give up
				limited, cancel := context.WithCancel(t.Context())
				cancel()
				if _, err := progress.Wait(limited, domain.Position{Offset: n + off}); !errors.Is(err, context.Canceled) {
					t.Errorf("gave up with %v", err)
				}
			}
			entered.Done()
			wantOutcome(t, progress, off)
		})
	}
	entered.Wait()
	began := time.Now()
	for range n / 500 {
		fold(t, db, story, 500)
	}
	waiting.Wait()
	t.Logf("folded and told in %v", time.Since(began))
}

func TestWhoeverWaitsHearsThatTheTablesCannotBeAsked(t *testing.T) {
	db := newDatabase(t)
	story := plans(3)
	progress := follow(t, db.pool)
	fold(t, db, story, 1)
	wantOutcome(t, progress, 0)
	rename := func(from, to string) {
		if _, err := db.pool.Exec(t.Context(), `ALTER TABLE read.`+from+` RENAME TO `+to); err != nil {
			t.Fatal(err)
		}
	}
	rename("checkpoints", "hidden")
	began := time.Now()
	if _, err := progress.Wait(soon(t), domain.Position{Offset: 1}); !errors.Is(err, projections.ErrBlind) || time.Since(began) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	rename("hidden", "checkpoints")
	fold(t, db, story, 1)
	wantOutcome(t, progress, 1) // and everything is as before once they can
}
