package postgres_test

// This file tests the ledger of erasures, and what becomes of answers that are to be forgotten.

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

func TestErasures(t *testing.T) {
	pool := migrated(t)
	if err := projections.NewPostgres(pool, "read", slog.New(slog.DiscardHandler)).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, pool, `INSERT INTO read.checkpoints (part, off, hash, clock) VALUES (0, 9, '', now()), (1, 9, '', now()), (2, -1, '', now())`)
	asked := func(id, stream string, part, off int, withAccount bool) {
		run(t, pool, `INSERT INTO read.erasures (stream, erasure, account, id_mac, turn, with_account, part, off, at) VALUES ($1, $2, 'acc_1', '', '', $5, $3, $4, now())`,
			stream, id, part, off, withAccount)
	}
	ledger := postgres.NewErasures(pool)
	claim := func(accounts bool) (ids []string) {
		t.Helper()
		claimed, err := ledger.Claim(t.Context(), accounts, 10, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range claimed {
			ids = append(ids, one.ID)
		}
		slices.Sort(ids)
		return ids
	}
	takeUp := func(want int) {
		t.Helper()
		if taken, err := ledger.TakeUp(t.Context()); err != nil || taken != want {
			t.Fatalf("%d were taken up, %v; want %d", taken, err, want)
		}
	}

	asked("era_1", "conversation-agt_1.a", 0, 3, false)
	asked("era_2", "conversation-agt_1.b", 1, 2, false)
	asked("era_3", "account-acc_1", 1, 4, false)
	asked("era_3", "conversation-agt_1.c", 0, 7, true)
	backlog := func(want int64) {
		t.Helper()
		found, err := ledger.Backlog(t.Context())
		if err != nil || found.Open != want || (want > 0) != (found.Oldest >= time.Hour) || found.Oldest > 2*time.Hour {
			t.Errorf("the backlog is %+v, %v; want %d, an hour old", found, err, want)
		}
	}
	run(t, pool, `UPDATE read.erasures SET at = at - interval '1 hour'`)
	backlog(3) // of which nobody has taken up any
	takeUp(3)
	takeUp(0)
	backlog(3)

	t.Run("what is claimed is nobody else's, and what goes with its account is no work of its own", func(t *testing.T) {
		if ids := claim(false); !slices.Equal(ids, []string{"era_1", "era_2"}) {
			t.Errorf("claimed %v", ids)
		}
		if ids := claim(false); len(ids) > 0 {
			t.Errorf("claimed twice: %v", ids)
		}
		if ids := claim(true); !slices.Equal(ids, []string{"era_3"}) {
			t.Errorf("claimed %v", ids)
		}
	})
	t.Run("what its claimant has left is another's, and what failed waits a moment", func(t *testing.T) {
		if err := ledger.Keep(t.Context(), -time.Second, "era_1"); err != nil {
			t.Fatal(err)
		}
		if ids := claim(false); !slices.Equal(ids, []string{"era_1"}) {
			t.Errorf("claimed %v", ids)
		}
		if err := ledger.Failed(t.Context(), errors.New("away"), "era_1"); err != nil {
			t.Fatal(err)
		}
		if wait := one[float64](t, pool, `SELECT extract(epoch FROM claimed_until - now())::float8 FROM nido.erasures WHERE id = 'era_1' AND error = 'away'`); wait < 1 || wait > 30 {
			t.Errorf("it waits %v s", wait)
		}
	})
	t.Run("what is done stays so, and is told", func(t *testing.T) {
		for range 2 {
			if err := errors.Join(ledger.Destroyed(t.Context(), "era_2"), ledger.Done(t.Context(), "era_2")); err != nil {
				t.Fatal(err)
			}
		}
		questions := projections.NewErasures(pool)
		if found, err := questions.Get(t.Context(), "acc_1", "era_2"); err != nil || found.DoneAt == nil || found.Stream != "conversation-agt_1.b" {
			t.Errorf("%+v, %v", found, err)
		}
		if found, err := questions.Get(t.Context(), "acc_1", "era_3"); err != nil || found.DoneAt != nil || found.Stream != "account-acc_1" {
			t.Errorf("%+v, %v", found, err)
		}
		if _, err := questions.Get(t.Context(), "acc_2", "era_2"); !errors.Is(err, projections.ErrNotFound) {
			t.Errorf("another account got %v", err)
		}
		open, err := ledger.Open(t.Context())
		if err != nil || len(open) != 2 {
			t.Errorf("open are %v, %v", open, err)
		}
		if _, err := pool.Exec(t.Context(), `UPDATE nido.erasures SET claimed_until = '-infinity'`); err != nil {
			t.Fatal(err)
		}
		if ids := claim(false); !slices.Equal(ids, []string{"era_1"}) {
			t.Errorf("claimed %v", ids)
		}
	})
	t.Run("a restore has everything erased again", func(t *testing.T) {
		if err := ledger.Again(t.Context()); err != nil {
			t.Fatal(err)
		}
		takeUp(3)
		if ids := claim(false); !slices.Equal(ids, []string{"era_1", "era_2"}) {
			t.Errorf("claimed %v", ids)
		}
	})
	t.Run("what is done is in nobody's way", func(t *testing.T) {
		if err := ledger.Done(t.Context(), "era_1", "era_2"); err != nil {
			t.Fatal(err)
		}
		backlog(1)
		if err := ledger.Done(t.Context(), "era_3"); err != nil {
			t.Fatal(err)
		}
		backlog(0)
	})
}

