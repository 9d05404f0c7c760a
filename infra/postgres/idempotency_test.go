package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
)

// requests is a node's view of the idempotency store, with one request spelled out.
type requests struct {
	*postgres.Idempotency
	boots *postgres.Boots
	pool  *pgxpool.Pool
}

func newRequests(t *testing.T) requests {
	t.Helper()
	pool := migrated(t)
	keys, err := keyring.New(t.Context(), pool, enginestest.MasterKey(t))
	if err != nil {
		t.Fatal(err)
	}
	boots, err := postgres.NewBoots(pool)
	if err != nil {
		t.Fatal(err)
	}
	return requests{postgres.NewIdempotency(pool, keys), boots, pool}
}

// reset empties the store and lets two boots live.
func (r requests) reset(t *testing.T) {
	t.Helper()
	run(t, r.pool, `TRUNCATE idempotency, boots`)
	for _, boot := range []string{"boot-1", "boot-2"} {
		if err := r.boots.Beat(t.Context(), boot); err != nil {
			t.Fatal(err)
		}
	}
}

// begin begins a run of the request that the tests are about.
func (r requests) begin(ctx context.Context, boot, fingerprint string) (postgres.Attempt, postgres.Run, error) {
	run := postgres.Run{Account: "acc_1", Caller: "key_1", Key: "idem-1", Boot: boot, Proposed: commands.NewInputs(time.Now())}
	attempt, err := r.Begin(ctx, run, []byte(fingerprint))
	return attempt, run, err
}

// fresh begins a request that nobody has begun.
func (r requests) fresh(t *testing.T, boot, fingerprint string) postgres.Run {
	t.Helper()
	attempt, run, err := r.begin(t.Context(), boot, fingerprint)
	if err != nil || !attempt.Fresh || attempt.Seed != run.Proposed.Seed || attempt.Replay != nil {
		t.Fatalf("not a fresh attempt: %+v, %v", attempt, err)
	}
	return run
}

// again begins a run that must go on with the inputs of an earlier one.
func (r requests) again(t *testing.T, boot string, first postgres.Run) postgres.Run {
	t.Helper()
	attempt, run, err := r.begin(t.Context(), boot, "a")
	if err != nil || attempt.Fresh || attempt.Replay != nil {
		t.Fatalf("not taken over: %+v, %v", attempt, err)
	}
	if attempt.Seed != first.Proposed.Seed || attempt.Seed == run.Proposed.Seed {
		t.Errorf("the inputs are not those of the first attempt: %+v, want %+v", attempt, first)
	}
	return run
}

// kill makes a boot one that has not beaten for longer than any may.
func (r requests) kill(t *testing.T, boot string) {
	t.Helper()
	run(t, r.pool, `UPDATE boots SET beaten_at = now() - interval '31 seconds' WHERE id = $1`, boot)
}

