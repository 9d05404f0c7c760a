package projections

// This file stands below the questions to ClickHouse: their bounds, and how rows come back.

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// logsContext bounds a question: its time on both sides, its threads' memory and its answer.
func logsContext(ctx context.Context, maxRows int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, logsTimeout)
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"max_execution_time":   int(logsTimeout.Seconds()),
		"max_memory_usage":     512 << 20,
		"max_result_rows":      maxRows,
		"result_overflow_mode": "throw",
		"readonly":             2, // settings may be set, nothing else may change
	})), cancel
}

// logsBound is an instant, or the end of time that stands for none.
func logsBound(at, none time.Time) time.Time {
	if at.IsZero() {
		return none
	}
	return clickhouseTime(at)
}

// logsRarest keeps as many words as a search may have.
func logsRarest(words []string) []string {
	if len(words) > logsMaxWords {
		slices.SortStableFunc(words, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	}
	return words[:min(len(words), logsMaxWords)]
}

// logsRow is a request as it comes back.
type logsRow struct {
	Request
	status              uint16
	latency, firstToken uint64 // microseconds
}

// columns are those that the list and a single entry share.
func (r *logsRow) columns() []any {
	return []any{&r.Account, &r.At, &r.ID, &r.KeyID, &r.AgentID, &r.ConversationID, &r.Method, &r.Route, &r.Path, &r.Query, &r.status,
		&r.latency, &r.firstToken, &r.ErrorCode, &r.Model, &r.InputTokens, &r.OutputTokens, &r.ClientRequestID, &r.RemoteIP, &r.UserAgent,
		&r.Trace, &r.Erased}
}

func (r *logsRow) request() Request {
	r.At = r.At.UTC()
	r.Status = int(r.status)
	r.Latency = time.Duration(r.latency) * time.Microsecond
	r.FirstToken = time.Duration(r.firstToken) * time.Microsecond
	return r.Request
}

// logsCollect reads all rows. An error can come behind the last of them: an answer cut short is none.
func logsCollect[T any](rows driver.Rows, read func(scan func(...any) error) (T, error)) (list []T, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		row, err := read(rows.Scan)
		if err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, rows.Err()
}
