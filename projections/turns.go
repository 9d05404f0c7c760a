package projections

// This file is the read model of open turns. Events: message.received opens one, reply.* and
// conversation.erased end it. Table: turns. Question: which ones has nobody to end them.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// turnsFold knows, for every conversation of the batch, which turn is open behind it.
type turnsFold struct {
	rows  map[domain.StreamID]*turnChange
	order []domain.StreamID
}

// turnChange is what a batch does to a conversation's open turn.
type turnChange struct {
	stored bool                   // the table may have a row for a turn from before the batch
	open   *conversation.OpenTurn // behind the batch
}

func (f *turnsFold) fold(commit accepted) {
	state, ok := commit.state.(conversation.State)
	if !ok {
		return
	}
	for _, event := range commit.events {
		switch event.(type) {
		case conversation.MessageReceived:
			f.row(commit.Stream, false).open = state.Turn
		case conversation.ReplyCompleted, conversation.ReplyFailed, conversation.ReplyCancelled, conversation.Erased:
			f.row(commit.Stream, true).open = state.Turn
		}
	}
}

// row finds the conversation's change; one whose first event in the batch ends a turn had it open before.
func (f *turnsFold) row(stream domain.StreamID, stored bool) *turnChange {
	row, ok := f.rows[stream]
	if !ok {
		row = &turnChange{stored: stored}
		if f.rows == nil {
			f.rows = map[domain.StreamID]*turnChange{}
		}
		f.rows[stream] = row
		f.order = append(f.order, stream)
	}
	return row
}

func (f *turnsFold) write(batch *pgx.Batch) {
	const upsert = `
		INSERT INTO turns (stream, turn, boot, received, deadline)
		SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::timestamptz[]), unnest($5::timestamptz[])
		ON CONFLICT (stream) DO UPDATE SET turn = excluded.turn, boot = excluded.boot, received = excluded.received,
			deadline = excluded.deadline`
	const remove = `DELETE FROM turns WHERE stream = ANY($1)`
	var ended, opened, turns, boots []string
	var received, deadlines []time.Time
	for _, id := range f.order {
		row := f.rows[id]
		if row.open == nil {
			if row.stored {
				ended = append(ended, string(id))
			}
			continue
		}
		opened = append(opened, string(id))
		turns = append(turns, indexed(row.open.ID))
		boots = append(boots, clean(row.open.Boot))
		received = append(received, row.open.Received)
		deadlines = append(deadlines, row.open.Deadline)
	}
	if len(ended) > 0 {
		batch.Queue(remove, ended)
	}
	if len(opened) > 0 {
		batch.Queue(upsert, opened, turns, boots, received, deadlines)
	}
}

// Busy returns those of the conversations in which a turn is open.
func (c Conversations) Busy(ctx context.Context, conversations []domain.StreamID) ([]domain.StreamID, error) {
	const query = `SELECT stream FROM turns WHERE stream = ANY($1)`
	names := make([]string, len(conversations))
	for i, conversation := range conversations {
		names[i] = clean(conversation)
	}
	rows, err := c.pool.Query(ctx, query, names)
	if err != nil {
		return nil, fmt.Errorf("list the busy conversations: %w", err)
	}
	busy, err := pgx.CollectRows(rows, pgx.RowTo[domain.StreamID])
	if err != nil {
		return nil, fmt.Errorf("list the busy conversations: %w", err)
	}
	return busy, nil
}

// OpenTurn is a received message that has no end yet.
type OpenTurn struct {
	Stream   domain.StreamID `db:"stream"`
	Account  string          `db:"account"`
	Agent    string          `db:"agent"`
	Key      string          `db:"key"` // the conversation's data key
	Turn     string          `db:"turn"`
	Boot     string          `db:"boot"`
	Received time.Time       `db:"received"`
	Deadline time.Time       `db:"deadline"`
}

// Closed returns those of some turns that have had their end, or whose conversation was erased while they ran. That a turn
// is not among the open ones would not do: the tables may be being filled anew.
func (c Conversations) Closed(ctx context.Context, turns []string) ([]string, error) {
	const query = `
		SELECT turn FROM messages WHERE turn = ANY($1) AND outcome <> 'received'
		UNION ALL
		SELECT turn FROM erasures WHERE turn = ANY($1) AND turn <> ''`
	type row struct {
		Turn string `db:"turn"`
	}
	found, err := all[row](ctx, c.pool, "look for open turns", query, cleanAll(turns))
	closed := make([]string, len(found))
	for i, one := range found {
		closed[i] = one.Turn
	}
	return closed, err
}

// Orphans says which open turns have nobody to end them.
type Orphans struct {
	Living []string  // the boots that are alive
	Before time.Time // a boot that is not among them counts as dead for turns received before this: it may be younger than the list
	Now    time.Time // turns whose deadline lies before this are ended whoever works on them
	Limit  int
}

// OpenTurns returns turns that the sweeper has to end, the oldest first.
func (c Conversations) OpenTurns(ctx context.Context, orphans Orphans) ([]OpenTurn, error) {
	const query = `
		SELECT t.stream, c.account, c.agent, c.key, t.turn, t.boot, t.received, t.deadline
		FROM turns t JOIN conversations c ON c.stream = t.stream
		WHERE t.deadline < $3 OR (t.received < $2 AND t.boot <> ALL($1))
		ORDER BY t.received, t.stream
		LIMIT $4`
	return all[OpenTurn](ctx, c.pool, "list the orphaned turns", query, cleanAll(orphans.Living), orphans.Before, orphans.Now, limited(orphans.Limit))
}
