package replay_test

// This file tests a fold that is made anew: where it begins, what it refuses, and that it is alone.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/infra/replay"
	"github.com/nidohq/nido/projections"
)

// world is a log and the read models that are served.
type world struct {
	url     string
	cluster *kafka.Cluster
	log     *kafka.Log
	pool    *pgxpool.Pool
	served  *projections.Postgres
}

func newWorld(t testing.TB, partitions int32) *world {
	t.Helper()
	brokers, prefix := enginestest.Kafka(t)
	w := &world{url: enginestest.Postgres(t)}
	var err error
	if w.cluster, err = kafka.Open(t.Context(), kafka.Config{Brokers: brokers, Prefix: prefix, Partitions: partitions, Logger: quiet()}); err != nil {
		t.Fatal(err)
	}
	if w.log, err = w.cluster.Log(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.log.Close(), w.cluster.Close()); err != nil {
			t.Error(err)
		}
	})
	w.pool = w.open(t, "read")
	if err := postgres.Migrate(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	w.served = projections.NewPostgres(w.pool, "read", quiet())
	if err := w.served.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (w *world) open(t testing.TB, schema string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: w.url, Schemas: []string{schema, "nido"}, AcquireTimeout: 10 * time.Second, Relaxed: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// append has accounts opened, each by a commit of its own.
func (w *world) append(t *testing.T, from, count int) {
	t.Helper()
	data, err := json.Marshal(account.Opened{Name: "n", Plan: account.Free})
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < from+count; i++ {
		_, err := w.log.Append(t.Context(), domain.Commit{
			Stream: account.Aggregate.Stream(fmt.Sprintf("acc_%d", i)), Command: fmt.Sprintf("cmd_%d", i), Account: fmt.Sprintf("acc_%d", i),
			Actor: domain.Actor{Kind: "operator", ID: "test"}, Time: time.Date(2026, 3, 14, 12, 0, i, 0, time.UTC),
			Events: []domain.Stored{{Type: "account.opened", Schema: 1, Data: data}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fold takes a projector to the log's ends.
func (w *world) fold(t testing.TB, target replay.Target) error {
	t.Helper()
	ends, err := w.cluster.Ends(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return replay.Fold{Cluster: w.cluster, Target: target, BatchRecords: 7}.To(t.Context(), ends)
}

func (w *world) rebuild(t *testing.T, said *bytes.Buffer) error {
	t.Helper()
	return replay.Postgres{
		Cluster: w.cluster, Pool: w.pool, Next: w.open(t, replay.NextSchema), Served: "read",
		Out: said, Progress: &progress.Progress{Out: said}, Logger: quiet(),
	}.Run(t.Context())
}

func TestAFoldGoesOnWhereItStandsAndRefusesAnotherLog(t *testing.T) {
	w := newWorld(t, 3)
	w.append(t, 0, 40)
	if err := w.fold(t, w.served); err != nil {
		t.Fatal(err)
	}
	w.append(t, 40, 10)
	if err := w.fold(t, w.served); err != nil {
		t.Fatal(err)
	}
	var accounts, parts int
	if err := w.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM checkpoints)`).Scan(&accounts, &parts); err != nil || accounts != 50 || parts != 3 {
		t.Fatalf("%d accounts from %d partitions, %v", accounts, parts, err)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE checkpoints SET hash = 'another' WHERE part = 1`); err != nil {
		t.Fatal(err)
	}
	if err := w.fold(t, w.served); !errors.Is(err, replay.ErrOtherLog) {
		t.Errorf("another record at the checkpoint: %v", err)
	}
}

func TestARebuildSwitchesToTheSameAnswersAndIsAlone(t *testing.T) {
	w := newWorld(t, 3)
	w.append(t, 0, 600)
	if err := w.fold(t, w.served); err != nil {
		t.Fatal(err)
	}
	// A rebuild that died behind its switch left this.
	if _, err := w.pool.Exec(t.Context(), `CREATE SCHEMA read_old; CREATE TABLE read_old.accounts (x int)`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE accounts SET name = 'damaged' WHERE account = 'acc_3'`); err != nil {
		t.Fatal(err)
	}
	other, err := w.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if _, err := other.Exec(t.Context(), `SELECT pg_advisory_lock(1852400751, 2)`); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := w.rebuild(t, &said); !errors.Is(err, replay.ErrBusy) {
		t.Errorf("two at a time: %v", err)
	}
	if _, err := other.Exec(t.Context(), `SELECT pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	if err := w.rebuild(t, &said); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "600 of 600 events (100 %)") {
		t.Errorf("said: %s", &said)
	}
	// The projector and its pool, which knew the old tables, go on with the new ones.
	w.append(t, 600, 5)
	if err := w.fold(t, w.served); err != nil {
		t.Fatal(err)
	}
	var accounts, damaged, schemas int
	const query = `SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM accounts WHERE name = 'damaged'),
		(SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'read\_%')`
	if err := w.pool.QueryRow(t.Context(), query).Scan(&accounts, &damaged, &schemas); err != nil || accounts != 605 || damaged != 0 || schemas != 0 {
		t.Errorf("%d accounts, %d of them damaged, %d schemas left, %v", accounts, damaged, schemas, err)
	}
}

func TestAProjectorThatWaitsForTheSwitchFoldsIntoTheNewTables(t *testing.T) {
	w := newWorld(t, 1)
	w.append(t, 0, 20)
	if err := w.fold(t, w.served); err != nil {
		t.Fatal(err)
	}
	nextPool := w.open(t, replay.NextSchema)
	next := projections.NewPostgres(nextPool, replay.NextSchema, quiet())
	if err := next.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.fold(t, next); err != nil {
		t.Fatal(err)
	}
	frozen, err := w.served.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.append(t, 20, 1)
	folded := make(chan error, 1)
	go func() { folded <- w.fold(t, w.served) }()
	awaitLock(t, w.pool)
	err = frozen.Commit(t.Context(), func(tx pgx.Tx) error { return next.Replace(t.Context(), tx, "read", "read_old") })
	if err != nil {
		t.Fatal(err)
	}
	if err := <-folded; err != nil {
		t.Fatal(err)
	}
	var inNew, inOld int
	if err := w.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM read.accounts), (SELECT count(*) FROM read_old.accounts)`).Scan(&inNew, &inOld); err != nil || inNew != 21 || inOld != 20 {
		t.Errorf("%d accounts in the new table and %d in the old one, %v", inNew, inOld, err)
	}

	// Where the two do not stand at the same records, there is no switch.
	again, err := w.served.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(t.Context(), `CREATE SCHEMA read_next; CREATE TABLE read_next.checkpoints AS SELECT part, off - 1 AS off, hash, clock FROM read.checkpoints`); err != nil {
		t.Fatal(err)
	}
	err = again.Commit(t.Context(), func(tx pgx.Tx) error { return next.Replace(t.Context(), tx, "read", "read_older") })
	if !errors.Is(err, projections.ErrNotEqual) {
		t.Errorf("unequal checkpoints: %v", err)
	}
	if err := again.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// awaitLock waits until a projector waits for the checkpoints.
func awaitLock(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for waiting := 0; waiting == 0; {
		// Of this database: those of other tests wait for locks, too.
		const query = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
		if err := pool.QueryRow(ctx, query).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatal("nobody waits for the checkpoints")
		}
	}
}
