package projections

// This file stands at the query: what an account may ask about all of its conversations together.

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nidohq/nido/domain"
)

// statsMaxRows bounds an answer: a year of a hundred agents' days fits in.
const statsMaxRows = 50_000

// Stats answers from the folds in ClickHouse. It is safe for concurrent use.
type Stats struct {
	store clickhouseStore
}

// NewStats returns the questions about one generation of the read models, such as the database "nido_1".
func NewStats(conn driver.Conn, database string) *Stats {
	return &Stats{store: clickhouseStore{conn: conn, database: database}}
}

// Following asks whichever generation serves: a rebuild switches while it runs.
func (s *Stats) Following(database func() string) *Stats {
	following := *s
	following.store.follow = database
	return &following
}

// StatsQuery says what is counted and what the rows are by.
type StatsQuery struct {
	From, To time.Time // From is included, To is not; zero is no bound
	AgentID  string    // empty: all agents
	ByAgent  bool
	ByDay    bool
	Location *time.Location // whose days; nil is UTC
}

// ConversationStats is one row: what happened in a period with an agent, or with all of them.
//
// Everything counts in the period in which it happened, so messages, tokens and failures of the days add up to those of
// the month. Conversations are those in which something was said in the period; one that lasts two days is counted on both.
type ConversationStats struct {
	AgentID       string // empty unless by agent
	Day           string // "2026-03-14", empty unless by day
	Conversations int64
	Messages      int64 // texts, of people and agents
	Resolved      int64 // of the conversations, those that stand resolved now
	Failures      int64 // replies that failed
	InputTokens   int64
	OutputTokens  int64
	FirstReply    Quantiles // of completed replies: from the message to the first token
	FullReply     Quantiles // of completed replies: from the message to the last
}

// ResolutionRate is the share of the conversations that stand resolved.
func (s ConversationStats) ResolutionRate() float64 { return statsRatio(s.Resolved, s.Conversations) }

// AverageMessages is how many messages a conversation had in the period.
func (s ConversationStats) AverageMessages() float64 { return statsRatio(s.Messages, s.Conversations) }

func statsRatio(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Quantiles are exact ones of a set of durations: the smallest that more than that share of them do not exceed. Count is
// the size of the set; where it is 0 the rest means nothing.
type Quantiles struct {
	Count         int64
	P50, P95, P99 time.Duration
}

// statsConversationsQuery counts the messages of a period, and asks the newest status of the conversations in it.
//
// A conversation that stands resolved and was spoken in during the period was resolved after that: a message to a resolved
// conversation reopens it. So only statuses since the period's begin are read, less an hour for nodes' clocks that differ.
// Statuses need no FINAL, since a copy of the newest is the newest.
//
// The conversations of a row are gathered first and looked up among the resolved ones afterwards, each once: looking up
// those of all messages takes as long as everything else together.
const statsConversationsQuery = `WITH resolved AS (
	SELECT conversation FROM {db:Identifier}.conversations
	WHERE account = {account:String} AND ({agent:String} = '' OR agent_id = {agent:String})
		AND at >= {from:DateTime64(3, 'UTC')} - INTERVAL 1 HOUR AND kind != 'started'
	GROUP BY conversation HAVING argMax(kind, bitShiftLeft(version, 16) + idx) = 'resolved')
SELECT
	agent, if({by_day:Bool}, toString(day), ''),
	toInt64(length(spoken)), messages, toInt64(arrayCount(c -> c IN (resolved), spoken)), failures, input, output, completed, first, full
FROM (
	SELECT
		if({by_agent:Bool}, agent_id, '') AS agent,
		if({by_day:Bool}, toDate(at, {tz:String}), toDate(0)) AS day,
		groupUniqArray(conversation) AS spoken,
		toInt64(countIf(said)) AS messages,
		toInt64(countIf(kind = 'failed')) AS failures,
		sum(input_tokens) AS input, sum(output_tokens) AS output,
		toInt64(countIf(kind = 'completed')) AS completed,
		quantilesExactIf(0.5, 0.95, 0.99)(first_reply_us, kind = 'completed') AS first,
		quantilesExactIf(0.5, 0.95, 0.99)(full_reply_us, kind = 'completed') AS full
	FROM {db:Identifier}.messages FINAL
	WHERE account = {account:String} AND ({agent:String} = '' OR agent_id = {agent:String})
		AND at >= {from:DateTime64(3, 'UTC')} AND at < {to:DateTime64(3, 'UTC')}
	GROUP BY agent, day)
ORDER BY agent, day
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1`

// Conversations counts an account's conversations and messages. Where nothing happened there is no row.
func (s *Stats) Conversations(ctx context.Context, account string, query StatsQuery) ([]ConversationStats, error) {
	location := query.Location
	if location == nil {
		location = time.UTC
	}
	if location == time.Local {
		return nil, domain.RefuseField("tz", "invalid_request", "the time zone needs a name", "la zona horaria necesita un nombre")
	}
	from, to := logsBound(query.From, clickhouseEarliest), logsBound(query.To, clickhouseLatest)
	if from.Before(clickhouseEarliest.Add(time.Hour)) {
		from = clickhouseEarliest.Add(time.Hour) // the query goes back one more, and the type must not wrap around
	}
	ctx, cancel := logsContext(ctx, statsMaxRows+1)
	defer cancel()
	store := s.store.now()
	rows, err := store.conn.Query(ctx, statsConversationsQuery,
		clickhouse.Named("db", store.database), clickhouse.Named("account", account), clickhouse.Named("agent", query.AgentID),
		clickhouse.Named("from", from), clickhouse.Named("to", to), clickhouse.Named("tz", location.String()),
		clickhouse.Named("by_agent", query.ByAgent), clickhouse.Named("by_day", query.ByDay), clickhouse.Named("limit", statsMaxRows+1))
	if err != nil {
		return nil, fmt.Errorf("count conversations: %w", err)
	}
	list, err := logsCollect(rows, statsRead)
	if err != nil {
		return nil, fmt.Errorf("count conversations: %w", err)
	}
	if len(list) > statsMaxRows {
		return nil, domain.RefuseField("to", "invalid_request", "the answer would have more than %d rows; ask for a shorter time", "la respuesta tendría más de %d filas; hay que pedir un período más corto", statsMaxRows)
	}
	return list, nil
}

func statsRead(scan func(...any) error) (row ConversationStats, err error) {
	var completed int64
	var first, full []int64
	err = scan(&row.AgentID, &row.Day, &row.Conversations, &row.Messages, &row.Resolved, &row.Failures,
		&row.InputTokens, &row.OutputTokens, &completed, &first, &full)
	if err != nil {
		return row, err
	}
	row.FirstReply, row.FullReply = statsQuantiles(completed, first), statsQuantiles(completed, full)
	return row, nil
}

func statsQuantiles(count int64, microseconds []int64) Quantiles {
	if count == 0 || len(microseconds) != 3 {
		return Quantiles{}
	}
	at := func(i int) time.Duration { return time.Duration(microseconds[i]) * time.Microsecond }
	return Quantiles{Count: count, P50: at(0), P95: at(1), P99: at(2)}
}

// Watermark is the time up to which every commit is in; zero where there is none yet.
func (s *Stats) Watermark(ctx context.Context) (time.Time, error) {
	return s.store.now().watermark(ctx)
}
