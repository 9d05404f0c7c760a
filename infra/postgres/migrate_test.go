package postgres_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
)

func TestMigrate(t *testing.T) {
	t.Run("nodes that start at once migrate once", func(t *testing.T) {
		url := enginestest.Postgres(t)
		nodes, ctx := errgroup.WithContext(t.Context())
		for range 5 {
			pool := open(t, postgres.Config{URL: url, MaxConns: 1})
			nodes.Go(func() error { return postgres.Migrate(ctx, pool) })
		}
		if err := nodes.Wait(); err != nil {
			t.Fatal(err)
		}
		pool := open(t, postgres.Config{URL: url})
		files := one[int](t, pool, `SELECT count(DISTINCT version_id) FROM goose_db_version WHERE version_id > 0`)
		if rows := one[int](t, pool, `SELECT count(*) FROM goose_db_version WHERE version_id > 0`); rows != files || files < 8 {
			t.Errorf("%d migrations were applied %d times", files, rows)
		}
	})

	t.Run("everything is in the schema nido, even beside read models", func(t *testing.T) {
		pool := open(t, postgres.Config{URL: enginestest.Postgres(t)})
		run(t, pool, `CREATE SCHEMA read`)
		if err := postgres.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		got := one[[]string](t, pool, `
			SELECT array_agg(schemaname || '.' || tablename ORDER BY tablename) FROM pg_tables
			WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
		want := []string{"nido.admission_counters", "nido.boots", "nido.data_keys", "nido.deprecated_uses", "nido.destroyed_owners", "nido.erasure_marks", "nido.erasures", "nido.generations", "nido.goose_db_version", "nido.idempotency", "nido.key_uses", "nido.life", "nido.master_check", "nido.restores", "nido.turn_text", "nido.turn_waiters"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})

	t.Run("every table says what it is for", func(t *testing.T) {
		pool := migrated(t)
		silent := one[[]string](t, pool, `
			SELECT COALESCE(array_agg(c.relname), '{}') FROM pg_class c
			WHERE c.relnamespace = 'nido'::regnamespace AND c.relkind = 'r' AND c.relname <> 'goose_db_version'
			  AND obj_description(c.oid, 'pg_class') IS NULL`)
		if len(silent) > 0 {
			t.Errorf("no comment on %v", silent)
		}
	})

	t.Run("a database that a newer binary migrated is refused", func(t *testing.T) {
		pool := migrated(t)
		run(t, pool, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`)
		if err := postgres.Migrate(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("got %v", err)
		}
	})
}
