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

// ErrBusy: another process is at the same work, or at one that does not go together with it.
var ErrBusy = errors.New("another rebuild or verify is under way")

// holdAlone takes a lock that ends with the process, and, together with whoever else reads the same, those of works that
// would pull the tables away. Its connection is the pool's, until release.
func holdAlone(ctx context.Context, pool *pgxpool.Pool, own int32, shared ...int32) (release func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	release = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Conn().Close(ctx) // and with it the locks
		conn.Release()
	}
	take := func(query string, lock int32) error {
		var taken bool
		if err := conn.QueryRow(ctx, query, int32(lockClass), lock).Scan(&taken); err != nil {
			return fmt.Errorf("take the lock: %w", err)
		}
		if !taken {
			return ErrBusy
		}
		return nil
	}
	err = take(`SELECT pg_try_advisory_lock($1, $2)`, own)
	for _, lock := range shared {
		if err == nil {
			err = take(`SELECT pg_try_advisory_lock_shared($1, $2)`, lock)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}
