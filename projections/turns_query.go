package projections

// This file is the question about one turn: whose it is, and how it ended, if it has. Tables: turns, messages,
// conversations.

import (
	"context"
	"time"

	"github.com/nidohq/nido/domain"
)

// Turn is a turn, by its id.
type Turn struct {
	Stream         domain.StreamID
	Agent          string
	ConversationID domain.Sealed // the client's id
	Received       time.Time     // of its message, or the last thing that is known to lie close behind that
	End            *Message      // nil while it is open
}

// FindTurn returns an account's turn, or ErrNotFound.
func (c Conversations) FindTurn(ctx context.Context, account, turn string) (Turn, error) {
	// One statement, and so one snapshot: a turn that ends now is either open or has its end.
	const query = `
		SELECT c.stream, c.agent, c.id_key, c.id_data, NULL::timestamptz AS received,
			m.version, m.idx, m.id, m.turn, m.role, m.outcome, m.code, m.text_key, m.text_data, m.model, m.input_tokens,
			m.output_tokens, m.estimated, m.finish, m.first_reply_ns, m.full_reply_ns, m.at
		FROM messages m JOIN conversations c ON c.stream = m.stream
		WHERE m.turn = $2 AND m.outcome <> 'received' AND c.account = $1
		UNION ALL
		SELECT c.stream, c.agent, c.id_key, c.id_data, t.received,
			0, 0, '', t.turn, '', '', '', '', '', '', 0, 0, false, '', 0, 0, t.received
		FROM turns t JOIN conversations c ON c.stream = t.stream
		WHERE t.turn = $2 AND c.account = $1
		LIMIT 1`
	row, err := one[turnRow](ctx, c.pool, "read the turn", query, clean(account), clean(turn))
	if err != nil {
		return Turn{}, err
	}
	found := Turn{Stream: domain.StreamID(row.Stream), Agent: row.Agent, ConversationID: sealed(row.IDKey, row.IDData)}
	if row.Received != nil {
		found.Received = *row.Received
		return found, nil
	}
	end := row.message()
	found.End, found.Received = &end, end.At.Add(-end.FullReply)
	return found, nil
}

// turnRow is an open turn, or the end of one.
type turnRow struct {
	Stream   string     `db:"stream"`
	Agent    string     `db:"agent"`
	IDKey    string     `db:"id_key"`
	IDData   []byte     `db:"id_data"`
	Received *time.Time `db:"received"`
	messageRow
}
