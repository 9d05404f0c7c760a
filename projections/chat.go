package projections

// This file stands before the chat turn's decision: everything that it depends on, in one question to one snapshot.
// Tables: keys, accounts, hosts, agents, conversations, streams, commits, messages, and the keyring's data_keys.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
)

// Admission is a message that wants to come in.
type Admission struct {
	PublicID string // of the key that it comes with
	AgentID  string // for whom it is …
	Slug     string // … or the slug that routes to that agent, where AgentID is empty
	Mac      string // HMAC of the client's conversation id
	Command  string // the id of the command that is about to be decided
	Key      string // the id of the data key that lies ready for the conversation where it is new; empty where none does
}

// Admitted is what the decision about it is based on.
type Admitted struct {
	Caller   *Caller         // nil: there is no such key
	Agent    *Agent          // nil: there is no such agent in the key's account
	Stream   domain.StreamID // of the conversation; empty without an agent
	Snapshot domain.Snapshot
	Erased   bool        // the conversation has been erased: what comes now begins another one
	Key      *WrappedKey // the conversation's data key; for a new conversation the one that lies ready, or nil
	History  []Said      // what was said before, oldest first, as many as the agent's settings ask for
}

// WrappedKey is a row of the keyring.
type WrappedKey struct {
	ID        string
	Owner     string
	Wrapped   []byte // nil once destroyed
	Destroyed bool
	Missing   bool // the conversation names a key that the keyring has never had
}

// Said is a text of the conversation, sealed.
type Said struct {
	Role string
	Text domain.Sealed
}

// Chat answers what a chat turn begins with.
type Chat struct {
	questions *together[Admission, Admitted]
}

// NewChat asks through a pool on the primary: a key that was revoked before the question is seen as revoked.
func NewChat(pool *pgxpool.Pool) Chat {
	return Chat{&together[Admission, Admitted]{ask: func(ctx context.Context, admissions []Admission) ([]answered[Admitted], error) {
		found, err := admit(ctx, pool, admissions)
		if err != nil {
			return nil, fmt.Errorf("read what turns begin with: %w", err)
		}
		return found, nil
	}}}
}

// Admit reads key, account, agent, conversation, history and data key in one statement, and so in one snapshot that was
// taken after the request arrived; others that ask at the same time may be answered by the same statement. It judges
// nothing: revoked and expired keys, suspended accounts and paused agents are found, and so are agents that the key is not
// bound to.
func (c Chat) Admit(ctx context.Context, admission Admission) (Admitted, error) {
	return c.questions.Ask(ctx, admission)
}

func admit(ctx context.Context, pool *pgxpool.Pool, admissions []Admission) ([]answered[Admitted], error) {
	// Each LATERAL is one look-up by a key that the row before it gave; LIMIT 1 keeps the planner from joining whole
	// tables instead. The data key's id is compared in the collation of the keyring's index. How many subscripts an array has
	// the planner does not look at, unlike how long an unnested one is: it would plan anew for every short list.
	const query = `
		SELECT q.n, k.public_id, k.name AS key_name, k.hash, k.earlier, k.graces, k.scopes, k.agent_ids, k.ip_allow, k.expires_at, k.revoked_at,
			a.account, a.plan, a.per_minute, a.per_day, a.suspended,
			g.agent, g.slug, g.status, g.version AS settings_version, g.settings, g.created_at, g.changed_at,
			s.version, s.state, x.committed,
			v.key AS data_key, d.id AS found_key, d.owner, d.wrapped, d.id IS NULL AS missing,
			h.roles, h.keys, h.texts
		FROM (
			SELECT n, ($1::text[])[n] AS public_id, ($2::text[])[n] AS agent, ($3::text[])[n] AS slug, ($4::text[])[n] AS mac, ($5::text[])[n] AS command,
				nullif(($6::text[])[n], '') AS key
			FROM generate_subscripts($1::text[], 1) AS n
		) AS q
		LEFT JOIN LATERAL (SELECT * FROM keys WHERE public_id = q.public_id LIMIT 1) k ON true
		LEFT JOIN LATERAL (SELECT * FROM accounts WHERE account = k.account LIMIT 1) a ON true
		LEFT JOIN LATERAL (
			SELECT * FROM agents
			WHERE agent = CASE WHEN q.agent <> '' THEN q.agent ELSE (SELECT agent FROM hosts WHERE slug = q.slug AND bound) END
				AND account = k.account AND status <> 'deleted'
			LIMIT 1
		) g ON true
		LEFT JOIN LATERAL (SELECT * FROM streams WHERE stream = 'conversation-' || g.agent || '.' || q.mac LIMIT 1) s ON true
		LEFT JOIN LATERAL (SELECT min(version) AS committed FROM commits WHERE command = q.command AND stream = s.stream) x ON true
		LEFT JOIN LATERAL (SELECT key FROM conversations WHERE stream = s.stream LIMIT 1) v ON true
		LEFT JOIN LATERAL (SELECT * FROM data_keys WHERE id = coalesce(v.key, q.key) COLLATE "default" LIMIT 1) d ON true
		LEFT JOIN LATERAL (
			SELECT array_agg(role) AS roles, array_agg(text_key) AS keys, array_agg(text_data) AS texts
			FROM (
				SELECT role, text_key, text_data FROM messages
				WHERE stream = s.stream AND text_key <> ''
				ORDER BY version DESC, idx DESC
				LIMIT g.history_limit
			) m
		) h ON true`
	var keys, agents, slugs, macs, commands, ready []string
	for _, one := range admissions {
		keys, agents, slugs = append(keys, clean(one.PublicID)), append(agents, clean(one.AgentID)), append(slugs, clean(one.Slug))
		macs, commands = append(macs, clean(one.Mac)), append(commands, clean(one.Command))
		ready = append(ready, clean(one.Key))
	}
	rows, err := pool.Query(ctx, query, keys, agents, slugs, macs, commands, ready)
	if err != nil {
		return nil, err
	}
	read, err := pgx.CollectRows(rows, pgx.RowToStructByName[admissionRow])
	switch {
	case err != nil:
		return nil, err
	case len(read) != len(admissions):
		return nil, fmt.Errorf("%d questions got %d answers", len(admissions), len(read))
	}
	found := make([]answered[Admitted], len(admissions))
	for _, row := range read {
		admitted, err := row.admitted(admissions[row.N-1])
		if err != nil {
			err = fmt.Errorf("read what a turn begins with: %w", err)
		}
		found[row.N-1] = answered[Admitted]{answer: admitted, err: err}
	}
	return found, nil
}

