package postgres

// This file stands beside the door: when keys were last used. Requests only note it in memory; the rows follow a few
// times a minute, all keys of a node in one statement.

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// KeyUsesEvery is how often a node writes: with the time that writing may take, well within a minute.
	KeyUsesEvery = 15 * time.Second
	// maxKeyUses bounds the keys that are noted between two writes.
	maxKeyUses = 100_000
	// keyUsesTimeout bounds one write.
	keyUsesTimeout = 10 * time.Second
)

// KeyUses notes when keys are used.
type KeyUses struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	mu   sync.Mutex
	seen map[string]time.Time
}

// NewKeyUses writes through a pool. Run does the writing.
func NewKeyUses(pool *pgxpool.Pool, log *slog.Logger) *KeyUses {
	return &KeyUses{pool: pool, log: log, seen: map[string]time.Time{}}
}

// Used notes that a key was accepted. It never waits for Postgres.
func (k *KeyUses) Used(publicID string, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, known := k.seen[publicID]
	if (known && at.After(before)) || (!known && len(k.seen) < maxKeyUses) {
		k.seen[publicID] = at
	}
}

// Run writes until the context ends, and then once more.
func (k *KeyUses) Run(ctx context.Context) error {
	return writeRegularly(ctx, func(ctx context.Context) {
		if err := k.Flush(ctx); err != nil {
			k.log.WarnContext(ctx, "last uses of keys not written; they are tried again", "error", err)
		}
	})
}

// writeRegularly writes what requests noted until the context ends, and then once more.
func writeRegularly(ctx context.Context, write func(context.Context)) error {
	ticker := time.NewTicker(KeyUsesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			write(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
			write(ctx)
		}
	}
}

// Flush writes what has been noted. What cannot be written is kept for the next time.
func (k *KeyUses) Flush(ctx context.Context) error {
	const query = `
		INSERT INTO key_uses (public_id, used_at)
		SELECT * FROM unnest($1::text[], $2::timestamptz[])
		ON CONFLICT (public_id) DO UPDATE SET used_at = excluded.used_at WHERE key_uses.used_at < excluded.used_at`
	k.mu.Lock()
	seen := k.seen
	k.seen = map[string]time.Time{}
	k.mu.Unlock()
	if len(seen) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keyUsesTimeout)
	defer cancel()
	ids := slices.Sorted(maps.Keys(seen)) // in one order, so that two nodes never wait for each other
	times := make([]time.Time, len(ids))
	for i, id := range ids {
		times[i] = seen[id]
	}
	if _, err := k.pool.Exec(ctx, query, ids, times); err != nil {
		for id, at := range seen {
			k.Used(id, at)
		}
		return fmt.Errorf("write the last uses of %d keys: %w", len(ids), err)
	}
	return nil
}
