package projections

// This file is the read model of API keys. Events: key.*. Table: keys, and beside it key_uses, which no event fills: when a
// key was last used is telemetry. Questions: may this key come in, list an account's, get one.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
)

type keysFold struct{ statements }

func (f *keysFold) fold(commit accepted) {
	const issue = `
		INSERT INTO keys (public_id, account, name, environment, hash, hint, scopes, agent_ids, ip_allow, metadata,
			issued_by, issued_at, expires_at, reason, earlier, graces)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '', '{}', '{}')
		ON CONFLICT (public_id) DO UPDATE SET hash = excluded.hash, hint = excluded.hint, scopes = excluded.scopes,
			agent_ids = excluded.agent_ids, ip_allow = excluded.ip_allow, expires_at = excluded.expires_at`
	// No earlier secret works longer than a newer one, so that the last few are those that may still work.
	const rotate = `
		UPDATE keys SET hash = $2, hint = $3, rotated_at = $5,
			(earlier, graces) = (
				SELECT array_agg(hash ORDER BY i), array_agg(least(until, $4) ORDER BY i)
				FROM unnest(array_append(earlier, hash), array_append(graces, $4)) WITH ORDINALITY AS e(hash, until, i)
				WHERE i > cardinality(earlier) + 1 - $6
			)
		WHERE public_id = $1`
	const describe = `UPDATE keys SET name = $2, metadata = $3 WHERE public_id = $1`
	const revoke = `UPDATE keys SET revoked_at = $2, reason = $3 WHERE public_id = $1`
	id := commit.Stream.Name()
	for _, event := range commit.events {
		switch e := event.(type) {
		case apikey.Issued:
			f.add(issue, id, indexed(e.Account), clean(e.Name), clean(e.Environment), bytesOrEmpty(e.Hash), clean(e.Hint), cleanAll(e.Scopes),
				cleanAll(e.AgentIDs), cleanAll(e.IPAllow), entries(e.Metadata), clean(e.IssuedBy), commit.Time, timeOrNull(e.ExpiresAt))
		case apikey.Rotated:
			f.add(rotate, id, bytesOrEmpty(e.Hash), clean(e.Hint), e.GraceUntil, commit.Time, apikey.MaxEarlierSecrets)
		case apikey.Described:
			f.add(describe, id, clean(e.Name), entries(e.Metadata))
		case apikey.Revoked:
			f.add(revoke, id, commit.Time, clean(e.Reason))
		}
	}
}

// entries stores no metadata as an empty object. It is JSON, which may hold what a text may not.
func entries(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}

