package postgres

// This file stands at start: stores that are being restored are not served.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrRestoring: a restore into these stores was begun and has not finished. A part of a log looks like a whole one.
var ErrRestoring = errors.New("a restore into these stores has not finished")

// Restore is what the stores came from.
type Restore struct {
	Backup     string
	Taken      time.Time
	TablesDone bool
	Finished   bool
}

// RestoreOf returns the restore that the stores came from, and whether there was one.
func RestoreOf(ctx context.Context, db Querier) (restore Restore, found bool, err error) {
	var known bool // not in a database that no node of this version has started on
	if err := db.QueryRow(ctx, `SELECT to_regclass('nido.restores') IS NOT NULL`).Scan(&known); err != nil || !known {
		return Restore{}, false, wrapLook(err)
	}
	const query = `SELECT backup, taken_at, tables_at IS NOT NULL, finished_at IS NOT NULL FROM nido.restores`
	err = db.QueryRow(ctx, query).Scan(&restore.Backup, &restore.Taken, &restore.TablesDone, &restore.Finished)
	if errors.Is(err, pgx.ErrNoRows) {
		return Restore{}, false, nil
	}
	return restore, err == nil, wrapLook(err)
}

func wrapLook(err error) error {
	if err != nil {
		return fmt.Errorf("look for a restore: %w", err)
	}
	return nil
}

// Restored refuses stores whose restore has not finished.
func Restored(ctx context.Context, db Querier) error {
	restore, found, err := RestoreOf(ctx, db)
	if err != nil {
		return err
	}
	if found && !restore.Finished {
		return fmt.Errorf("%w: give `nido restore` again with the backup of %s", ErrRestoring, restore.Taken.UTC().Format(time.RFC3339))
	}
	return nil
}
