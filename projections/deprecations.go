package projections

// This file stands beside the read models: who still uses what will be gone. No event fills it; it is telemetry, and primary
// data of the schema nido. Table: deprecated_uses.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DeprecatedUse is how much an account uses one such thing.
type DeprecatedUse struct {
	Item          string     `db:"item"`
	Uses          int64      `db:"uses"`
	LastUsedAt    time.Time  `db:"last_used_at"`
	UsesOfKey     int64      `db:"uses_of_key"`      // of the key that asks
	KeyLastUsedAt *time.Time `db:"key_last_used_at"` // nil if it never was
}

// Deprecations answers about them.
type Deprecations struct{ pool *pgxpool.Pool }

// NewDeprecations asks through a pool on the primary.
func NewDeprecations(pool *pgxpool.Pool) Deprecations { return Deprecations{pool} }

// maxDeprecatedUses bounds one answer.
const maxDeprecatedUses = 1000

// Of returns what an account's keys have used, what was used last first.
func (d Deprecations) Of(ctx context.Context, account, publicID string) ([]DeprecatedUse, error) {
	const query = `
		SELECT item, sum(uses)::bigint AS uses, max(used_at) AS last_used_at,
			coalesce(sum(uses) FILTER (WHERE public_id = $2), 0)::bigint AS uses_of_key,
			max(used_at) FILTER (WHERE public_id = $2) AS key_last_used_at
		FROM deprecated_uses WHERE account = $1
		GROUP BY item ORDER BY last_used_at DESC, item LIMIT $3`
	return all[DeprecatedUse](ctx, d.pool, "read the uses of what is deprecated", query, clean(account), clean(publicID), maxDeprecatedUses)
}