// timeOrNull stores the zero time as no time.
func timeOrNull(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// Key is an API key as it may be shown.
type Key struct {
	PublicID    string            `db:"public_id"`
	Account     string            `db:"account"`
	Name        string            `db:"name"`
	Environment string            `db:"environment"` // live or test
	Hint        string            `db:"hint"`        // the key's last four characters
	Scopes      []apikey.Scope    `db:"scopes"`
	AgentIDs    []string          `db:"agent_ids"` // empty means every agent
	IPAllow     []string          `db:"ip_allow"`  // empty means from anywhere
	Metadata    map[string]string `db:"metadata"`
	IssuedBy    string            `db:"issued_by"`
	IssuedAt    time.Time         `db:"issued_at"`
	RotatedAt   *time.Time        `db:"rotated_at"`   // nil if it never was
	Graces      []time.Time       `db:"graces"`       // when each of the secrets before the newest stops working
	LastUsedAt  *time.Time        `db:"last_used_at"` // up to a minute old; nil if it never was
	ExpiresAt   *time.Time        `db:"expires_at"`   // nil means never
	RevokedAt   *time.Time        `db:"revoked_at"`   // nil while it is valid
	Reason      string            `db:"reason"`       // of the revocation
}

// Caller is who comes with a key, and what is needed to let them in or not.
type Caller struct {
	PublicID  string         `db:"public_id"`
	Name      string         `db:"name"`    // the key's
	Hash      []byte         `db:"hash"`    // SHA-256 of the whole key
	Earlier   [][]byte       `db:"earlier"` // the same with earlier secrets …
	Graces    []time.Time    `db:"graces"`  // … and when each of them stops working
	Scopes    []apikey.Scope `db:"scopes"`
	AgentIDs  []string       `db:"agent_ids"`
	IPAllow   []string       `db:"ip_allow"`
	ExpiresAt *time.Time     `db:"expires_at"`
	RevokedAt *time.Time     `db:"revoked_at"`
	Account   string         `db:"account"`
	Plan      account.Plan   `db:"plan"`
	PerMinute int64          `db:"per_minute"` // the account's own limits, 0 where the plan's hold
	PerDay    int64          `db:"per_day"`
	Suspended bool           `db:"suspended"` // the account
}

// Grant is what the key may do.
func (c Caller) Grant() apikey.Grant {
	grant := apikey.Grant{Scopes: c.Scopes, AgentIDs: c.AgentIDs, IPAllow: c.IPAllow}
	if c.ExpiresAt != nil {
		grant.Expires = *c.ExpiresAt
	}
	return grant
}

// Limits is what the account may do: its plan's limits, and its own where it has them.
func (c Caller) Limits() account.Limits { return limitsOf(c.Plan, c.PerMinute, c.PerDay) }

// Keys answers about API keys.
type Keys struct{ pool *pgxpool.Pool }

// NewKeys asks through a pool on the primary.
func NewKeys(pool *pgxpool.Pool) Keys { return Keys{pool} }

// Authenticate returns who comes with a key, or ErrNotFound. Whether the key may come in is for the caller to decide:
// revoked, expired and suspended ones are found. It takes no account, since the key says whose it is.
func (k Keys) Authenticate(ctx context.Context, publicID string) (Caller, error) {
	const query = `
		SELECT k.public_id, k.name, k.hash, k.earlier, k.graces, k.scopes, k.agent_ids, k.ip_allow, k.expires_at, k.revoked_at,
			a.account, a.plan, a.per_minute, a.per_day, a.suspended
		FROM keys k JOIN accounts a ON a.account = k.account
		WHERE k.public_id = $1`
	return one[Caller](ctx, k.pool, "read the key", query, clean(publicID))
}

// Get returns an account's key, or ErrNotFound.
func (k Keys) Get(ctx context.Context, account, publicID string) (Key, error) {
	const query = `
		SELECT public_id, account, name, environment, hint, scopes, agent_ids, ip_allow, metadata, issued_by, issued_at,
			rotated_at, graces, u.used_at AS last_used_at, expires_at, revoked_at, reason
		FROM keys LEFT JOIN key_uses u USING (public_id)
		WHERE public_id = $2 AND account = $1`
	return one[Key](ctx, k.pool, "read the key", query, clean(account), clean(publicID))
}

// List returns the account's keys, revoked ones too, newest first, and where the next page begins.
func (k Keys) List(ctx context.Context, account string, page Page) ([]Key, *Cursor, error) {
	const query = `
		SELECT public_id, account, name, environment, hint, scopes, agent_ids, ip_allow, metadata, issued_by, issued_at,
			rotated_at, graces, u.used_at AS last_used_at, expires_at, revoked_at, reason
		FROM keys LEFT JOIN key_uses u USING (public_id)
		WHERE account = $1 AND (issued_at, public_id) < ($2, $3)
		ORDER BY issued_at DESC, public_id DESC
		LIMIT $4`
	at, id := page.before()
	found, err := all[Key](ctx, k.pool, "list the keys", query, clean(account), at, id, page.limit())
	if err != nil {
		return nil, nil, err
	}
	found, next := cut(found, page, func(k Key) Cursor { return Cursor{k.IssuedAt, k.PublicID} })
	return found, next, nil
}
