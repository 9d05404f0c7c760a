package projections

// This file is the read model of conversations. Events: conversation.*, message.received, reply.*. Table: conversations.
// Questions: in conversations_query.go.

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// conversationsFold gathers one row per conversation of the batch.
type conversationsFold struct {
	rows  map[domain.StreamID]*conversationChange
	order []domain.StreamID
}

// conversationChange is what a batch does to a conversation.
type conversationChange struct {
	started  *conversation.Started // where the batch holds its beginning
	at       time.Time             // of that
	messages int64                 // how many were added
	last     time.Time             // when the last of them came, the zero time if none did
	status   conversation.Status
	erased   bool
}

func (f *conversationsFold) fold(commit accepted) {
	state, ok := commit.state.(conversation.State)
	if !ok {
		return
	}
	row, ok := f.rows[commit.Stream]
	if !ok {
		row = &conversationChange{}
		if f.rows == nil {
			f.rows = map[domain.StreamID]*conversationChange{}
		}
		f.rows[commit.Stream] = row
		f.order = append(f.order, commit.Stream)
	}
	row.status = state.Status
	for _, event := range commit.events {
		switch e := event.(type) {
		case conversation.Started:
			row.started, row.at = &e, commit.Time
		case conversation.MessageReceived:
			row.add(e.Text, e.Received)
		case conversation.ReplyCompleted:
			row.add(e.Text, e.At)
		case conversation.ReplyFailed:
			row.add(e.Text, e.At)
		case conversation.ReplyCancelled:
			row.add(e.Text, e.At)
		case conversation.Erased:
			row.erased = true // and nothing comes behind it
		}
	}
}

func (c *conversationChange) add(text domain.Sealed, at time.Time) {
	if text.IsZero() {
		return // a reply that failed before its first word is no message
	}
	c.messages++
	if at.After(c.last) {
		c.last = at
	}
}

func (f *conversationsFold) write(batch *pgx.Batch) {
	const erase = `DELETE FROM conversations WHERE stream = ANY($1)`
	var erased []string
	var begun newConversations
	var known knownConversations
	for _, id := range f.order {
		row := f.rows[id]
		switch {
		case row.erased:
			erased = append(erased, string(id))
		case row.started != nil:
			begun.add(id, row)
		default:
			known.add(id, row)
		}
	}
	if len(erased) > 0 {
		batch.Queue(erase, erased)
	}
	begun.write(batch)
	known.write(batch)
}

// newConversations are the columns of the rows to insert.
type newConversations struct {
	streams, accounts, agents, macs, idKeys, keys, statuses, metadataKeys []string
	ids, metadata                                                         [][]byte
	messages                                                              []int64
	created, last                                                         []time.Time
}

func (n *newConversations) add(id domain.StreamID, row *conversationChange) {
	n.streams = append(n.streams, string(id))
	n.accounts = append(n.accounts, indexed(row.started.Account))
	n.agents = append(n.agents, indexed(row.started.Agent))
	n.macs = append(n.macs, indexed(row.started.IDMAC))
	n.idKeys = append(n.idKeys, clean(row.started.ID.Key))
	n.ids = append(n.ids, bytesOrEmpty(row.started.ID.Data))
	n.keys = append(n.keys, clean(row.started.Key))
	n.statuses = append(n.statuses, clean(row.status))
	n.messages = append(n.messages, row.messages)
	n.created = append(n.created, row.at)
	n.last = append(n.last, later(row.at, row.last))
	n.metadataKeys = append(n.metadataKeys, clean(row.started.Metadata.Key))
	n.metadata = append(n.metadata, bytesOrEmpty(row.started.Metadata.Data))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (n *newConversations) write(batch *pgx.Batch) {
	const insert = `
		INSERT INTO conversations (stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at,
			last_message_at, metadata_key, metadata_data)
		SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
			unnest($6::bytea[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bigint[]), unnest($10::timestamptz[]),
			unnest($11::timestamptz[]), unnest($12::text[]), unnest($13::bytea[])
		ON CONFLICT (stream) DO NOTHING`
	if len(n.streams) > 0 {
		batch.Queue(insert, n.streams, n.accounts, n.agents, n.macs, n.idKeys, n.ids, n.keys, n.statuses, n.messages, n.created,
			n.last, n.metadataKeys, n.metadata)
	}
}

// knownConversations are the columns of the rows to change.
type knownConversations struct {
	streams, statuses []string
	messages          []int64
	last              []time.Time
}

func (k *knownConversations) add(id domain.StreamID, row *conversationChange) {
	k.streams = append(k.streams, string(id))
	k.statuses = append(k.statuses, clean(row.status))
	k.messages = append(k.messages, row.messages)
	k.last = append(k.last, row.last)
}

func (k *knownConversations) write(batch *pgx.Batch) {
	const update = `
		UPDATE conversations c
		SET status = u.status, message_count = c.message_count + u.messages, last_message_at = greatest(c.last_message_at, u.last)
		FROM (
			SELECT unnest($1::text[]) AS stream, unnest($2::text[]) AS status, unnest($3::bigint[]) AS messages,
				unnest($4::timestamptz[]) AS last
		) u
		WHERE c.stream = u.stream`
	if len(k.streams) > 0 {
		batch.Queue(update, k.streams, k.statuses, k.messages, k.last)
	}
}
