package projections

// This file is the read model of hosts. Events: host.*. Table: hosts. Questions: to whom does a slug route, which claims
// were never finished.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/host"
)

type hostsFold struct{ statements }

func (f *hostsFold) fold(commit accepted) {
	const claim = `
		INSERT INTO hosts (slug, account, agent, bound, claimed_at) VALUES ($1, $2, $3, false, $4)
		ON CONFLICT (slug) DO UPDATE SET account = excluded.account, agent = excluded.agent, bound = false,
			claimed_at = excluded.claimed_at`
	const bind = `UPDATE hosts SET bound = true WHERE slug = $1`
	const release = `DELETE FROM hosts WHERE slug = $1`
	slug := commit.Stream.Name()
	for _, event := range commit.events {
		switch e := event.(type) {
		case host.Claimed:
			f.add(claim, slug, indexed(e.Account), clean(e.Agent), commit.Time)
		case host.Bound:
			f.add(bind, slug)
		case host.Released:
			f.add(release, slug)
		}
	}
}

// Host is who has a slug.
type Host struct {
	Slug      string    `db:"slug"`
	Account   string    `db:"account"`
	Agent     string    `db:"agent"`
	Bound     bool      `db:"bound"`
	ClaimedAt time.Time `db:"claimed_at"`
}

// Hosts answers about slugs.
type Hosts struct{ pool *pgxpool.Pool }

// NewHosts asks through a pool on the primary.
func NewHosts(pool *pgxpool.Pool) Hosts { return Hosts{pool} }

// Agent returns to whom a slug routes, or ErrNotFound. Only a bound slug routes. It takes no account: a host name is
// where a request comes in, before anybody knows whose it is.
func (h Hosts) Agent(ctx context.Context, slug string) (Host, error) {
	const query = `SELECT slug, account, agent, bound, claimed_at FROM hosts WHERE slug = $1 AND bound`
	return one[Host](ctx, h.pool, "read the host", query, clean(slug))
}

// Agents lists the agents for which an account holds names.
func (h Hosts) Agents(ctx context.Context, account string) ([]string, error) {
	type row struct {
		Agent string `db:"agent"`
	}
	found, err := all[row](ctx, h.pool, "list the account's names", `SELECT DISTINCT agent FROM hosts WHERE account = $1 AND bound`, clean(account))
	agents := make([]string, len(found))
	for i, one := range found {
		agents[i] = one.Agent
	}
	return agents, err
}

// Unbound returns the oldest claims from before a time that were never bound, for the sweeper.
func (h Hosts) Unbound(ctx context.Context, before time.Time, limit int) ([]Host, error) {
	const query = `
		SELECT slug, account, agent, bound, claimed_at FROM hosts
		WHERE NOT bound AND claimed_at < $1
		ORDER BY claimed_at LIMIT $2`
	return all[Host](ctx, h.pool, "list the unbound hosts", query, before, limited(limit))
}