func TestIdempotency(t *testing.T) {
	r := newRequests(t)
	created := postgres.Response{
		Status: 201, ContentType: "application/json", Headers: map[string]string{"Location": "/api/agents/agt_1"},
		Body: []byte("{\"name\":\"Ma\u00f1ana\"}\n\x00"),
	}

	t.Run("of fifty who begin the same request at once one is fresh and the rest hear that it is in flight", func(t *testing.T) {
		r.reset(t)
		var fresh, inFlight atomic.Int32
		racers, ctx := errgroup.WithContext(t.Context())
		for i := range 50 {
			racers.Go(func() error {
				attempt, _, err := r.begin(ctx, fmt.Sprintf("boot-%d", i%2+1), "a")
				switch {
				case err == nil && attempt.Fresh:
					fresh.Add(1)
				case errors.Is(err, postgres.ErrInFlight):
					inFlight.Add(1)
				default:
					return fmt.Errorf("%+v: %w", attempt, err)
				}
				return nil
			})
		}
		if err := racers.Wait(); err != nil {
			t.Fatal(err)
		}
		if fresh.Load() != 1 || inFlight.Load() != 49 {
			t.Errorf("%d fresh, %d in flight", fresh.Load(), inFlight.Load())
		}
	})

	t.Run("an answer that a dead node gave can be forgotten, but not the request that came after it", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		replayed, _, err := r.begin(t.Context(), "boot-2", "a")
		if err != nil || replayed.Replay == nil {
			t.Fatalf("%+v %v", replayed, err)
		}
		forget := func() {
			t.Helper()
			if err := r.ForgetAnswer(t.Context(), first, *replayed.Replay); err != nil {
				t.Fatal(err)
			}
		}
		forget()
		second := r.fresh(t, "boot-2", "a")
		forget()
		if _, _, err := r.begin(t.Context(), "boot-1", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Errorf("the next request was forgotten with it: %v", err)
		}
		if err := r.Finish(t.Context(), second, created); err != nil {
			t.Fatal(err)
		}
		forget()
		if again, _, err := r.begin(t.Context(), "boot-1", "a"); err != nil || again.Replay == nil {
			t.Errorf("the next request's answer was forgotten with it: %v", err)
		}
	})

	t.Run("a finished request gives the same answer again, on any node", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		for _, boot := range []string{"boot-1", "boot-2"} {
			attempt, _, err := r.begin(t.Context(), boot, "a")
			if err != nil || attempt.Replay == nil || attempt.Fresh || attempt.Seed != first.Proposed.Seed {
				t.Fatalf("no replay on %s: %+v, %v", boot, attempt, err)
			}
			if attempt.Replay.Began.IsZero() {
				t.Error("the answer has no name")
			}
			attempt.Replay.Began = time.Time{}
			if !reflect.DeepEqual(*attempt.Replay, created) {
				t.Errorf("got %+v, want %+v", *attempt.Replay, created)
			}
		}
	})

	t.Run("the same key for another request is refused, in flight and finished", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if _, _, err := r.begin(t.Context(), "boot-2", "b"); !errors.Is(err, postgres.ErrFingerprint) {
			t.Errorf("got %v in flight", err)
		}
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.begin(t.Context(), "boot-1", "b"); !errors.Is(err, postgres.ErrFingerprint) {
			t.Errorf("got %v when finished", err)
		}
	})

	t.Run("accounts, callers and keys do not meet", func(t *testing.T) {
		r.reset(t)
		for _, who := range [][3]string{{"acc_1", "key_1", "x"}, {"acc_2", "key_1", "x"}, {"acc_1", "key_2", "x"}, {"acc_1", "key_1", "y"}} {
			run := postgres.Run{Account: who[0], Caller: who[1], Key: who[2], Boot: "boot-1", Proposed: commands.NewInputs(time.Now())}
			attempt, err := r.Begin(t.Context(), run, []byte("a"))
			if err != nil || !attempt.Fresh {
				t.Errorf("%v: %+v, %v", who, attempt, err)
			}
		}
	})

	t.Run("a dead boot's request is taken over with its seed and time, by one of many", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if _, _, err := r.begin(t.Context(), "boot-2", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Fatalf("got %v while its boot lives", err)
		}
		r.kill(t, "boot-1")
		var taken atomic.Int32
		var taker atomic.Pointer[postgres.Run]
		racers, ctx := errgroup.WithContext(t.Context())
		for range 20 {
			racers.Go(func() error {
				attempt, run, err := r.begin(ctx, "boot-2", "a")
				if errors.Is(err, postgres.ErrInFlight) {
					return nil
				}
				if err != nil || attempt.Fresh || attempt.Seed != first.Proposed.Seed {
					return fmt.Errorf("%+v: %w", attempt, err)
				}
				taken.Add(1)
				taker.Store(&run)
				return nil
			})
		}
		if err := racers.Wait(); err != nil {
			t.Fatal(err)
		}
		if taken.Load() != 1 {
			t.Errorf("taken over %d times", taken.Load())
		}
		if err := r.Finish(t.Context(), first, created); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("the dead boot could finish: %v", err)
		}
		if err := r.Finish(t.Context(), *taker.Load(), created); err != nil {
			t.Error(err)
		}
	})

	t.Run("a boot that was swept is dead at once", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.boots.Remove(t.Context(), "boot-1"); err != nil {
			t.Fatal(err)
		}
		r.again(t, "boot-2", first)
	})

	t.Run("a boot does not take its own work from itself, even if it forgot to beat", func(t *testing.T) {
		r.reset(t)
		r.fresh(t, "boot-1", "a")
		r.kill(t, "boot-1")
		if _, _, err := r.begin(t.Context(), "boot-1", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("an abandoned request is free for a retry with the same seed", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Abandon(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		r.again(t, "boot-2", first)
	})

	t.Run("a run that was not told what came of its end ends no other by trying again", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Abandon(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		second := r.again(t, "boot-1", first)
		stranger := postgres.Run{Account: "acc_1", Caller: "key_1", Key: "idem-1", Boot: "boot-1", Proposed: commands.NewInputs(time.Now())}
		for _, other := range []postgres.Run{first, stranger} {
			ends := map[string]error{
				"finished": r.Finish(t.Context(), other, created), "abandoned": r.Abandon(t.Context(), other), "forgotten": r.Forget(t.Context(), other),
			}
			for how, err := range ends {
				if !errors.Is(err, postgres.ErrTakenOver) {
					t.Errorf("%s by a run that does not have it: %v", how, err)
				}
			}
		}
		if _, _, err := r.begin(t.Context(), "boot-2", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Errorf("not in flight any more: %v", err)
		}
		if err := r.Finish(t.Context(), second, created); err != nil {
			t.Error(err)
		}
	})

	t.Run("a finished request can be neither finished again nor abandoned, but forgotten", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		if err := r.Finish(t.Context(), first, postgres.Response{Status: 500}); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("finished twice: %v", err)
		}
		if err := r.Abandon(t.Context(), first); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("abandoned: %v", err)
		}
		if err := r.Forget(t.Context(), first); err != nil {
			t.Error(err)
		}
		r.fresh(t, "boot-2", "b")
	})

	t.Run("an expired request counts as absent, whatever it was, and is swept", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		left := one[time.Duration](t, r.pool, `SELECT expires - now() FROM idempotency`)
		if left < 23*time.Hour+59*time.Minute || left > 24*time.Hour {
			t.Errorf("it is kept for %v", left)
		}
		run(t, r.pool, `UPDATE idempotency SET expires = now() - interval '1 second'`)
		if second := r.fresh(t, "boot-2", "b"); second.Proposed.Seed == first.Proposed.Seed {
			t.Error("it has the old seed")
		}
		if swept, err := r.Sweep(t.Context()); err != nil || swept != 0 {
			t.Errorf("swept %d living rows, %v", swept, err)
		}
		run(t, r.pool, `UPDATE idempotency SET expires = now() - interval '1 second'`)
		if swept, err := r.Sweep(t.Context()); err != nil || swept != 1 {
			t.Errorf("swept %d rows, %v", swept, err)
		}
	})

	t.Run("neither key nor seed nor answer nor fingerprint lies open in Postgres", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "fingerprint")
		if err := r.Finish(t.Context(), first, created); err != nil {
			t.Fatal(err)
		}
		row := one[[]byte](t, r.pool, `SELECT convert_to(account, 'UTF8') || convert_to(caller, 'UTF8') || key_hash || fingerprint || seed || response FROM idempotency`)
		if !bytes.Contains(row, []byte("acc_1")) {
			t.Fatal("the search itself does not work")
		}
		for _, secret := range [][]byte{[]byte("idem-1"), first.Proposed.Seed[:], []byte("name"), []byte("Location"), []byte("fingerprint")} {
			if bytes.Contains(row, secret) {
				t.Errorf("found %q", secret)
			}
		}
	})
}
