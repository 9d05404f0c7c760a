package projections

// This file is the read model of accounts. Events: account.*. Table: accounts. Questions: get one, list them, is there any,
// which have come near the day's limit. limit.reached fills nothing: what is left of a day is counted elsewhere.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/account"
)

type accountsFold struct{ statements }

func (f *accountsFold) fold(commit accepted) {
	const open = `
		INSERT INTO accounts (account, name, plan, per_minute, per_day, suspended, reason, opened_at, changed_at)
		VALUES ($1, $2, $3, $4, $5, false, '', $6, $6)
		ON CONFLICT (account) DO UPDATE SET name = excluded.name, plan = excluded.plan, per_minute = excluded.per_minute,
			per_day = excluded.per_day, changed_at = excluded.changed_at`
	const changePlan = `UPDATE accounts SET plan = $2, per_minute = $3, per_day = $4, changed_at = $5 WHERE account = $1`
	const suspend = `UPDATE accounts SET suspended = true, reason = $2, changed_at = $3 WHERE account = $1`
	const resume = `UPDATE accounts SET suspended = false, reason = '', changed_at = $2 WHERE account = $1`
	const erase = `UPDATE accounts SET name = '', suspended = true, reason = '', erased_at = $2, changed_at = $3 WHERE account = $1`
	id := commit.Stream.Name()
	for _, event := range commit.events {
		switch e := event.(type) {
		case account.Opened:
			f.add(open, id, clean(e.Name), clean(e.Plan), e.Custom.PerMinute, e.Custom.PerDay, commit.Time)
		case account.PlanChanged:
			f.add(changePlan, id, clean(e.Plan), e.Custom.PerMinute, e.Custom.PerDay, commit.Time)
		case account.Suspended:
			f.add(suspend, id, clean(e.Reason), commit.Time)
		case account.Resumed:
			f.add(resume, id, commit.Time)
		case account.Erased:
			f.add(erase, id, e.At, commit.Time)
		}
	}
}

// Account is a customer as it stands.
type Account struct {
	ID        string       `db:"account"`
	Name      string       `db:"name"`
	Plan      account.Plan `db:"plan"`
	PerMinute int64        `db:"per_minute"` // its own limits, 0 where the plan's hold
	PerDay    int64        `db:"per_day"`
	Suspended bool         `db:"suspended"`
	Reason    string       `db:"reason"`    // of the suspension
	ErasedAt  *time.Time   `db:"erased_at"` // nil until it is erased
	OpenedAt  time.Time    `db:"opened_at"`
	ChangedAt time.Time    `db:"changed_at"`
}

// Limits is what the account may do: its plan's limits, and its own where it has them.
func (a Account) Limits() account.Limits { return limitsOf(a.Plan, a.PerMinute, a.PerDay) }

// limitsOf overrides a plan's limits with an account's own.
func limitsOf(plan account.Plan, perMinute, perDay int64) account.Limits {
	limits, _ := plan.Limits()
	if perMinute > 0 {
		limits.PerMinute = perMinute
	}
	if perDay > 0 {
		limits.PerDay = perDay
	}
	return limits
}

// Accounts answers about accounts.
type Accounts struct{ pool *pgxpool.Pool }

// NewAccounts asks through a pool on the primary.
func NewAccounts(pool *pgxpool.Pool) Accounts { return Accounts{pool} }

// Get returns an account, or ErrNotFound.
func (a Accounts) Get(ctx context.Context, id string) (Account, error) {
	const query = `
		SELECT account, name, plan, per_minute, per_day, suspended, reason, erased_at, opened_at, changed_at
		FROM accounts WHERE account = $1`
	return one[Account](ctx, a.pool, "read the account", query, clean(id))
}

// Exist reports whether any account has ever been opened: whether this installation has been bootstrapped.
func (a Accounts) Exist(ctx context.Context) (bool, error) {
	var exist bool
	if err := a.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM accounts)`).Scan(&exist); err != nil {
		return false, fmt.Errorf("look for an account: %w", err)
	}
	return exist, nil
}

// List returns accounts, newest first.
func (a Accounts) List(ctx context.Context, page Page) ([]Account, *Cursor, error) {
	const query = `
		SELECT account, name, plan, per_minute, per_day, suspended, reason, erased_at, opened_at, changed_at
		FROM accounts WHERE (opened_at, account) < ($1, $2)
		ORDER BY opened_at DESC, account DESC
		LIMIT $3`
	at, id := page.before()
	found, err := all[Account](ctx, a.pool, "list the accounts", query, at, id, page.limit())
	if err != nil {
		return nil, nil, err
	}
	found, next := cut(found, page, func(a Account) Cursor { return Cursor{a.OpenedAt, a.ID} })
	return found, next, nil
}

// Spent is how many requests of an account have come in today, by the clock that counts them.
type Spent struct {
	Account string    `db:"account"`
	Limit   int64     `db:"day_limit"`
	Used    int64     `db:"used"`
	At      time.Time `db:"at"`
}

// NearLimit returns the accounts that have used at least so many percent of the day's limit, the fullest first.
func (a Accounts) NearLimit(ctx context.Context, percent int) ([]Spent, error) {
	// The day's counter of an account has one bucket, that of its newest day.
	const query = `
		SELECT a.account, p.day_limit, c.counts[cardinality(c.counts)] AS used, clock.at
		FROM (SELECT clock_timestamp() AS at) clock
		CROSS JOIN admission_counters c
		JOIN accounts a ON a.account = c.account COLLATE "C"
		LEFT JOIN unnest($1::text[], $2::bigint[]) AS plans(plan, per_day) ON plans.plan = a.plan
		CROSS JOIN LATERAL (SELECT coalesce(nullif(a.per_day, 0), plans.per_day) AS day_limit) p
		WHERE c.counter = 'day:' AND p.day_limit > 0
			AND c.seconds[cardinality(c.seconds)] = floor(extract(epoch FROM clock.at) / 86400) * 86400
			AND c.counts[cardinality(c.counts)] * 100 >= p.day_limit::float8 * $3
		ORDER BY c.counts[cardinality(c.counts)]::float8 / p.day_limit DESC
		LIMIT $4`
	var plans []string
	var perDay []int64
	for _, plan := range []account.Plan{account.Free, account.Starter, account.Pro} {
		limits, _ := plan.Limits()
		plans, perDay = append(plans, string(plan)), append(perDay, limits.PerDay)
	}
	return all[Spent](ctx, a.pool, "look for accounts near their limit", query, plans, perDay, percent, maxSpent)
}

// maxSpent bounds one look.
const maxSpent = 10_000
