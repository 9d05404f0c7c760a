package projections

// This file is the read model of messages. Events: message.received, reply.*. Table: messages. Questions: the messages
// of a conversation, the end of a turn.

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// Outcome says what a row of messages is about.
type Outcome string

// The outcomes: a message came in, or a reply ended.
const (
	Received  Outcome = "received"
	Completed Outcome = "completed"
	Failed    Outcome = "failed"
	Cancelled Outcome = "cancelled"
)

// Roles of a message, as the model's providers name them.
const (
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// messagesFold holds the columns of the rows to insert.
type messagesFold struct {
	streams, ids, turns, roles, outcomes, codes, textKeys, models, finishes []string
	estimated                                                               []bool
	versions, inputTokens, outputTokens, firstReply, fullReply              []int64
	indexes                                                                 []int32
	texts                                                                   [][]byte
	at                                                                      []time.Time
	erased                                                                  []string
}

func (f *messagesFold) fold(commit accepted) {
	for i, event := range commit.events {
		var m Message
		switch e := event.(type) {
		case conversation.MessageReceived:
			m = Message{ID: e.Message, Turn: e.Turn, Role: RoleUser, Outcome: Received, Text: e.Text, At: e.Received}
		case conversation.ReplyCompleted:
			m = Message{
				ID: e.Message, Turn: e.Turn, Role: RoleAssistant, Outcome: Completed, Text: e.Text, Model: e.Model, Usage: e.Usage,
				FirstReply: e.FirstReply, FullReply: e.FullReply, Finish: e.Finish, At: e.At,
			}
		case conversation.ReplyFailed:
			m = Message{
				ID: e.Message, Turn: e.Turn, Role: RoleAssistant, Outcome: Failed, Code: e.Code, Text: e.Text, Model: e.Model,
				Usage: e.Usage, At: e.At,
			}
		case conversation.ReplyCancelled:
			m = Message{
				ID: e.Message, Turn: e.Turn, Role: RoleAssistant, Outcome: Cancelled, Text: e.Text, Model: e.Model, Usage: e.Usage,
				At: e.At,
			}
		case conversation.Erased:
			f.erased = append(f.erased, string(commit.Stream))
			continue
		default:
			continue
		}
		m.Version, m.Index = commit.Version(), i
		f.add(commit.Stream, m)
	}
}

func (f *messagesFold) add(stream domain.StreamID, m Message) {
	f.streams = append(f.streams, string(stream))
	f.versions = append(f.versions, int64(m.Version))
	f.indexes = append(f.indexes, int32(m.Index))
	f.ids = append(f.ids, clean(m.ID))
	f.turns = append(f.turns, indexed(m.Turn))
	f.roles = append(f.roles, m.Role)
	f.outcomes = append(f.outcomes, string(m.Outcome))
	f.codes = append(f.codes, clean(m.Code))
	f.textKeys = append(f.textKeys, clean(m.Text.Key))
	f.texts = append(f.texts, bytesOrEmpty(m.Text.Data))
	f.models = append(f.models, clean(m.Model))
	f.inputTokens = append(f.inputTokens, m.Usage.InputTokens)
	f.outputTokens = append(f.outputTokens, m.Usage.OutputTokens)
	f.estimated = append(f.estimated, m.Usage.Estimated)
	f.finishes = append(f.finishes, clean(m.Finish))
	f.firstReply = append(f.firstReply, int64(m.FirstReply))
	f.fullReply = append(f.fullReply, int64(m.FullReply))
	f.at = append(f.at, m.At)
}

func (f *messagesFold) write(batch *pgx.Batch) {
	const insert = `
		INSERT INTO messages (stream, version, idx, id, turn, role, outcome, code, text_key, text_data, model, input_tokens,
			output_tokens, estimated, finish, first_reply_ns, full_reply_ns, at)
		SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::integer[]), unnest($4::text[]), unnest($5::text[]),
			unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::bytea[]),
			unnest($11::text[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::boolean[]), unnest($15::text[]),
			unnest($16::bigint[]), unnest($17::bigint[]), unnest($18::timestamptz[])`
	const erase = `DELETE FROM messages WHERE stream = ANY($1)`
	if len(f.erased) > 0 {
		defer batch.Queue(erase, f.erased) // those of this batch too
	}
	if len(f.streams) > 0 {
		batch.Queue(insert, f.streams, f.versions, f.indexes, f.ids, f.turns, f.roles, f.outcomes, f.codes, f.textKeys, f.texts,
			f.models, f.inputTokens, f.outputTokens, f.estimated, f.finishes, f.firstReply, f.fullReply, f.at)
	}
}

// Message is something that was said, or the end of a turn in which nothing was.
type Message struct {
	Version    domain.Version // of the conversation, once it was in
	Index      int            // of the event within its commit
	ID         string
	Turn       string
	Role       string
	Outcome    Outcome
	Code       string        // why it failed
	Text       domain.Sealed // zero for none
	Model      string
	Usage      conversation.Usage
	Finish     conversation.Finish // why a whole reply ends where it does
	FirstReply time.Duration
	FullReply  time.Duration
	At         time.Time
}

// MessagePage asks for the next messages of a conversation, oldest first.
type MessagePage struct {
	Limit int
	After *MessageCursor // the last message of the page before, nil for the first page
}

// MessageCursor is a place in a conversation.
type MessageCursor struct {
	Version domain.Version
	Index   int
}

// Messages returns the messages of an account's conversation, oldest first, and where the next page begins. Ends of
// turns without a text are among them, so that a reader sees what failed.
func (c Conversations) Messages(ctx context.Context, account string, stream domain.StreamID, page MessagePage) ([]Message, *MessageCursor, error) {
	const query = `
		SELECT m.version, m.idx, m.id, m.turn, m.role, m.outcome, m.code, m.text_key, m.text_data, m.model, m.input_tokens,
			m.output_tokens, m.estimated, m.finish, m.first_reply_ns, m.full_reply_ns, m.at
		FROM conversations c JOIN messages m ON m.stream = c.stream
		WHERE c.stream = $2 AND c.account = $1 AND (m.version, m.idx) > ($3, $4)
		ORDER BY m.version, m.idx
		LIMIT $5`
	after := MessageCursor{}
	if page.After != nil {
		after = *page.After
	}
	limit := limited(page.Limit)
	rows, err := all[messageRow](ctx, c.pool, "list the messages", query, clean(account), clean(stream), int64(after.Version), int32(after.Index), limit+1)
	if err != nil {
		return nil, nil, err
	}
	var next *MessageCursor
	if len(rows) > limit {
		rows = rows[:limit]
		next = &MessageCursor{domain.Version(rows[limit-1].Version), rows[limit-1].Index}
	}
	found := make([]Message, len(rows))
	for i, row := range rows {
		found[i] = row.message()
	}
	return found, next, nil
}

// Turn returns the end of a turn of an account's conversation, or ErrNotFound while it has none.
func (c Conversations) Turn(ctx context.Context, account string, stream domain.StreamID, turn string) (Message, error) {
	const query = `
		SELECT m.version, m.idx, m.id, m.turn, m.role, m.outcome, m.code, m.text_key, m.text_data, m.model, m.input_tokens,
			m.output_tokens, m.estimated, m.finish, m.first_reply_ns, m.full_reply_ns, m.at
		FROM conversations c JOIN messages m ON m.stream = c.stream
		WHERE c.stream = $2 AND c.account = $1 AND m.turn = $3 AND m.outcome <> 'received'
		ORDER BY m.version DESC
		LIMIT 1`
	row, err := one[messageRow](ctx, c.pool, "read the turn's end", query, clean(account), clean(stream), clean(turn))
	if err != nil {
		return Message{}, err
	}
	return row.message(), nil
}

// messageRow is a row of messages.
type messageRow struct {
	Version      int64     `db:"version"`
	Index        int       `db:"idx"`
	ID           string    `db:"id"`
	Turn         string    `db:"turn"`
	Role         string    `db:"role"`
	Outcome      Outcome   `db:"outcome"`
	Code         string    `db:"code"`
	TextKey      string    `db:"text_key"`
	TextData     []byte    `db:"text_data"`
	Model        string    `db:"model"`
	InputTokens  int64     `db:"input_tokens"`
	OutputTokens int64     `db:"output_tokens"`
	Estimated    bool      `db:"estimated"`
	Finish       string    `db:"finish"`
	FirstReply   int64     `db:"first_reply_ns"`
	FullReply    int64     `db:"full_reply_ns"`
	At           time.Time `db:"at"`
}

func (r messageRow) message() Message {
	return Message{
		Version: domain.Version(r.Version), Index: r.Index, ID: r.ID, Turn: r.Turn, Role: r.Role, Outcome: r.Outcome, Code: r.Code,
		Text: sealed(r.TextKey, r.TextData), Model: r.Model,
		Usage:      conversation.Usage{InputTokens: r.InputTokens, OutputTokens: r.OutputTokens, Estimated: r.Estimated},
		Finish:     conversation.Finish(r.Finish),
		FirstReply: time.Duration(r.FirstReply), FullReply: time.Duration(r.FullReply), At: r.At,
	}
}
