package projections

// This file stands at the fold: what a read model in Postgres is to the projector, and the list of them all.

import (
	"math"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
)

// aggregates are the kinds of streams that the log may hold.
var aggregates = []domain.Folder{
	account.Aggregate, agent.Aggregate, host.Aggregate, apikey.Aggregate, conversation.Aggregate,
}

// readModel folds the commits of one batch. It gathers rows in memory and queues its statements at the end; it sees only
// accepted commits, in the log's order, and touches only rows of the commit's own stream. What a read model does not
// know, it passes over, so that an event type is added in its aggregate and where it matters.
type readModel interface {
	fold(commit accepted)
	write(statements *pgx.Batch)
}

// readModels makes the read models that a batch is folded into.
func readModels() []readModel {
	return []readModel{
		&accountsFold{}, &agentsFold{}, &hostsFold{}, &keysFold{}, &conversationsFold{}, &messagesFold{}, &turnsFold{}, &erasuresFold{},
	}
}

// The folds are total: whatever accepted commits the log holds, none of them makes a statement fail. Deciders see to it
// that nothing is created twice; a fold that stopped at such a commit would only take the rest of the partition along.

// accepted is a commit that won, with its events decoded.
type accepted struct {
	domain.Recorded
	events []any // the aggregate's event structs
	state  any   // the aggregate's State behind the commit
}

// Rows are written as columns, one array for each: SELECT unnest($1), unnest($2), …, which walks through them side by side.
// FROM unnest($1, $2, …) says the same, and stores each column away before it reads the first row: 7 µs a column.

// statement is one row's statement, for the read models in which little happens.
type statement struct {
	sql  string
	args []any
}

// statements are queued in the order in which they were added.
type statements []statement

func (s *statements) add(sql string, args ...any) { *s = append(*s, statement{sql, args}) }

func (s *statements) write(batch *pgx.Batch) {
	for _, one := range *s {
		batch.Queue(one.sql, one.args...)
	}
}

// clean makes a text storable: Postgres refuses the character NUL, which JSON allows, and one such name in the log would
// stop the projector for ever. Decoded JSON is valid UTF-8 otherwise.
func clean[T ~string](text T) string {
	return strings.ReplaceAll(string(text), "\x00", "\uFFFD")
}

// indexed makes a text storable where an index has it, too: an index takes no row beyond a third of a page. Ids of ours are
// far shorter.
func indexed[T ~string](text T) string {
	cleaned := clean(text)
	if len(cleaned) <= maxIDBytes {
		return cleaned
	}
	return strings.ToValidUTF8(cleaned[:maxIDBytes], "")
}

// small makes a number storable in four bytes.
func small(number int) int32 { return int32(min(max(number, math.MinInt32), math.MaxInt32)) }

// cleanAll makes a list of texts storable; none is an empty list, not NULL.
func cleanAll[T ~string](texts []T) []string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = clean(text)
	}
	return all
}

// bytesOrEmpty keeps an absent sealed text apart from SQL's NULL.
func bytesOrEmpty(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}
