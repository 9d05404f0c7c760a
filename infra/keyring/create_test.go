package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
)

func TestCreate(t *testing.T) {
	here := newNode(t, enginestest.Postgres(t), enginestest.MasterKey(t))

	t.Run("a hundred at once make few transactions and a hundred keys", func(t *testing.T) {
		var mu sync.Mutex
		keys := map[string]domain.Sealed{}
		var start sync.WaitGroup
		start.Add(100)
		callers, ctx := errgroup.WithContext(t.Context())
		for i := range 100 {
			callers.Go(func() error {
				start.Done()
				start.Wait()
				key, err := here.Create(ctx, fmt.Sprintf("conversation-%d", i))
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				keys[key.ID()] = key.Seal([]byte(key.ID()))
				return nil
			})
		}
		if err := callers.Wait(); err != nil {
			t.Fatal(err)
		}
		if len(keys) != 100 {
			t.Errorf("%d keys", len(keys))
		}
		for id, sealed := range keys {
			if plain, _, err := here.Open(t.Context(), []domain.Sealed{sealed}); err != nil || string(plain[0]) != id {
				t.Fatalf("%s: %q, %v", id, plain, err)
			}
		}
		transactions := one[int](t, here.pool, `SELECT count(DISTINCT xmin::text) FROM data_keys`)
		t.Logf("%d transactions", transactions)
		if transactions > 20 {
			t.Errorf("%d transactions", transactions)
		}
	})

	t.Run("keys that are made ahead are made by one transaction, in order", func(t *testing.T) {
		before := one[int](t, here.pool, `SELECT count(*) FROM data_keys`)
		owners := make([]string, 20)
		for i := range owners {
			owners[i] = fmt.Sprintf("conversation-ahead-%d", i)
		}
		ids, err := here.CreateAll(t.Context(), owners...)
		if err != nil || len(ids) != len(owners) {
			t.Fatal(ids, err)
		}
		for i, id := range ids {
			if owner := one[string](t, here.pool, `SELECT owner FROM data_keys WHERE id = $1`, id); owner != owners[i] {
				t.Errorf("key %d is that of %s", i, owner)
			}
		}
		if made := one[int](t, here.pool, `SELECT count(*) FROM data_keys`) - before; made != len(owners) {
			t.Errorf("%d keys", made)
		}
		if n := one[int](t, here.pool, `SELECT count(DISTINCT xmin::text) FROM data_keys WHERE owner LIKE 'conversation-ahead-%'`); n != 1 {
			t.Errorf("%d transactions", n)
		}
		if err := here.Destroy(t.Context(), "conversation-ahead-3"); err != nil {
			t.Fatal(err)
		}
		if _, err := here.CreateAll(t.Context(), "conversation-ahead-2", "conversation-ahead-3"); !errors.Is(err, keyring.ErrDestroyed) {
			t.Errorf("for an owner whose keys were destroyed: %v", err)
		}
	})

	t.Run("an owner that Postgres cannot keep is refused before it spoils a group", func(t *testing.T) {
		for _, owner := range []string{"", "a\x00b", "a\xff"} {
			if _, err := here.Create(t.Context(), owner); err == nil {
				t.Errorf("%q was taken", owner)
			}
			if _, err := here.ForOwner(t.Context(), owner); err == nil {
				t.Errorf("%q was taken by ForOwner", owner)
			}
		}
	})

	t.Run("it is durable even where the server would not wait", func(t *testing.T) {
		// A deferred trigger runs at the commit and sees with which durability that commit happens.
		for _, statement := range []string{
			`CREATE TABLE public.durability (setting text)`,
			`CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN INSERT INTO public.durability VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`,
			`CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON nido.data_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()`,
			`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`,
		} {
			if _, err := here.pool.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		here.pool.Reset() // new connections see the database's setting
		if setting := one[string](t, here.pool, `SELECT current_setting('synchronous_commit')`); setting != "off" {
			t.Fatalf("outside it is %s", setting)
		}
		here.create(t, "conversation-durable")
		if _, err := here.ForOwner(t.Context(), "acc_durable"); err != nil {
			t.Fatal(err)
		}
		if err := here.Destroy(t.Context(), "conversation-durable"); err != nil {
			t.Fatal(err)
		}
		got := one[[]string](t, here.pool, `SELECT array_agg(setting) FROM public.durability`)
		if fmt.Sprint(got) != "[on on on]" {
			t.Errorf("the commits were %v", got)
		}
	})

	t.Run("a caller that gives up does not keep those behind it from their keys", func(t *testing.T) {
		lock, err := here.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }) // nothing to say after the commit
		if _, err := lock.Exec(t.Context(), `LOCK TABLE data_keys`); err != nil {
			t.Fatal(err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := here.Create(impatient, "conversation-a"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		patient := make(chan error, 1)
		go func() {
			_, err := here.Create(t.Context(), "conversation-b")
			patient <- err
		}()
		if err := lock.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-patient; err != nil {
			t.Errorf("the patient one got %v", err)
		}
	})
}

func TestForOwner(t *testing.T) {
	url, master := enginestest.Postgres(t), enginestest.MasterKey(t)
	nodes := []node{newNode(t, url, master), newNode(t, url, master)}

	t.Run("two nodes that race for an owner's first key get the same one, and it stays", func(t *testing.T) {
		for round := range 10 {
			owner := fmt.Sprintf("acc_%d", round)
			var mu sync.Mutex
			ids := map[string]domain.Sealed{}
			racers, ctx := errgroup.WithContext(t.Context())
			for i := range 16 {
				racers.Go(func() error {
					key, err := nodes[i%2].ForOwner(ctx, owner)
					if err != nil {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					ids[key.ID()] = key.Seal([]byte("x"))
					return nil
				})
			}
			if err := racers.Wait(); err != nil {
				t.Fatal(err)
			}
			if len(ids) != 1 {
				t.Fatalf("%d keys for one owner", len(ids))
			}
			key, err := nodes[0].ForOwner(t.Context(), owner)
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := key.Open(ids[key.ID()]); err != nil || string(plain) != "x" {
				t.Errorf("got %q, %v", plain, err)
			}
		}
	})

	t.Run("a key made by Create is not the owner's own", func(t *testing.T) {
		created := nodes[0].create(t, "acc_created")
		own, err := nodes[0].ForOwner(t.Context(), "acc_created")
		if err != nil || own.ID() == created.ID() {
			t.Errorf("got %v, %v", own, err)
		}
	})

	t.Run("a destroyed owner gets no new key", func(t *testing.T) {
		if _, err := nodes[0].ForOwner(t.Context(), "acc_erased"); err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].Destroy(t.Context(), "acc_erased"); err != nil {
			t.Fatal(err)
		}
		if _, err := nodes[1].ForOwner(t.Context(), "acc_erased"); !errors.Is(err, keyring.ErrDestroyed) {
			t.Errorf("got %v", err)
		}
	})
}

// BenchmarkCreate measures keys that are created at the same time, as the first messages of new conversations do.
func BenchmarkCreate(b *testing.B) {
	pool, err := postgres.Open(b.Context(), postgres.Config{URL: enginestest.Postgres(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	if err := postgres.Migrate(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	keys, err := keyring.New(b.Context(), pool, enginestest.MasterKey(b))
	if err != nil {
		b.Fatal(err)
	}
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("%d at once per core", callers), func(b *testing.B) {
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := keys.Create(b.Context(), "conversation-1"); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
