package replay

// This file stands before a fold that is made anew: only one of its kind at a time.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The advisory locks of operators' commands, each with the class.
const (
	lockClass             = 0x6e69646f // "nido"
	verifyLock            = 1
	rebuildPostgresLock   = 2
	rebuildClickHouseLock = 3
)

// ErrBusy: another process is at the same work.
var ErrBusy = errors.New("another process is doing this right now")

// holdAlone takes a lock that ends with the process. Its connection is the pool's, until release.
func holdAlone(ctx context.Context, pool *pgxpool.Pool, lock int32) (release func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	var taken bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, int32(lockClass), lock).Scan(&taken); err != nil {
		conn.Release()
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	if !taken {
		conn.Release()
		return nil, ErrBusy
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Conn().Close(ctx) // and with it the lock
		conn.Release()
	}, nil
}
