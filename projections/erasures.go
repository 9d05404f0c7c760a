package projections

// This file is the read model of what is to be forgotten. Events: conversation.erased, account.erased. Table: erasures.
// Questions: which ones come behind a place in the log, which one is about a stream.

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/conversation"
)

// eraseEvent is the stored name of the event whose fold drops rows.
const eraseEvent = "conversation.erased"

// erasuresFold holds the columns of the rows to insert.
type erasuresFold struct {
	streams, ids, accounts, macs, turns []string
	withAccount                         []bool
	parts                               []int32
	offsets                             []int64
	at                                  []time.Time
}

func (f *erasuresFold) fold(commit accepted) {
	for _, event := range commit.events {
		switch e := event.(type) {
		case conversation.Erased:
			f.add(commit, e.Erasure, e.Turn, e.At, e.WithAccount)
		case account.Erased:
			f.add(commit, e.Erasure, "", e.At, false)
		}
	}
}

func (f *erasuresFold) add(commit accepted, id, turn string, at time.Time, withAccount bool) {
	f.streams = append(f.streams, string(commit.Stream))
	f.ids = append(f.ids, indexed(id))
	f.accounts = append(f.accounts, indexed(commit.Account))
	_, mac, _ := strings.Cut(commit.Stream.Name(), ".") // an account's id has no dot
	f.macs = append(f.macs, mac)
	f.turns = append(f.turns, indexed(turn))
	f.withAccount = append(f.withAccount, withAccount)
	f.parts = append(f.parts, commit.Partition)
	f.offsets = append(f.offsets, commit.Offset)
	f.at = append(f.at, at)
}

func (f *erasuresFold) write(batch *pgx.Batch) {
	const insert = `
		INSERT INTO erasures (stream, erasure, account, id_mac, turn, with_account, part, off, at)
		SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
			unnest($6::boolean[]), unnest($7::integer[]), unnest($8::bigint[]), unnest($9::timestamptz[])
		ON CONFLICT (stream) DO NOTHING`
	if len(f.streams) > 0 {
		batch.Queue(insert, f.streams, f.ids, f.accounts, f.macs, f.turns, f.withAccount, f.parts, f.offsets, f.at)
	}
}

// Erasure is something that is to be forgotten, or has been.
type Erasure struct {
	ID          string          `db:"erasure"`
	Stream      domain.StreamID `db:"stream"` // of the conversation or the account
	Account     string          `db:"account"`
	RequestedAt time.Time       `db:"at"`
	DoneAt      *time.Time      `db:"done_at"` // nil until it is gone from every store
}

// Erasures answers about what was erased. What it says of how far that has come is the policy's own table, which no event
// fills.
type Erasures struct{ pool *pgxpool.Pool }

// NewErasures asks through a pool on the primary.
func NewErasures(pool *pgxpool.Pool) Erasures { return Erasures{pool} }

// Get returns an account's erasure by its id, or ErrNotFound. Without an account it returns anybody's.
func (e Erasures) Get(ctx context.Context, account, id string) (Erasure, error) {
	// The conversations that go with an account share its erasure.
	const query = `
		SELECT r.erasure, r.stream, r.account, r.at, n.done_at
		FROM erasures r LEFT JOIN nido.erasures n ON n.id = r.erasure
		WHERE r.erasure = $2 AND ($1 = '' OR r.account = $1)
		ORDER BY r.with_account LIMIT 1`
	return one[Erasure](ctx, e.pool, "read the erasure", query, clean(account), clean(id))
}

// Of returns the erasure of a stream, or ErrNotFound.
func (e Erasures) Of(ctx context.Context, stream domain.StreamID) (Erasure, error) {
	const query = `
		SELECT r.erasure, r.stream, r.account, r.at, n.done_at
		FROM erasures r LEFT JOIN nido.erasures n ON n.id = r.erasure
		WHERE r.stream = $1`
	return one[Erasure](ctx, e.pool, "read the erasure", query, clean(stream))
}

// Generations says how many of some conversations have been erased, agent by agent: those that an account's client has
// called by one id, one after the other, each by its HMAC. Without an agent it says so of all that the account has.
func (e Erasures) Generations(ctx context.Context, account, agentID string, macs []string) (map[string]int, error) {
	const query = `
		SELECT split_part(substr(stream, length('conversation-') + 1), '.', 1) AS agent, count(*) AS erased FROM erasures
		WHERE account = $1 AND id_mac = ANY($2) AND ($3 = '' OR starts_with(stream, 'conversation-' || $3 || '.'))
		GROUP BY 1`
	type row struct {
		Agent  string `db:"agent"`
		Erased int    `db:"erased"`
	}
	found, err := all[row](ctx, e.pool, "count the erased conversations", query, clean(account), cleanAll(macs), clean(agentID))
	counts := make(map[string]int, len(found))
	for _, one := range found {
		counts[one.Agent] = one.Erased
	}
	return counts, err
}

// Place is where the log keeps an erasure.
type Place struct {
	Erasure
	Part int32 `db:"part"`
	Off  int64 `db:"off"`
}

// Next returns the erasures that nobody has taken up yet, those of conversations that go with their account left out, in
// the order of each partition. limit bounds them for each partition.
func (e Erasures) Next(ctx context.Context, limit int) ([]Place, error) {
	const query = `
		SELECT r.erasure, r.stream, r.account, r.at, NULL::timestamptz AS done_at, r.part, r.off
		FROM checkpoints c LEFT JOIN nido.erasure_marks m ON m.part = c.part
		CROSS JOIN LATERAL (
			SELECT * FROM erasures
			WHERE part = c.part AND off > COALESCE(m.off, -1) AND NOT with_account
			ORDER BY off LIMIT $1
		) r
		ORDER BY r.part, r.off`
	return all[Place](ctx, e.pool, "list the erasures to take up", query, limit)
}

// LeftConversation is one that is still there although its account is being erased.
type LeftConversation struct {
	Stream    domain.StreamID `db:"stream"`
	Account   string          `db:"account"`
	CreatedAt time.Time       `db:"created_at"`
}

// Conversations lists an account's conversations behind one of them, nil for the first ones.
func (e Erasures) Conversations(ctx context.Context, account string, behind *LeftConversation, limit int) ([]LeftConversation, error) {
	const query = `
		SELECT stream, account, created_at FROM conversations
		WHERE account = $1 AND (created_at, stream) > ($2, $3)
		ORDER BY created_at, stream LIMIT $4`
	at, stream := startOfTime, ""
	if behind != nil {
		at, stream = pgtype.Timestamptz{Time: behind.CreatedAt, Valid: true}, string(behind.Stream)
	}
	return all[LeftConversation](ctx, e.pool, "list the account's conversations", query, clean(account), at, stream, limit)
}

// Left lists conversations of accounts whose erasure is done: their turns were admitted before it, and committed after.
func (e Erasures) Left(ctx context.Context, limit int) ([]LeftConversation, error) {
	const query = `
		SELECT c.stream, c.account, c.created_at
		FROM accounts a JOIN erasures r ON r.stream = 'account-' || a.account JOIN nido.erasures n ON n.id = r.erasure
		CROSS JOIN LATERAL (SELECT * FROM conversations WHERE account = a.account LIMIT $1) c
		WHERE a.erased_at IS NOT NULL AND n.done_at IS NOT NULL
		LIMIT $1`
	return all[LeftConversation](ctx, e.pool, "list what is left of erased accounts", query, limit)
}
