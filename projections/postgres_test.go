package projections_test

// This file stands below the tests of the Postgres read side: a database with its tables, and logs to fold into them.

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

// noon is when every test's story begins.
var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// database is a test's own, with the schema nido and the read models in it.
type database struct {
	url       string
	pool      *pgxpool.Pool
	projector *projections.Postgres
}

func newDatabase(t testing.TB) *database {
	t.Helper()
	db := &database{url: enginestest.Postgres(t)}
	db.pool = db.open(t, "read")
	if err := postgres.Migrate(t.Context(), db.pool); err != nil {
		t.Fatal(err)
	}
	db.projector = db.prepared(t, db.openWith(t, postgres.Config{ByKey: true, Relaxed: true}), "read") // as a node's fold
	return db
}

// open opens one more pool, as another node would have it.
func (db *database) open(t testing.TB, schema string) *pgxpool.Pool {
	t.Helper()
	return db.openWith(t, postgres.Config{Schemas: []string{schema, "nido"}})
}

func (db *database) openWith(t testing.TB, config postgres.Config) *pgxpool.Pool {
	t.Helper()
	config.URL, config.AcquireTimeout = db.url, 10*time.Second
	pool, err := postgres.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// prepared makes a projector and its tables.
func (db *database) prepared(t testing.TB, pool *pgxpool.Pool, schema string) *projections.Postgres {
	t.Helper()
	projector := projections.NewPostgres(pool, schema, quiet())
	if err := projector.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return projector
}

// apply folds a batch, and then delivers it once more, which must change nothing.
func (db *database) apply(t testing.TB, batch ...domain.Recorded) {
	t.Helper()
	after := checkpoint(t, db.projector, batch[0].Partition)
	if err := db.projector.Apply(t.Context(), batch[0].Partition, after, batch); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db.pool, "read")
	if err := db.projector.Apply(t.Context(), batch[0].Partition, after, batch); !isFenced(err) {
		t.Fatalf("a batch that was delivered twice: %v, want ErrFenced", err)
	}
	if again := dump(t, db.pool, "read"); again != before {
		t.Fatalf("a batch that was delivered twice changed the tables from\n%s\nto\n%s", before, again)
	}
}

func checkpoint(t testing.TB, projector *projections.Postgres, partition int32) int64 {
	t.Helper()
	off, _, err := projector.Checkpoint(t.Context(), partition)
	if err != nil {
		t.Fatal(err)
	}
	return off
}

// log is one partition of a log in memory.
type log struct {
	partition int32
	records   []domain.Recorded
}

// add appends a commit and returns its record.
func (l *log) add(commit domain.Commit) domain.Recorded {
	record := domain.Recorded{Position: domain.Position{Partition: l.partition, Offset: int64(len(l.records))}, Commit: commit}
	hash := sha256.Sum256(fmt.Append(nil, record.Position, commit))
	record.Hash = hash[:]
	l.records = append(l.records, record)
	return record
}

// commit builds what the write side would append.
func commit[C, E, S any](aggregate domain.Aggregate[C, E, S], name string, base domain.Version, command string, at time.Time, events ...any) domain.Commit {
	typed := make([]E, len(events))
	for i, event := range events {
		typed[i] = event.(E)
	}
	stored, err := aggregate.Codec.Encode(typed)
	if err != nil {
		panic(err)
	}
	return domain.Commit{
		Stream: aggregate.Stream(name), Base: base, Command: command, Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "k1"},
		Time: at, Events: stored,
	}
}

// dump writes every row of every table of a schema as text.
func dump(t testing.TB, pool *pgxpool.Pool, schema string) string {
	t.Helper()
	tables := query[string](t, pool, `SELECT tablename::text FROM pg_tables WHERE schemaname = $1 ORDER BY 1`, schema)
	var all strings.Builder
	for _, table := range tables {
		name := pgx.Identifier{schema, table}.Sanitize()
		rows := query[string](t, pool, `SELECT row(t.*)::text FROM `+name+` t ORDER BY row(t.*)::text COLLATE "C"`)
		fmt.Fprintf(&all, "%s\n\t%s\n", table, strings.Join(rows, "\n\t"))
	}
	return all.String()
}

// query reads one column.
func query[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func execute(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// soon bounds what a test waits for.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// capture is a tracer that keeps the last statement, so that a test can explain what a question really runs.
type capture struct {
	sql  string
	args []any
}

// TraceQueryStart implements pgx.QueryTracer.
func (c *capture) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.sql, c.args = data.SQL, data.Args
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (c *capture) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// tapped opens a pool whose statements are captured.
func (db *database) tapped(t testing.TB, tracer *capture) *pgxpool.Pool {
	t.Helper()
	config := db.pool.Config()
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
