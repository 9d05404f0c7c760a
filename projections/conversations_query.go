package projections

// This file is the questions to the read model of conversations: list an account's, find one by the client's id.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// Conversation is a conversation as it stands; what the client said is sealed.
type Conversation struct {
	Stream        domain.StreamID
	Account       string
	Agent         string
	IDMAC         string
	ID            domain.Sealed // what the client calls it
	Key           string        // the data key of its texts
	Status        conversation.Status
	MessageCount  int64
	CreatedAt     time.Time
	LastMessageAt time.Time
	Metadata      domain.Sealed // zero for none
}

// ConversationFilter says which conversations to list. Zero fields do not filter.
type ConversationFilter struct {
	Agent  string
	Only   []string // agents that the caller's key is bound to; nil means all
	Status conversation.Status
	From   time.Time // created at or after
	To     time.Time // created before
}

// Conversations answers about conversations, their messages and turns.
type Conversations struct{ pool *pgxpool.Pool }

// NewConversations asks through a pool on the primary.
func NewConversations(pool *pgxpool.Pool) Conversations { return Conversations{pool} }

// List returns the account's conversations, newest first, and where the next page begins. The order is by creation and
// stream, which never change: by the last message a conversation would move under its reader, be seen twice or never,
// and every message would have to change an index.
func (c Conversations) List(ctx context.Context, account string, filter ConversationFilter, page Page) ([]Conversation, *Cursor, error) {
	// Four ways in, each through the index that has its order; what the index does not know is filtered on the way. Of the
	// agents that a key is bound to, each is asked by itself: they may have few of very many.
	const byAccount = `
		SELECT stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at,
			metadata_key, metadata_data
		FROM conversations
		WHERE account = $1 AND created_at >= $2 AND created_at < $3 AND (created_at, stream) < ($4, $5)
		ORDER BY created_at DESC, stream DESC
		LIMIT $6`
	const byStatus = `
		SELECT stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at,
			metadata_key, metadata_data
		FROM conversations
		WHERE account = $1 AND created_at >= $2 AND created_at < $3 AND (created_at, stream) < ($4, $5) AND status = $7
		ORDER BY created_at DESC, stream DESC
		LIMIT $6`
	const byAgent = `
		SELECT stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at,
			metadata_key, metadata_data
		FROM conversations
		WHERE agent = $8 AND account = $1 AND created_at >= $2 AND created_at < $3 AND (created_at, stream) < ($4, $5)
			AND ($7 = '' OR status = $7)
		ORDER BY created_at DESC, stream DESC
		LIMIT $6`
	const byAgents = `
		SELECT c.stream, c.account, c.agent, c.id_mac, c.id_key, c.id_data, c.key, c.status, c.message_count, c.created_at,
			c.last_message_at, c.metadata_key, c.metadata_data
		FROM (SELECT DISTINCT unnest($8::text[]) AS agent) bound
		CROSS JOIN LATERAL (
			SELECT * FROM conversations
			WHERE agent = bound.agent AND account = $1 AND created_at >= $2 AND created_at < $3 AND (created_at, stream) < ($4, $5)
				AND ($7 = '' OR status = $7)
			ORDER BY created_at DESC, stream DESC
			LIMIT $6
		) c
		ORDER BY c.created_at DESC, c.stream DESC
		LIMIT $6`
	if filter.Agent != "" && filter.Only != nil && !slices.Contains(filter.Only, filter.Agent) {
		return nil, nil, nil
	}
	at, stream := page.before()
	args := []any{clean(account), instant(filter.From, startOfTime), instant(filter.To, endOfTime), at, stream, page.limit()}
	query := byAccount
	switch {
	case filter.Agent != "":
		query, args = byAgent, append(args, clean(filter.Status), clean(filter.Agent))
	case filter.Only != nil:
		query, args = byAgents, append(args, clean(filter.Status), cleanAll(filter.Only))
	case filter.Status != "":
		query, args = byStatus, append(args, clean(filter.Status))
	}
	rows, err := all[conversationRow](ctx, c.pool, "list the conversations", query, args...)
	if err != nil {
		return nil, nil, err
	}
	rows, next := cut(rows, page, func(r conversationRow) Cursor { return Cursor{r.CreatedAt, r.Stream} })
	return conversations(rows), next, nil
}

// Get returns the account's conversation with the agent by the HMAC of the client's id, or ErrNotFound. Without an agent
// it returns the only one with that id, or ErrAmbiguous where several agents have one.
func (c Conversations) Get(ctx context.Context, account, agentID, mac string) (Conversation, error) {
	const byStream = `
		SELECT stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at,
			metadata_key, metadata_data
		FROM conversations
		WHERE stream = $2 AND account = $1`
	const byID = `
		SELECT stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at,
			metadata_key, metadata_data
		FROM conversations
		WHERE account = $1 AND id_mac = $2
		LIMIT 2`
	const doing = "read the conversation"
	query, name := byID, clean(mac)
	if agentID != "" {
		query, name = byStream, clean(ConversationStream(agentID, mac))
	}
	rows, err := all[conversationRow](ctx, c.pool, doing, query, clean(account), name)
	switch {
	case err != nil:
		return Conversation{}, err
	case len(rows) == 0:
		return Conversation{}, fmt.Errorf("%s: %w", doing, ErrNotFound)
	case len(rows) > 1:
		return Conversation{}, fmt.Errorf("%s: %w: several agents have one with this id", doing, ErrAmbiguous)
	}
	return rows[0].conversation(), nil
}

// ConversationStream names the stream of an agent's conversation by the HMAC of the client's id.
func ConversationStream(agentID, mac string) domain.StreamID {
	return conversation.Aggregate.Stream(agentID + "." + mac)
}

// conversationRow is a row of conversations: sealed texts take two columns.
type conversationRow struct {
	Stream        string              `db:"stream"`
	Account       string              `db:"account"`
	Agent         string              `db:"agent"`
	IDMAC         string              `db:"id_mac"`
	IDKey         string              `db:"id_key"`
	IDData        []byte              `db:"id_data"`
	Key           string              `db:"key"`
	Status        conversation.Status `db:"status"`
	MessageCount  int64               `db:"message_count"`
	CreatedAt     time.Time           `db:"created_at"`
	LastMessageAt time.Time           `db:"last_message_at"`
	MetadataKey   string              `db:"metadata_key"`
	MetadataData  []byte              `db:"metadata_data"`
}

func (r conversationRow) conversation() Conversation {
	return Conversation{
		Stream: domain.StreamID(r.Stream), Account: r.Account, Agent: r.Agent, IDMAC: r.IDMAC, ID: sealed(r.IDKey, r.IDData),
		Key: r.Key, Status: r.Status, MessageCount: r.MessageCount, CreatedAt: r.CreatedAt, LastMessageAt: r.LastMessageAt,
		Metadata: sealed(r.MetadataKey, r.MetadataData),
	}
}

func conversations(rows []conversationRow) []Conversation {
	found := make([]Conversation, len(rows))
	for i, row := range rows {
		found[i] = row.conversation()
	}
	return found
}

// sealed joins the two columns of a sealed text; nothing sealed comes out as the zero value.
func sealed(key string, data []byte) domain.Sealed {
	if len(data) == 0 {
		data = nil
	}
	return domain.Sealed{Key: key, Data: data}
}
