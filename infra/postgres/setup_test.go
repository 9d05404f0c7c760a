package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
)

// open gives a pool on a database, closed before the database is dropped.
func open(t testing.TB, config postgres.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// migrated gives a pool on a fresh database with our schema.
func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := open(t, postgres.Config{URL: enginestest.Postgres(t), MaxConns: 8})
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

// run executes a statement that must work.
func run(t *testing.T, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// one reads a single value.
func one[T any](t *testing.T, pool *pgxpool.Pool, query string, args ...any) T {
	t.Helper()
	var value T
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
