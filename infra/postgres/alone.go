package postgres

// This file stands before operators' long commands: only one of a kind works on an installation at a time.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// aloneClass is the class of the advisory locks of operators' commands: "nido".
const aloneClass = 0x6e69646f

// The locks that there are.
const (
	VerifyLock            int32 = 1
	RebuildPostgresLock   int32 = 2
	RebuildClickHouseLock int32 = 3
	BackupLock            int32 = 4
)

const (
	// alonePatience is how long Postgres may take to notice that a process has ended which had the lock.
	alonePatience = 3 * time.Second
	alonePoll     = 50 * time.Millisecond
)

// HoldAlone takes a lock that ends with the process, and, together with whoever else reads the same, those of works that
// would pull the tables away. Its connection is the pool's, until release. Where somebody else has one of them, and keeps
// it, the error is busy.
func HoldAlone(ctx context.Context, pool *pgxpool.Pool, busy error, own int32, shared ...int32) (release func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	release = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`) // else they end with the connection, a moment later
		_ = conn.Conn().Close(ctx)
		conn.Release()
	}
	take := func(query string, lock int32) (taken bool, err error) {
		err = conn.QueryRow(ctx, query, int32(aloneClass), lock).Scan(&taken)
		return taken, err
	}
	ticker := time.NewTicker(alonePoll)
	defer ticker.Stop()
	for deadline := time.Now().Add(alonePatience); ; {
		taken, err := take(`SELECT pg_try_advisory_lock($1, $2)`, own)
		for _, lock := range shared {
			if taken && err == nil {
				taken, err = take(`SELECT pg_try_advisory_lock_shared($1, $2)`, lock)
			}
		}
		if err == nil && taken {
			return release, nil
		}
		if err == nil { // not even a part, since somebody else may want that and wait for the rest, too
			_, err = conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`)
		}
		if err == nil && time.Now().After(deadline) {
			err = busy
		}
		if err != nil {
			release()
			return nil, fmt.Errorf("take the lock: %w", err)
		}
		select {
		case <-ctx.Done():
			release()
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
