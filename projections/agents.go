package projections

// This file is the read model of agents. Events: agent.*. Tables: agents, agent_versions. Questions: get one by id or
// slug, list an account's, the versions of its settings.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/agent"
)

type agentsFold struct{ statements }

func (f *agentsFold) fold(commit accepted) {
	const create = `
		INSERT INTO agents (agent, account, slug, status, version, settings, history_limit, created_at, changed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
		ON CONFLICT (agent) DO UPDATE SET account = excluded.account, slug = excluded.slug, status = excluded.status,
			version = excluded.version, settings = excluded.settings, history_limit = excluded.history_limit,
			changed_at = excluded.changed_at`
	const configure = `UPDATE agents SET version = $2, settings = $3, history_limit = $4, changed_at = $5 WHERE agent = $1`
	const changeStatus = `UPDATE agents SET status = $2, changed_at = $3 WHERE agent = $1`
	state, ok := commit.state.(agent.State)
	if !ok {
		return
	}
	id := commit.Stream.Name()
	for _, event := range commit.events {
		switch e := event.(type) {
		case agent.Created:
			f.add(create, id, indexed(e.Account), clean(e.Slug), clean(state.Status), small(state.Version), state.Settings, small(state.Settings.History()), commit.Time)
			f.addVersion(commit, id, state, 0)
		case agent.Configured:
			f.add(configure, id, small(state.Version), state.Settings, small(state.Settings.History()), commit.Time)
			f.addVersion(commit, id, state, e.Restores)
		case agent.Paused, agent.Resumed, agent.Deleted:
			f.add(changeStatus, id, clean(state.Status), commit.Time)
		}
	}
}

func (f *agentsFold) addVersion(commit accepted, id string, state agent.State, restores int) {
	const insert = `
		INSERT INTO agent_versions (agent, version, settings, restores, actor, actor_id, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (agent, version) DO UPDATE SET settings = excluded.settings, restores = excluded.restores`
	f.add(insert, id, small(state.Version), state.Settings, small(restores), clean(commit.Actor.Kind), clean(commit.Actor.ID), commit.Time)
}

// Agent is an agent as it stands.
type Agent struct {
	ID        string         `db:"agent"`
	Account   string         `db:"account"`
	Slug      string         `db:"slug"`
	Status    agent.Status   `db:"status"`
	Version   int            `db:"version"` // of the settings
	Settings  agent.Settings `db:"settings"`
	CreatedAt time.Time      `db:"created_at"`
	ChangedAt time.Time      `db:"changed_at"`
}

// AgentVersion is what an agent was told to be.
type AgentVersion struct {
	Version  int            `db:"version"`
	Settings agent.Settings `db:"settings"`
	Restores int            `db:"restores"` // the version that was rolled back to, 0 for none
	Actor    string         `db:"actor"`    // the kind of who did it: key, operator, system
	ActorID  string         `db:"actor_id"`
	At       time.Time      `db:"at"`
}

// Agents answers about agents. Deleted ones are not found.
type Agents struct{ pool *pgxpool.Pool }

// NewAgents asks through a pool on the primary.
func NewAgents(pool *pgxpool.Pool) Agents { return Agents{pool} }

// Get returns an account's agent, or ErrNotFound.
func (a Agents) Get(ctx context.Context, account, id string) (Agent, error) {
	const query = `
		SELECT agent, account, slug, status, version, settings, created_at, changed_at
		FROM agents WHERE agent = $2 AND account = $1 AND status <> 'deleted'`
	return one[Agent](ctx, a.pool, "read the agent", query, clean(account), clean(id))
}

// BySlug returns the account's agent to which the slug routes, or ErrNotFound.
func (a Agents) BySlug(ctx context.Context, account, slug string) (Agent, error) {
	const query = `
		SELECT a.agent, a.account, a.slug, a.status, a.version, a.settings, a.created_at, a.changed_at
		FROM hosts h JOIN agents a ON a.agent = h.agent
		WHERE h.slug = $2 AND h.bound AND a.account = $1 AND a.status <> 'deleted'`
	return one[Agent](ctx, a.pool, "read the agent of the slug", query, clean(account), clean(slug))
}

// List returns the account's agents, newest first, and where the next page begins. Where only is not nil, only agents
// with these ids are listed: those that the caller's key is bound to.
func (a Agents) List(ctx context.Context, account string, only []string, page Page) ([]Agent, *Cursor, error) {
	const query = `
		SELECT agent, account, slug, status, version, settings, created_at, changed_at
		FROM agents
		WHERE account = $1 AND status <> 'deleted' AND (created_at, agent) < ($2, $3)
			AND ($4::text[] IS NULL OR agent = ANY($4))
		ORDER BY created_at DESC, agent DESC
		LIMIT $5`
	at, id := page.before()
	found, err := all[Agent](ctx, a.pool, "list the agents", query, clean(account), at, id, allOr(only), page.limit())
	if err != nil {
		return nil, nil, err
	}
	found, next := cut(found, page, func(a Agent) Cursor { return Cursor{a.CreatedAt, a.ID} })
	return found, next, nil
}

// Versions returns the versions of an agent's settings, newest first, those below a version where below is not 0.
func (a Agents) Versions(ctx context.Context, account, id string, below, limit int) ([]AgentVersion, error) {
	const query = `
		SELECT v.version, v.settings, v.restores, v.actor, v.actor_id, v.at
		FROM agents a JOIN agent_versions v ON v.agent = a.agent
		WHERE a.agent = $2 AND a.account = $1 AND a.status <> 'deleted' AND ($3::integer = 0 OR v.version < $3)
		ORDER BY v.version DESC
		LIMIT $4`
	return all[AgentVersion](ctx, a.pool, "list the agent's versions", query, clean(account), clean(id), below, limited(limit))
}

// Version returns one version of an agent's settings, or ErrNotFound.
func (a Agents) Version(ctx context.Context, account, id string, version int) (AgentVersion, error) {
	const query = `
		SELECT v.version, v.settings, v.restores, v.actor, v.actor_id, v.at
		FROM agents a JOIN agent_versions v ON v.agent = a.agent
		WHERE a.agent = $2 AND a.account = $1 AND a.status <> 'deleted' AND v.version = $3`
	return one[AgentVersion](ctx, a.pool, "read the agent's version", query, clean(account), clean(id), version)
}
