package postgres

// This file stands before every question of a request: what tells one life of a server from all others.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

var (
	errStandby  = errors.New("the server is a standby")
	errNameless = errors.New("the life of the server has lost its name")
)

// identify tells one life of a server from all others: by when its postmaster started, and by a row that recovery from a
// crash deletes. Postgres recovers from the death of a single backend under the same postmaster, and commits of the fold
// that were not on disk are gone then. No connection outlives that, so what is asked on one is asked of the life that this
// tells of. The table's number tells apart what was put back from a dump. A standby follows its primary at whatever
// distance, and so is never proven. Without the row the answer is empty: that server is nobody's.
func identify(ctx context.Context, conn *pgx.Conn) (string, error) {
	const server = `SELECT extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery()`
	const life = `SELECT tableoid || ' ' || name FROM nido.life`
	var started, name string
	var standby bool
	if err := conn.QueryRow(ctx, server).Scan(&started, &standby); err != nil {
		return "", fmt.Errorf("ask which server it is: %w", err)
	}
	if standby { // unlogged tables cannot be read there
		return "", errStandby
	}
	err := conn.QueryRow(ctx, life).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask which life of the server it is: %w", err)
	}
	return started + " " + name, nil
}

// name gives this life of the server a name, where it has none. Whether the row is there after a crash is nobody's
// question: it must not be.
func name(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `INSERT INTO nido.life DEFAULT VALUES ON CONFLICT DO NOTHING`); err != nil {
		return fmt.Errorf("name the server's life: %w", err)
	}
	return nil
}