func TestAnAnswerGoesWithItsConversation(t *testing.T) {
	pool := migrated(t)
	keys, err := keyring.New(t.Context(), pool, enginestest.MasterKey(t))
	if err != nil {
		t.Fatal(err)
	}
	boots, err := postgres.NewBoots(pool)
	if err != nil {
		t.Fatal(err)
	}
	if err := boots.Beat(t.Context(), "boot-1"); err != nil {
		t.Fatal(err)
	}
	store, ledger := postgres.NewIdempotency(pool, keys), postgres.NewErasures(pool)
	begin := func(key string) (postgres.Attempt, postgres.Run, error) {
		run := postgres.Run{Account: "acc_1", Caller: "key_1", Key: key, Boot: "boot-1", Proposed: commands.NewInputs(time.Now())}
		attempt, err := store.Begin(t.Context(), run, []byte("a"))
		return attempt, run, err
	}
	finish := func(key, owner string) {
		t.Helper()
		_, run, err := begin(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Finish(t.Context(), run, postgres.Response{Status: 200, Body: []byte("dijo " + key), Owner: owner}); err != nil {
			t.Fatal(err)
		}
	}
	for i, owner := range []string{"conversation-a", "conversation-b", ""} {
		finish(fmt.Sprint("key", i), owner)
	}
	if attempt, _, err := begin("key0"); err != nil || attempt.Replay == nil || string(attempt.Replay.Body) != "dijo key0" {
		t.Fatalf("%+v, %v", attempt, err)
	}

	if err := keys.Destroy(t.Context(), "conversation-a"); err != nil {
		t.Fatal(err)
	}
	for round, forget := range []func() error{
		func() error { return nil }, // unreadable as soon as the key is gone …
		func() error { return ledger.ForgetConversations(t.Context(), []string{"conversation-a"}) }, // … and then not even there
	} {
		if err := forget(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := begin("key0"); !errors.Is(err, postgres.ErrErased) {
			t.Errorf("round %d: a repetition got %v", round, err)
		}
	}
	if left := one[int](t, pool, `SELECT length(response) FROM idempotency WHERE owner = 'conversation-a'`); left != 0 {
		t.Errorf("%d bytes are left", left)
	}
	finish("late", "conversation-a") // the turn's answer came in after the erasure
	if _, _, err := begin("late"); !errors.Is(err, postgres.ErrErased) {
		t.Errorf("a late answer: %v", err)
	}
	for _, key := range []string{"key1", "key2"} {
		if attempt, _, err := begin(key); err != nil || attempt.Replay == nil || string(attempt.Replay.Body) != "dijo "+key {
			t.Errorf("%s: %+v, %v", key, attempt, err)
		}
	}
	if err := ledger.ForgetAccount(t.Context(), "acc_1"); err != nil {
		t.Fatal(err)
	}
	if left := one[int](t, pool, `SELECT count(*) FROM idempotency`); left != 0 {
		t.Errorf("%d rows are left", left)
	}
}
