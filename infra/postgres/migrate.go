package postgres

// This file stands at start: it brings the schema nido to what this binary expects. Read models are not migrated; they
// are rebuilt from the log.

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// schema is ours: what is in it is primary data.
const schema = "nido"

// migrationLockID is the advisory lock under which one node at a time migrates.
const migrationLockID = 0x6e69646f // "nido"

// migrationLockPoll is how often a waiting node looks whether its turn has come.
const migrationLockPoll = 50 * time.Millisecond

// migrationTimeout bounds a start's migrations, the wait for other nodes' included.
const migrationTimeout = 10 * time.Minute

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the schema nido and applies the migrations that it has not seen. Any number of nodes may start at
// once. A database that a newer binary has migrated is refused: forward only.
func Migrate(ctx context.Context, pool *pgxpool.Pool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	// Connections of their own: without the pool's time limit on statements, and with only our schema in the path, so
	// that an unqualified CREATE TABLE cannot end up among the read models.
	config := pool.Config().ConnConfig
	config.RuntimeParams["search_path"] = schema
	config.RuntimeParams["statement_timeout"] = "0"
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()

	if err := createSchema(ctx, db); err != nil {
		return fmt.Errorf("create the schema %s: %w", schema, err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(migrationLock{}))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema %s: %w", schema, err)
	}
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current != newest {
		return fmt.Errorf("the schema %s is at version %d, this binary knows %d: a newer one has migrated it", schema, current, newest)
	}
	return nil
}

// createSchema makes the place for goose's own table. IF NOT EXISTS alone is not enough: two nodes that create at the
// same instant both see nothing, and one of them fails.
func createSchema(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // has nothing to say after the commit
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLockID+1); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{schema}.Sanitize()); err != nil {
		return err
	}
	return tx.Commit()
}

// migrationLock is goose's session lock with a short poll: the library's own waits at least a second. It tries instead
// of waiting in the server, where a waiting session's snapshot could stand in a migration's way.
type migrationLock struct{}

// SessionLock waits for the node's turn.
func (migrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	poll := time.NewTicker(migrationLockPoll)
	defer poll.Stop()
	for {
		var mine bool
		if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, migrationLockID).Scan(&mine); err != nil {
			return fmt.Errorf("lock the migrations: %w", err)
		}
		if mine {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another node's migrations: %w", context.Cause(ctx))
		case <-poll.C:
		}
	}
}

// SessionUnlock gives the turn back.
func (migrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, migrationLockID); err != nil {
		return fmt.Errorf("unlock the migrations: %w", err)
	}
	return nil
}
