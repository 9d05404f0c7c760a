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
)

func TestDestroy(t *testing.T) {
	url, master := enginestest.Postgres(t), enginestest.MasterKey(t)
	here, there := newNode(t, url, master), newNode(t, url, master)

	t.Run("an owner whose keys were destroyed gets no key on any node, and holds up nobody", func(t *testing.T) {
		here.create(t, "conversation-gone")
		if err := here.Destroy(t.Context(), "conversation-gone"); err != nil {
			t.Fatal(err)
		}
		var others errgroup.Group
		for i := range 50 { // in the same groups
			others.Go(func() error {
				_, err := there.Create(t.Context(), fmt.Sprintf("conversation-beside-%d", i))
				return err
			})
			others.Go(func() error {
				if _, err := there.Create(t.Context(), "conversation-gone"); !errors.Is(err, keyring.ErrDestroyed) {
					return fmt.Errorf("create: %w", err)
				}
				return nil
			})
		}
		if err := others.Wait(); err != nil {
			t.Error(err)
		}
		if _, err := there.ForOwner(t.Context(), "conversation-gone"); !errors.Is(err, keyring.ErrDestroyed) {
			t.Errorf("for owner: %v", err)
		}
		if left := one[int](t, here.pool, `SELECT count(*) FROM data_keys WHERE owner = 'conversation-gone' AND wrapped IS NOT NULL`); left != 0 {
			t.Errorf("%d keys live", left)
		}
	})

	t.Run("an owner that never had a key gets none afterwards, of either kind", func(t *testing.T) {
		if err := here.Destroy(t.Context(), "acc_never"); err != nil {
			t.Fatal(err)
		}
		if _, err := here.ForOwner(t.Context(), "acc_never"); !errors.Is(err, keyring.ErrDestroyed) {
			t.Errorf("for owner: %v", err)
		}
		if _, err := here.Create(t.Context(), "acc_never"); !errors.Is(err, keyring.ErrDestroyed) {
			t.Errorf("create: %v", err)
		}
	})

	t.Run("thousands are destroyed together, and may be again", func(t *testing.T) {
		owners, texts := make([]string, 2500), make([]domain.Sealed, 2500)
		var makers errgroup.Group
		for i := range owners {
			owners[i] = fmt.Sprintf("conversation-many-%d", i)
			makers.Go(func() error {
				key, err := here.Create(t.Context(), owners[i])
				if err == nil {
					texts[i] = key.Seal([]byte("x"))
				}
				return err
			})
		}
		if err := makers.Wait(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := there.Destroy(t.Context(), owners...); err != nil {
				t.Fatal(err)
			}
		}
		_, erased, err := here.Open(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		for i := range erased {
			if !erased[i] {
				t.Fatalf("the text of %s opens", owners[i])
			}
		}
		named, err := here.Named(t.Context(), owners[:10]...)
		if err != nil || len(named) != 10 {
			t.Errorf("named %v, %v", named, err)
		}
	})

	t.Run("a key that is made while its owner's are destroyed does not outlive them", func(t *testing.T) {
		for round := range 20 {
			owner := fmt.Sprintf("conversation-race-%d", round)
			var racers sync.WaitGroup
			for i := range 16 {
				racers.Go(func() {
					node := []node{here, there}[i%2]
					if i%4 == 3 {
						if _, err := node.ForOwner(t.Context(), owner); err != nil && !errors.Is(err, keyring.ErrDestroyed) {
							t.Error(err)
						}
					} else if _, err := node.Create(t.Context(), owner); err != nil && !errors.Is(err, keyring.ErrDestroyed) {
						t.Error(err)
					}
				})
			}
			racers.Go(func() {
				if err := there.Destroy(t.Context(), owner); err != nil {
					t.Error(err)
				}
			})
			racers.Wait()
			if left := one[int](t, here.pool, `SELECT count(*) FROM data_keys WHERE owner = $1 AND wrapped IS NOT NULL`, owner); left != 0 {
				t.Fatalf("round %d: %d keys live on", round, left)
			}
		}
	})

	t.Run("the destruction waits for inserts that began before it, and the next ones see it", func(t *testing.T) {
		inserting, err := here.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = inserting.Rollback(context.WithoutCancel(t.Context())) }) // nothing to say after the commit
		// As Create does it, held still between its two statements.
		if _, err := inserting.Exec(t.Context(), `SELECT pg_advisory_xact_lock_shared($1, $2)`, 0x6e69646b, 1); err != nil {
			t.Fatal(err)
		}
		destroyed := make(chan error, 1)
		go func() { destroyed <- there.Destroy(t.Context(), "conversation-slow") }()
		waiting := func() bool {
			return one[bool](t, here.pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND NOT granted)`, 0x6e69646b)
		}
		for !waiting() {
			select {
			case err := <-destroyed:
				t.Fatalf("it did not wait: %v", err)
			case <-t.Context().Done():
				t.Fatal("it never came to the lock")
			default:
			}
		}
		const insert = `INSERT INTO data_keys (id, owner, wrapped) SELECT 'dk_slow', 'conversation-slow', 'x'
			WHERE NOT EXISTS (SELECT FROM destroyed_owners WHERE owner = 'conversation-slow')`
		if _, err := inserting.Exec(t.Context(), insert); err != nil {
			t.Fatal(err)
		}
		if err := inserting.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-destroyed; err != nil {
			t.Fatal(err)
		}
		if !one[bool](t, here.pool, `SELECT wrapped IS NULL FROM data_keys WHERE id = 'dk_slow'`) {
			t.Error("the key lives on")
		}
	})
}