// admissionRow is the answer; what was not found is NULL.
type admissionRow struct {
	N int `db:"n"` // the question's, from 1

	PublicID  *string        `db:"public_id"`
	KeyName   *string        `db:"key_name"`
	Hash      []byte         `db:"hash"`
	Earlier   [][]byte       `db:"earlier"`
	Graces    []time.Time    `db:"graces"`
	Scopes    []apikey.Scope `db:"scopes"`
	AgentIDs  []string       `db:"agent_ids"`
	IPAllow   []string       `db:"ip_allow"`
	ExpiresAt *time.Time     `db:"expires_at"`
	RevokedAt *time.Time     `db:"revoked_at"`

	Account   *string       `db:"account"`
	Plan      *account.Plan `db:"plan"`
	PerMinute *int64        `db:"per_minute"`
	PerDay    *int64        `db:"per_day"`
	Suspended *bool         `db:"suspended"`

	Agent           *string       `db:"agent"`
	Slug            *string       `db:"slug"`
	Status          *agent.Status `db:"status"`
	SettingsVersion *int          `db:"settings_version"`
	Settings        []byte        `db:"settings"` // JSON; what cannot be read of one is no fault of its neighbours
	CreatedAt       *time.Time    `db:"created_at"`
	ChangedAt       *time.Time    `db:"changed_at"`

	Version   *int64 `db:"version"`
	State     []byte `db:"state"`
	Committed *int64 `db:"committed"`

	DataKey  *string `db:"data_key"`
	FoundKey *string `db:"found_key"`
	Owner    *string `db:"owner"`
	Wrapped  []byte  `db:"wrapped"`
	Missing  bool    `db:"missing"`

	Roles []string `db:"roles"` // newest first
	Keys  []string `db:"keys"`
	Texts [][]byte `db:"texts"`
}

func (r admissionRow) admitted(admission Admission) (Admitted, error) {
	var found Admitted
	if r.PublicID == nil || r.Account == nil {
		return found, nil
	}
	found.Caller = &Caller{
		PublicID: *r.PublicID, Name: *r.KeyName, Hash: r.Hash, Earlier: r.Earlier, Graces: r.Graces, Scopes: r.Scopes, AgentIDs: r.AgentIDs, IPAllow: r.IPAllow,
		ExpiresAt: r.ExpiresAt, RevokedAt: r.RevokedAt,
		Account: *r.Account, Plan: *r.Plan, PerMinute: *r.PerMinute, PerDay: *r.PerDay, Suspended: *r.Suspended,
	}
	if r.Agent == nil {
		return found, nil
	}
	found.Agent = &Agent{
		ID: *r.Agent, Account: *r.Account, Slug: *r.Slug, Status: *r.Status, Version: *r.SettingsVersion,
		CreatedAt: *r.CreatedAt, ChangedAt: *r.ChangedAt,
	}
	if err := json.Unmarshal(r.Settings, &found.Agent.Settings); err != nil {
		return Admitted{}, fmt.Errorf("read the agent's settings: %w", err)
	}
	found.Stream = ConversationStream(*r.Agent, admission.Mac)
	if r.Version != nil {
		found.Snapshot = domain.Snapshot{Version: domain.Version(*r.Version), State: r.State}
		state, err := conversation.Aggregate.DecodeState(r.State)
		if err != nil {
			return Admitted{}, err
		}
		found.Erased = state.Erased
	}
	if r.Committed != nil {
		found.Snapshot.Committed = domain.Version(*r.Committed)
	}
	switch {
	case r.DataKey == nil && r.FoundKey != nil && *r.Owner == string(found.Stream) && r.Wrapped != nil:
		found.Key = &WrappedKey{ID: *r.FoundKey, Owner: *r.Owner, Wrapped: r.Wrapped}
	case r.DataKey != nil:
		found.Key = &WrappedKey{ID: *r.DataKey, Wrapped: r.Wrapped, Missing: r.Missing, Destroyed: !r.Missing && r.Wrapped == nil}
		if r.Owner != nil {
			found.Key.Owner = *r.Owner
		}
	}
	for i := range r.Roles {
		found.History = append(found.History, Said{Role: r.Roles[i], Text: sealed(r.Keys[i], r.Texts[i])})
	}
	slices.Reverse(found.History)
	return found, nil
}
