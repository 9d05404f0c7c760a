package backup

// This file is a restore from its beginning to its end. It goes with the direction of the story.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

var (
	// ErrNotEmpty: there is something where the backup is to go.
	ErrNotEmpty = errors.New("a restore needs empty stores")
	// ErrOtherRestore: another backup's restore has not finished here.
	ErrOtherRestore = errors.New("the restore of another backup has not finished in these stores; empty them first")
)

// Restore puts a backup into empty stores.
type Restore struct {
	Dir    string
	Prefix string // of the log's topics
	Log    *kafka.Target
	Pool   *pgxpool.Pool
	// ClickHouse may hold other databases, but nothing in its own.
	ClickHouse *clickhouse.Client
	MasterKey  []byte
	Patience   time.Duration
	Out        io.Writer // is told what was done
	Progress   *progress.Progress
	Logger     *slog.Logger
}

// Run restores. Until it has finished, no node starts on these stores; where it was interrupted it goes on.
func (r Restore) Run(ctx context.Context) (*Manifest, error) {
	ctx, stop := r.Progress.Watch(ctx, r.Patience)
	defer stop()
	keys, err := keyring.ForBackup(r.MasterKey)
	if err != nil {
		return nil, err
	}
	m, err := Load(r.Dir, keys)
	if err != nil {
		return nil, err
	}
	if m.Prefix != r.Prefix {
		return nil, fmt.Errorf("the backup's topics are %s.events and so on, and its records say so: set NIDO_KAFKA_PREFIX to %q", m.Prefix, m.Prefix)
	}
	from, err := openFolder(r.Dir, keys)
	if err != nil {
		return nil, err
	}
	alone, err := postgres.HoldAlone(ctx, r.Pool, ErrBusy, postgres.BackupLock)
	if err != nil {
		return nil, err
	}
	defer alone()
	going, done, err := r.look(ctx, m)
	if err != nil {
		return nil, err
	}
	if done {
		_, _ = fmt.Fprintln(r.Out, "this backup has been restored here already; nothing was done")
		return m, nil
	}
	if err := (Check{Progress: r.Progress}).files(ctx, from, m); err != nil { // before anything has been written
		return nil, err
	}
	if !going {
		if err := r.begin(ctx, m); err != nil {
			return nil, err
		}
	}
	return m, r.fill(ctx, from, m)
}

// look refuses stores that are not empty, and says whether this backup's restore was begun here before, and whether it has
// finished, even if whoever gave the command did not hear of it.
func (r Restore) look(ctx context.Context, m *Manifest) (going, done bool, err error) {
	before, found, err := postgres.RestoreOf(ctx, r.Pool)
	switch {
	case err != nil:
		return false, false, err
	case found && !before.Finished && before.Backup == m.ID:
		return true, false, nil
	case found && before.Backup == m.ID:
		return false, true, nil
	case found && !before.Finished:
		return false, false, fmt.Errorf("%w: it is of %s", ErrOtherRestore, before.Taken.UTC().Format(time.RFC3339))
	}
	var occupied []string
	for _, look := range []func(context.Context) ([]string, error){r.Log.Occupied, r.postgresHolds, r.ClickHouse.Holds} {
		found, err := look(ctx)
		if err != nil {
			return false, false, err
		}
		occupied = append(occupied, found...)
	}
	if len(occupied) > 0 {
		return false, false, fmt.Errorf("%w: %s", ErrNotEmpty, strings.Join(occupied, "; "))
	}
	return false, false, nil
}

