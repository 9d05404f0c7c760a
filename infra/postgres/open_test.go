package postgres_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
)

func TestOpen(t *testing.T) {
	t.Run("a connection has our settings", func(t *testing.T) {
		pool := open(t, postgres.Config{
			URL: enginestest.Postgres(t), Schemas: []string{"read_next", "nido"}, ApplicationName: "nido rebuild",
			StatementTimeout: 1500 * time.Millisecond, LockTimeout: 250 * time.Millisecond,
		})
		for name, want := range map[string]string{
			"search_path": `"read_next", "nido"`, "TimeZone": "UTC", "application_name": "nido rebuild",
			"statement_timeout": "1500ms", "lock_timeout": "250ms", "idle_in_transaction_session_timeout": "30s",
		} {
			got := one[string](t, pool, `SELECT current_setting($1)`, name)
			if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	})

	t.Run("a slow statement is ended by the server", func(t *testing.T) {
		pool := open(t, postgres.Config{URL: enginestest.Postgres(t), StatementTimeout: 50 * time.Millisecond})
		_, err := pool.Exec(t.Context(), `SELECT pg_sleep(60)`)
		if failure, ok := errors.AsType[*pgconn.PgError](err); !ok || failure.Code != "57014" {
			t.Errorf("got %v, want query_canceled", err)
		}
	})

	t.Run("a statement that waits for a lock gives up", func(t *testing.T) {
		pool := open(t, postgres.Config{URL: enginestest.Postgres(t), LockTimeout: 50 * time.Millisecond})
		run(t, pool, `CREATE TABLE public.things (id int)`)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
		if _, err := tx.Exec(t.Context(), `LOCK TABLE public.things`); err != nil {
			t.Fatal(err)
		}
		_, err = pool.Exec(t.Context(), `INSERT INTO public.things VALUES (1)`)
		if failure, ok := errors.AsType[*pgconn.PgError](err); !ok || failure.Code != "55P03" {
			t.Errorf("got %v, want lock_not_available", err)
		}
	})

	t.Run("a server that is down is reported at once", func(t *testing.T) {
		listener := listen(t)
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := postgres.Open(t.Context(), postgres.Config{URL: "postgres://nido:secret@" + listener.Addr().String() + "/nido"})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})

	t.Run("a server that accepts and says nothing is given up", func(t *testing.T) {
		address := listen(t).Addr().String() // the kernel accepts, nobody answers
		began := time.Now()
		_, err := postgres.Open(t.Context(), postgres.Config{
			URL: "postgres://nido@" + address + "/nido?sslmode=disable", ConnectTimeout: 100 * time.Millisecond,
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})

	t.Run("whoever waits for a connection of an exhausted pool is told soon, however patient", func(t *testing.T) {
		pool := open(t, postgres.Config{URL: enginestest.Postgres(t), MaxConns: 1, AcquireTimeout: 50 * time.Millisecond})
		held, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = pool.Exec(t.Context(), `SELECT 1`)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 2*time.Second {
			t.Errorf("got %v after %v, want a deadline", err, time.Since(began))
		}
		held.Release()
		// The limit is the wait's, not the statement's.
		if _, err := pool.Exec(t.Context(), `SELECT pg_sleep(0.2)`); err != nil {
			t.Errorf("a statement longer than the limit: %v", err)
		}
	})

	t.Run("statements that are prepared follow a schema that is renamed into the path", func(t *testing.T) {
		pool := open(t, postgres.Config{URL: enginestest.Postgres(t), MaxConns: 2})
		run(t, pool, `CREATE SCHEMA read`)
		run(t, pool, `CREATE SCHEMA read_next`)
		run(t, pool, `CREATE TABLE read.answers (value text)`)
		run(t, pool, `CREATE TABLE read_next.answers (id bigint, value text)`) // another shape, as a rebuild may bring
		run(t, pool, `INSERT INTO read.answers VALUES ('old')`)
		run(t, pool, `INSERT INTO read_next.answers VALUES (1, 'new')`)
		ask := func() string { return one[string](t, pool, `SELECT value FROM answers`) }
		for range 8 { // often enough for a generic plan
			if got := ask(); got != "old" {
				t.Fatalf("got %q before the switch", got)
			}
		}
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = tx.Exec(t.Context(), `ALTER SCHEMA read RENAME TO read_old; ALTER SCHEMA read_next RENAME TO read`)
		if err := errors.Join(err, tx.Commit(t.Context())); err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != "new" {
			t.Errorf("got %q after the switch", got)
		}
	})
}

func TestConfig(t *testing.T) {
	t.Run("all faults are reported at once, and no password", func(t *testing.T) {
		err := postgres.Config{
			URL: "postgres://nido:secret@host:notaport/x", MaxConns: -1, Schemas: []string{""}, LockTimeout: -1, ConnectTimeout: 1,
		}.Validate()
		for _, part := range []string{"URL", "MaxConns", "Schemas", "LockTimeout", "ConnectTimeout"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s is not in %v", part, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Error("the password is in the error")
		}
	})
	t.Run("an empty URL is refused", func(t *testing.T) {
		if err := (postgres.Config{}).Validate(); err == nil {
			t.Error("no error")
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // one test closes it before
	return listener
}
