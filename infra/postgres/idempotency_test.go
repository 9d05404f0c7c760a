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

func (r requests) begin(ctx context.Context, boot, fingerprint string) (postgres.Attempt, commands.Inputs, error) {
	proposed := commands.NewInputs(time.Now())
	attempt, err := r.Begin(ctx, "acc_1", "key_1", "idem-1", []byte(fingerprint), boot, proposed)
	return attempt, proposed, err
}

// fresh begins a request that nobody has begun.
func (r requests) fresh(t *testing.T, boot, fingerprint string) commands.Inputs {
	t.Helper()
	attempt, proposed, err := r.begin(t.Context(), boot, fingerprint)
	if err != nil || !attempt.Fresh || attempt.Seed != proposed.Seed || attempt.Replay != nil {
		t.Fatalf("not a fresh attempt: %+v, %v", attempt, err)
	}
	return proposed
}

// again begins a request that must go on with the inputs of an earlier attempt.
func (r requests) again(t *testing.T, boot string, first commands.Inputs) {
	t.Helper()
	attempt, proposed, err := r.begin(t.Context(), boot, "a")
	if err != nil || attempt.Fresh || attempt.Replay != nil {
		t.Fatalf("not taken over: %+v, %v", attempt, err)
	}
	if attempt.Seed != first.Seed || attempt.Seed == proposed.Seed {
		t.Errorf("the inputs are not those of the first attempt: %+v, want %+v", attempt, first)
	}
}

func (r requests) finish(ctx context.Context, boot string, response postgres.Response) error {
	return r.Finish(ctx, "acc_1", "key_1", "idem-1", boot, response)
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
		r.fresh(t, "boot-1", "a")
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		replayed, _, err := r.begin(t.Context(), "boot-2", "a")
		if err != nil || replayed.Replay == nil {
			t.Fatalf("%+v %v", replayed, err)
		}
		forget := func() {
			t.Helper()
			if err := r.ForgetAnswer(t.Context(), "acc_1", "key_1", "idem-1", *replayed.Replay); err != nil {
				t.Fatal(err)
			}
		}
		forget()
		r.fresh(t, "boot-2", "a")
		forget()
		if _, _, err := r.begin(t.Context(), "boot-1", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Errorf("the next request was forgotten with it: %v", err)
		}
		if err := r.finish(t.Context(), "boot-2", created); err != nil {
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
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		for _, boot := range []string{"boot-1", "boot-2"} {
			attempt, _, err := r.begin(t.Context(), boot, "a")
			if err != nil || attempt.Replay == nil || attempt.Fresh || attempt.Seed != first.Seed {
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
		r.fresh(t, "boot-1", "a")
		if _, _, err := r.begin(t.Context(), "boot-2", "b"); !errors.Is(err, postgres.ErrFingerprint) {
			t.Errorf("got %v in flight", err)
		}
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.begin(t.Context(), "boot-1", "b"); !errors.Is(err, postgres.ErrFingerprint) {
			t.Errorf("got %v when finished", err)
		}
	})

	t.Run("accounts, callers and keys do not meet", func(t *testing.T) {
		r.reset(t)
		for _, who := range [][3]string{{"acc_1", "key_1", "x"}, {"acc_2", "key_1", "x"}, {"acc_1", "key_2", "x"}, {"acc_1", "key_1", "y"}} {
			attempt, err := r.Begin(t.Context(), who[0], who[1], who[2], []byte("a"), "boot-1", commands.NewInputs(time.Now()))
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
		racers, ctx := errgroup.WithContext(t.Context())
		for range 20 {
			racers.Go(func() error {
				attempt, _, err := r.begin(ctx, "boot-2", "a")
				if errors.Is(err, postgres.ErrInFlight) {
					return nil
				}
				if err != nil || attempt.Fresh || attempt.Seed != first.Seed {
					return fmt.Errorf("%+v: %w", attempt, err)
				}
				taken.Add(1)
				return nil
			})
		}
		if err := racers.Wait(); err != nil {
			t.Fatal(err)
		}
		if taken.Load() != 1 {
			t.Errorf("taken over %d times", taken.Load())
		}
		if err := r.finish(t.Context(), "boot-1", created); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("the dead boot could finish: %v", err)
		}
		if err := r.finish(t.Context(), "boot-2", created); err != nil {
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
		if err := r.Abandon(t.Context(), "acc_1", "key_1", "idem-1", "boot-2"); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("another boot could abandon it: %v", err)
		}
		if err := r.Abandon(t.Context(), "acc_1", "key_1", "idem-1", "boot-1"); err != nil {
			t.Fatal(err)
		}
		r.again(t, "boot-2", first)
	})

	t.Run("a run that was not told withdraws its own request, and not the one that another run of its boot has since", func(t *testing.T) {
		r.reset(t)
		withdraw := func(proposed commands.Inputs, want bool) {
			t.Helper()
			if had, err := r.Withdraw(t.Context(), "acc_1", "key_1", "idem-1", "boot-1", proposed); err != nil || had != want {
				t.Errorf("had it: %t, want %t, %v", had, want, err)
			}
		}
		first := r.fresh(t, "boot-1", "a")
		withdraw(commands.NewInputs(time.Now()), false)
		if _, _, err := r.begin(t.Context(), "boot-1", "a"); !errors.Is(err, postgres.ErrInFlight) {
			t.Errorf("not in flight any more: %v", err)
		}
		withdraw(first, true)
		attempt, second, err := r.begin(t.Context(), "boot-1", "a")
		if err != nil || attempt.Seed != first.Seed {
			t.Fatalf("not gone on with: %+v, %v", attempt, err)
		}
		withdraw(first, false) // the row has the first run's seed, and is the second's
		withdraw(second, true)
		r.again(t, "boot-2", first)
	})

	t.Run("a finished request can be neither finished again nor abandoned", func(t *testing.T) {
		r.reset(t)
		r.fresh(t, "boot-1", "a")
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		if err := r.finish(t.Context(), "boot-1", postgres.Response{Status: 500}); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("finished twice: %v", err)
		}
		if err := r.Abandon(t.Context(), "acc_1", "key_1", "idem-1", "boot-1"); !errors.Is(err, postgres.ErrTakenOver) {
			t.Errorf("abandoned: %v", err)
		}
	})

	t.Run("an expired request counts as absent, whatever it was, and is swept", func(t *testing.T) {
		r.reset(t)
		first := r.fresh(t, "boot-1", "a")
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		left := one[time.Duration](t, r.pool, `SELECT expires - now() FROM idempotency`)
		if left < 23*time.Hour+59*time.Minute || left > 24*time.Hour {
			t.Errorf("it is kept for %v", left)
		}
		run(t, r.pool, `UPDATE idempotency SET expires = now() - interval '1 second'`)
		if second := r.fresh(t, "boot-2", "b"); second.Seed == first.Seed {
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
		if err := r.finish(t.Context(), "boot-1", created); err != nil {
			t.Fatal(err)
		}
		row := one[[]byte](t, r.pool, `SELECT convert_to(account, 'UTF8') || convert_to(caller, 'UTF8') || key_hash || fingerprint || seed || response FROM idempotency`)
		if !bytes.Contains(row, []byte("acc_1")) {
			t.Fatal("the search itself does not work")
		}
		for _, secret := range [][]byte{[]byte("idem-1"), first.Seed[:], []byte("name"), []byte("Location"), []byte("fingerprint")} {
			if bytes.Contains(row, secret) {
				t.Errorf("found %q", secret)
			}
		}
	})
}
