package projections

// This file stands inside the fold into ClickHouse: which row each event of a conversation becomes.

import (
	"context"
	"strings"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// clickhouseRows gathers the rows of one batch, with their texts still sealed.
type clickhouseRows struct {
	messages      []clickhouseMessage
	conversations []clickhouseConversation
	insertBy      time.Time
}

// clickhouseEvent is an event's identity and place, which every row carries.
type clickhouseEvent struct {
	account, agent, stream string
	version                int64
	index                  uint16
	at                     time.Time
	position               domain.Position
}

type clickhouseMessage struct {
	clickhouseEvent
	kind, turn, message   string
	sealed                domain.Sealed
	text                  string
	said, erased          bool
	model, code           string
	usage                 conversation.Usage
	firstReply, fullReply time.Duration
}

type clickhouseConversation struct {
	clickhouseEvent
	kind                     string
	sealedID, sealedMetadata domain.Sealed
	id, metadata             string
	erased, byMessage        bool
}

// foldAll turns records into rows, up to the first that is unreadable, and returns how many those are.
func (r *clickhouseRows) foldAll(records []domain.Recorded, rejected map[int64]bool) (readable int, unreadable error) {
	for i, record := range records {
		if record.Skipped || rejected[record.Offset] {
			continue // before it is decoded: nobody ever has to read it
		}
		if err := r.fold(record); err != nil {
			return i, &Unreadable{Position: record.Position, Err: err}
		}
	}
	return len(records), nil
}

// fold turns a commit into rows. Streams that are not conversations have none here.
func (r *clickhouseRows) fold(record domain.Recorded) error {
	if record.Stream.Kind() != conversation.Aggregate.Kind {
		return nil
	}
	// The agent is part of the stream's name, so that no event has to repeat it and no row of another has to be read.
	agent, _, _ := strings.Cut(record.Stream.Name(), ".")
	for i, stored := range record.Events {
		event, err := conversation.Aggregate.Codec.Decode(stored)
		if err != nil {
			r.drop(record.Position)
			return err
		}
		r.add(clickhouseEvent{
			account: record.Account, agent: agent, stream: string(record.Stream),
			version: int64(record.Version()), index: uint16(i), at: record.Time, position: record.Position,
		}, event)
	}
	return nil
}

// drop takes back the rows of a commit whose later events cannot be read: all of it or nothing.
func (r *clickhouseRows) drop(position domain.Position) {
	for n := len(r.messages); n > 0 && r.messages[n-1].position == position; n-- {
		r.messages = r.messages[:n-1]
	}
	for n := len(r.conversations); n > 0 && r.conversations[n-1].position == position; n-- {
		r.conversations = r.conversations[:n-1]
	}
}

func (r *clickhouseRows) add(at clickhouseEvent, event any) {
	switch e := event.(type) {
	case conversation.Started:
		r.conversations = append(r.conversations, clickhouseConversation{
			clickhouseEvent: at, kind: "started", sealedID: e.ID, sealedMetadata: e.Metadata,
		})
	case conversation.Resolved:
		r.conversations = append(r.conversations, clickhouseConversation{clickhouseEvent: at.when(e.At), kind: "resolved"})
	case conversation.Reopened:
		r.conversations = append(r.conversations, clickhouseConversation{
			clickhouseEvent: at.when(e.At), kind: "reopened", byMessage: e.ByMessage,
		})
	case conversation.MessageReceived:
		r.messages = append(r.messages, clickhouseMessage{
			clickhouseEvent: at.when(e.Received), kind: "received", turn: e.Turn, message: e.Message, sealed: e.Text,
		})
	case conversation.ReplyCompleted:
		r.messages = append(r.messages, clickhouseMessage{
			clickhouseEvent: at.when(e.At), kind: "completed", turn: e.Turn, message: e.Message, sealed: e.Text,
			model: e.Model, usage: e.Usage, firstReply: e.FirstReply, fullReply: e.FullReply,
		})
	case conversation.ReplyFailed:
		r.messages = append(r.messages, clickhouseMessage{
			clickhouseEvent: at.when(e.At), kind: "failed", turn: e.Turn, message: e.Message, sealed: e.Text,
			model: e.Model, usage: e.Usage, code: e.Code,
		})
	case conversation.ReplyCancelled:
		r.messages = append(r.messages, clickhouseMessage{
			clickhouseEvent: at.when(e.At), kind: "cancelled", turn: e.Turn, message: e.Message, sealed: e.Text,
			model: e.Model, usage: e.Usage,
		})
	}
}

// when is the event at its own time, where it has one.
func (e clickhouseEvent) when(own time.Time) clickhouseEvent {
	if !own.IsZero() {
		e.at = own
	}
	return e
}

// open asks for all texts of the batch at once: the keys are read by one query, and never kept.
func (r *clickhouseRows) open(ctx context.Context, opener Opener) error {
	var sealed []domain.Sealed
	var opened []func(plain []byte, erased bool)
	ask := func(text domain.Sealed, into *string, mark *bool) {
		if text.IsZero() {
			return
		}
		sealed = append(sealed, text)
		opened = append(opened, func(plain []byte, erased bool) {
			*into = string(plain)
			*mark = *mark || erased
		})
	}
	for i := range r.messages {
		m := &r.messages[i]
		m.said = !m.sealed.IsZero()
		ask(m.sealed, &m.text, &m.erased)
	}
	for i := range r.conversations {
		c := &r.conversations[i]
		ask(c.sealedID, &c.id, &c.erased)
		ask(c.sealedMetadata, &c.metadata, &c.erased)
	}
	if len(sealed) == 0 {
		return nil
	}
	plain, erased, err := opener.Open(ctx, sealed)
	if err != nil {
		return err
	}
	for i, put := range opened {
		put(plain[i], erased[i])
	}
	return nil
}

const clickhouseMessagesInsert = `INSERT INTO {db:Identifier}.messages (account, agent_id, at, stream, version, idx,
	kind, said, turn_id, message_id, text, erased, model, error_code, input_tokens, output_tokens, first_reply_us, full_reply_us, part, off, insert_by)`

func (r *clickhouseRows) addMessage(i int, add func(...any) error) error {
	m := &r.messages[i]
	return add(m.account, m.agent, clickhouseTime(m.at), m.stream, m.version, m.index,
		m.kind, m.said, m.turn, m.message, m.text, m.erased, m.model, m.code, m.usage.InputTokens, m.usage.OutputTokens,
		m.firstReply.Microseconds(), m.fullReply.Microseconds(), m.position.Partition, m.position.Offset, r.insertBy)
}

const clickhouseConversationsInsert = `INSERT INTO {db:Identifier}.conversations (account, agent_id, at, stream, version, idx,
	kind, conversation_id, metadata, erased, by_message, part, off, insert_by)`

func (r *clickhouseRows) addConversation(i int, add func(...any) error) error {
	c := &r.conversations[i]
	return add(c.account, c.agent, clickhouseTime(c.at), c.stream, c.version, c.index,
		c.kind, c.id, c.metadata, c.erased, c.byMessage, c.position.Partition, c.position.Offset, r.insertBy)
}