// postgresHolds lists the tables that have rows, of the schemas that are ours.
func (r Restore) postgresHolds(ctx context.Context) (occupied []string, err error) {
	const tablesQuery = `
		SELECT schemaname::text AS schema, tablename::text AS name FROM pg_tables
		WHERE schemaname = 'nido' AND tablename <> 'goose_db_version'
		   OR schemaname = 'read' AND tablename = 'checkpoints' ORDER BY 1, 2`
	found, err := r.Pool.Query(ctx, tablesQuery)
	if err != nil {
		return nil, fmt.Errorf("look into postgres: %w", err)
	}
	tables, err := pgx.CollectRows(found, pgx.RowToStructByName[struct{ Schema, Name string }])
	if err != nil {
		return nil, fmt.Errorf("look into postgres: %w", err)
	}
	for _, table := range tables {
		var rows bool
		query := `SELECT EXISTS (SELECT FROM ` + pgx.Identifier{table.Schema, table.Name}.Sanitize() + `)`
		if err := r.Pool.QueryRow(ctx, query).Scan(&rows); err != nil {
			return nil, fmt.Errorf("look into %s.%s: %w", table.Schema, table.Name, err)
		}
		if rows {
			occupied = append(occupied, fmt.Sprintf("postgres has rows in %s.%s", table.Schema, table.Name))
		}
	}
	return occupied, nil
}

// begin leaves the mark by which nodes know that these stores are not whole.
func (r Restore) begin(ctx context.Context, m *Manifest) error {
	if err := postgres.Migrate(ctx, r.Pool); err != nil {
		return err
	}
	const query = `INSERT INTO nido.restores (backup, taken_at) VALUES ($1, $2)`
	if _, err := r.Pool.Exec(ctx, query, m.ID, m.Taken); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return nil
}

// fill does what has not been done yet.
func (r Restore) fill(ctx context.Context, from folder, m *Manifest) error {
	found, err := r.log(ctx, from, m)
	if err != nil {
		return err
	}
	restored, _, err := postgres.RestoreOf(ctx, r.Pool)
	if err != nil {
		return err
	}
	if !restored.TablesDone {
		if err := fillTables(ctx, r.Pool, from, m, r.Progress); err != nil {
			return err
		}
	}
	keys, err := keyring.New(ctx, r.Pool, r.MasterKey)
	if err != nil {
		return err
	}
	if err := r.destroyKeys(ctx, found, keys); err != nil {
		return err
	}
	gone, err := r.gone(ctx, found, keys)
	if err != nil {
		return err
	}
	if err := r.requests(ctx, from, m, gone); err != nil {
		return err
	}
	const done = `UPDATE nido.restores SET finished_at = now()`
	if _, err := r.Pool.Exec(ctx, done); err != nil {
		return fmt.Errorf("note that the restore has finished: %w", err)
	}
	return nil
}

// requests puts the request log back; rows of what has been erased come back without what was said.
func (r Restore) requests(ctx context.Context, from folder, m *Manifest, gone func(row) bool) error {
	if err := r.ClickHouse.CreateDatabase(ctx, r.ClickHouse.Database); err != nil {
		return err
	}
	if err := projections.NewRequests(r.ClickHouse, r.ClickHouse.Database).Prepare(ctx); err != nil {
		return err
	}
	there, err := digests(ctx, r.ClickHouse, r.ClickHouse.Database)
	if err != nil {
		return fmt.Errorf("restore the request log: %w", err)
	}
	done := map[string]Day{}
	for _, day := range there {
		done[day.Day] = day
	}
	rows := int64(0)
	for _, count := range m.requestFiles() {
		rows += count
	}
	r.Progress.Begin("restoring the request log", "rows", rows)
	into, err := r.columns(ctx)
	if err != nil {
		return fmt.Errorf("restore the request log: %w", err)
	}
	blank := int64(0)
	for _, day := range m.Requests.Days {
		if done[day.Day].Digest == day.Digest { // by a restore that was interrupted
			continue
		}
		emptied, err := r.fillRows(ctx, from, into, day.File, day.Rows, gone)
		if err != nil {
			return fmt.Errorf("restore the request log of %s: %w", day.Day, err)
		}
		blank += emptied
	}
	if gaps := m.Requests.Gaps; gaps != nil {
		none := func(row) bool { return false }
		if _, err := r.fillRows(ctx, from, target{insert: insertGaps}, gaps.File, gaps.Rows, none); err != nil {
			return fmt.Errorf("restore the request log's gaps: %w", err)
		}
	}
	r.Progress.End()
	if blank > 0 {
		_, _ = fmt.Fprintf(r.Out, "%d requests came back without what was said: it has been erased\n", blank)
	}
	return nil
}
