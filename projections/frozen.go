package projections

// This file stands beside the fold: it holds it still for a moment, so that a second one can catch up with it exactly.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Frozen is a transaction in which no checkpoint of the read models moves. Queries go on; commands wait.
type Frozen struct {
	tx pgx.Tx
	// Checkpoints are the last offsets that were folded.
	Checkpoints map[int32]int64
}

const (
	// freezePatience is how long the transactions under way may take until the fold stands still.
	freezePatience = 5 * time.Second
	// freezeLimit ends the transaction of one who holds the fold still and has vanished: every command waits for it. An
	// operator's pool would let it be for as long as its longest work takes.
	freezeLimit = 15 * time.Second
)

// Freeze holds the fold still until Release.
func (p *Postgres) Freeze(ctx context.Context) (*Frozen, error) {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("hold the fold still: %w", err)
	}
	frozen := &Frozen{tx: tx}
	if err := frozen.freeze(ctx, p.schema); err != nil {
		return nil, errors.Join(fmt.Errorf("hold the fold still: %w", err), frozen.Release(ctx))
	}
	return frozen, nil
}

func (f *Frozen) freeze(ctx context.Context, schema string) error {
	// The same lock as Prepare's: no node that starts may find the schema in between two names.
	const alone = `
		SELECT set_config('lock_timeout', $3, true), set_config('idle_in_transaction_session_timeout', $4, true),
			pg_advisory_xact_lock($1, hashtext($2))`
	_, err := f.tx.Exec(ctx, alone, int32(prepareLock), schema, fmt.Sprint(freezePatience.Milliseconds()), fmt.Sprint(freezeLimit.Milliseconds()))
	if err != nil {
		return err
	}
	// Not a lock on rows: a partition's first batch makes its row.
	if _, err := f.tx.Exec(ctx, `LOCK TABLE checkpoints IN EXCLUSIVE MODE`); err != nil {
		return err
	}
	f.Checkpoints, err = checkpoints(ctx, f.tx)
	return err
}

// Release lets the fold go on.
func (f *Frozen) Release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
	defer cancel()
	if err := f.tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return fmt.Errorf("let the fold go on: %w", err)
	}
	return nil
}

// Checkpoints reads how far every partition has been folded.
func (p *Postgres) Checkpoints(ctx context.Context) (map[int32]int64, error) {
	return checkpoints(ctx, p.pool)
}

func checkpoints(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) (map[int32]int64, error) {
	found := map[int32]int64{}
	rows, err := db.Query(ctx, `SELECT part, off FROM checkpoints`)
	if err == nil {
		var part int32
		var off int64
		_, err = pgx.ForEachRow(rows, []any{&part, &off}, func() error {
			found[part] = off
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	return found, nil
}

// Drop removes the schema and everything in it.
func (p *Postgres) Drop(ctx context.Context) error {
	if _, err := p.pool.Exec(ctx, `DROP SCHEMA IF EXISTS `+pgx.Identifier{p.schema}.Sanitize()+` CASCADE`); err != nil {
		return fmt.Errorf("drop the schema %s: %w", p.schema, err)
	}
	return nil
}

// Analyze has the planner look at what a bulk of commits has left in the tables.
func (p *Postgres) Analyze(ctx context.Context) error {
	const query = `SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r' ORDER BY relname`
	rows, err := p.pool.Query(ctx, query, p.schema)
	if err != nil {
		return fmt.Errorf("list the tables of %s: %w", p.schema, err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the tables of %s: %w", p.schema, err)
	}
	if len(tables) == 0 {
		return nil
	}
	if _, err := p.pool.Exec(ctx, `ANALYZE `+strings.Join(tables, ", ")); err != nil {
		return fmt.Errorf("analyze %s: %w", p.schema, err)
	}
	return nil
}
