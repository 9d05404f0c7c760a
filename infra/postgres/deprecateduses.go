package postgres

// This file stands beside the door: how often keys use what will be gone one day. Requests only count it in memory; the rows
// follow a few times a minute, in one statement.

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DeprecatedUses counts uses of what is deprecated. What a broken connection leaves in doubt is counted again: these are
// numbers for people who plan their changes.
type DeprecatedUses struct {
	pool *pgxpool.Pool
	log  *slog.Logger
	mu   sync.Mutex
	seen map[deprecatedUse]deprecatedCount
}

type deprecatedUse struct{ account, item, publicID string }

type deprecatedCount struct {
	uses int64
	last time.Time
}

// NewDeprecatedUses writes through a pool. Run does the writing.
func NewDeprecatedUses(pool *pgxpool.Pool, log *slog.Logger) *DeprecatedUses {
	return &DeprecatedUses{pool: pool, log: log, seen: map[deprecatedUse]deprecatedCount{}}
}

// Used notes a use. It never waits for Postgres.
func (d *DeprecatedUses) Used(account, publicID, item string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(deprecatedUse{account, item, publicID}, deprecatedCount{1, at})
}

func (d *DeprecatedUses) add(use deprecatedUse, more deprecatedCount) {
	count, known := d.seen[use]
	if !known && len(d.seen) >= maxKeyUses {
		return
	}
	count.uses += more.uses
	if more.last.After(count.last) {
		count.last = more.last
	}
	d.seen[use] = count
}

// Run writes until the context ends, and then once more.
func (d *DeprecatedUses) Run(ctx context.Context) error {
	return writeRegularly(ctx, func(ctx context.Context) {
		if err := d.Flush(ctx); err != nil {
			d.log.WarnContext(ctx, "uses of what is deprecated not written; they are tried again", "error", err)
		}
	})
}

// Flush writes what has been noted. What cannot be written is kept for the next time.
func (d *DeprecatedUses) Flush(ctx context.Context) error {
	const query = `
		INSERT INTO deprecated_uses (account, item, public_id, uses, used_at)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
		ON CONFLICT (account, item, public_id) DO UPDATE
			SET uses = deprecated_uses.uses + excluded.uses, used_at = greatest(deprecated_uses.used_at, excluded.used_at)`
	d.mu.Lock()
	seen := d.seen
	d.seen = map[deprecatedUse]deprecatedCount{}
	d.mu.Unlock()
	if len(seen) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keyUsesTimeout)
	defer cancel()
	// In one order, so that two nodes never wait for each other.
	order := slices.SortedFunc(maps.Keys(seen), func(a, b deprecatedUse) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.item, b.item), cmp.Compare(a.publicID, b.publicID))
	})
	n := len(order)
	accounts, items, keys, uses, times := make([]string, n), make([]string, n), make([]string, n), make([]int64, n), make([]time.Time, n)
	for i, use := range order {
		accounts[i], items[i], keys[i], uses[i], times[i] = use.account, use.item, use.publicID, seen[use].uses, seen[use].last
	}
	if _, err := d.pool.Exec(ctx, query, accounts, items, keys, uses, times); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		for use, count := range seen {
			d.add(use, count)
		}
		return fmt.Errorf("write %d uses of what is deprecated: %w", n, err)
	}
	return nil
}

// Sweep drops what nobody has used for a year, and says how much.
func (d *DeprecatedUses) Sweep(ctx context.Context) (int64, error) {
	const query = `DELETE FROM deprecated_uses WHERE used_at < now() - interval '1 year'`
	done, err := d.pool.Exec(ctx, query)
	if err != nil {
		return 0, fmt.Errorf("drop old uses of what is deprecated: %w", err)
	}
	return done.RowsAffected(), nil
}
