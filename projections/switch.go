package projections

// This file stands where a fold that was made anew takes the place of the one that served.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNotEqual: the two folds do not stand at the same records.
var ErrNotEqual = errors.New("the checkpoints differ")

// Commit does something while the fold is held still, and lets it go on behind it. Nothing has happened on an error.
func (f *Frozen) Commit(ctx context.Context, do func(tx pgx.Tx) error) error {
	if err := do(f.tx); err != nil {
		return err
	}
	if err := f.tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit the switch: %w", err)
	}
	return nil
}

// Replace puts the schema of this projector in the place of one that is served, which is called old from then on. Tables
// are found by their schema's name, so that every connection sees the new ones with its next statement, and a projector
// that was waiting for the old checkpoints compares and sets the new ones. Both must stand at the same records.
func (p *Postgres) Replace(ctx context.Context, tx pgx.Tx, served, old string) error {
	name := func(schema, table string) string { return pgx.Identifier{schema, table}.Sanitize() }
	equal := `
		SELECT count(*) FROM ` + name(served, "checkpoints") + ` s FULL JOIN ` + name(p.schema, "checkpoints") + ` n ON n.part = s.part
		WHERE (s.off, s.hash, s.clock) IS DISTINCT FROM (n.off, n.hash, n.clock)`
	var differ int
	if err := tx.QueryRow(ctx, equal).Scan(&differ); err != nil {
		return fmt.Errorf("compare the checkpoints: %w", err)
	}
	if differ > 0 {
		return fmt.Errorf("%w in %d partitions", ErrNotEqual, differ)
	}
	for _, rename := range [][2]string{{served, old}, {p.schema, served}} {
		_, err := tx.Exec(ctx, `ALTER SCHEMA `+pgx.Identifier{rename[0]}.Sanitize()+` RENAME TO `+pgx.Identifier{rename[1]}.Sanitize())
		if err != nil {
			return fmt.Errorf("rename the schema %s: %w", rename[0], err)
		}
	}
	return nil
}

// Forgo gives up the tables' safety, for a fold that is thrown away behind its use: they go by the write-ahead log, and
// are empty after a crash.
func (p *Postgres) Forgo(ctx context.Context) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT relname::text FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'`, p.schema)
		if err != nil {
			return fmt.Errorf("list the tables of %s: %w", p.schema, err)
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("list the tables of %s: %w", p.schema, err)
		}
		for _, table := range tables {
			if _, err := tx.Exec(ctx, `ALTER TABLE `+pgx.Identifier{p.schema, table}.Sanitize()+` SET UNLOGGED`); err != nil {
				return fmt.Errorf("take %s.%s off the write-ahead log: %w", p.schema, table, err)
			}
		}
		return nil
	})
}

// AwaitUnused waits until no transaction uses a table of the schema. One that was replaced gets no new ones, so that it
// can then be dropped without standing in anybody's way.
func (p *Postgres) AwaitUnused(ctx context.Context) error {
	const query = `
		SELECT count(*) FROM pg_locks l JOIN pg_class t ON t.oid = l.relation
		WHERE t.relnamespace = to_regnamespace($1) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.pid <> pg_backend_pid()`
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		var used int
		if err := p.pool.QueryRow(ctx, query, pgx.Identifier{p.schema}.Sanitize()).Scan(&used); err != nil {
			return fmt.Errorf("see who uses the schema %s: %w", p.schema, err)
		}
		if used == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until nobody uses the schema %s: %w", p.schema, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
