package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/postgres"
)

func TestKeyUses(t *testing.T) {
	pool := migrated(t)
	at := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	silent := slog.New(slog.DiscardHandler)
	usedAt := func(id string) time.Time {
		t.Helper()
		return one[time.Time](t, pool, `SELECT used_at FROM key_uses WHERE public_id = $1`, id)
	}
	flush := func(uses *postgres.KeyUses) {
		t.Helper()
		if err := uses.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("the latest use of two nodes stays", func(t *testing.T) {
		here, there := postgres.NewKeyUses(pool, silent), postgres.NewKeyUses(pool, silent)
		here.Used("k1", at.Add(2*time.Second))
		here.Used("k1", at.Add(time.Second))
		there.Used("k1", at)
		flush(here)
		flush(there)
		flush(there) // has nothing more to say
		if got := usedAt("k1"); !got.Equal(at.Add(2 * time.Second)) {
			t.Errorf("used at %v", got)
		}
	})

	t.Run("two nodes that write the same keys at once do not wait for each other", func(t *testing.T) {
		var writers sync.WaitGroup
		for node := range 2 {
			uses := postgres.NewKeyUses(pool, silent)
			writers.Go(func() {
				for round := range 20 {
					for i := range 500 {
						uses.Used(fmt.Sprint("many", i), at.Add(time.Duration(round*2+node)*time.Second))
					}
					if err := uses.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		if n := one[int](t, pool, `SELECT count(*) FROM key_uses WHERE used_at = $1`, at.Add(39*time.Second)); n != 500 {
			t.Errorf("%d keys have their latest use", n)
		}
	})

	t.Run("what could not be written is written later", func(t *testing.T) {
		uses := postgres.NewKeyUses(pool, silent)
		uses.Used("k2", at)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := uses.Flush(gone); err == nil {
			t.Fatal("written without a connection")
		}
		uses.Used("k2", at.Add(-time.Hour)) // late news
		flush(uses)
		if got := usedAt("k2"); !got.Equal(at) {
			t.Errorf("used at %v", got)
		}
	})

	t.Run("a node that stops writes once more", func(t *testing.T) {
		var logged bytes.Buffer
		uses := postgres.NewKeyUses(pool, slog.New(slog.NewTextHandler(&logged, nil)))
		uses.Used("k3", at)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := uses.Run(ended); err != nil || logged.Len() > 0 {
			t.Errorf("%v %s", err, logged.String())
		}
		if got := usedAt("k3"); !got.Equal(at) {
			t.Errorf("used at %v", got)
		}
	})
}
