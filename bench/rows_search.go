//go:build linux

package main

// This file is the rows about questions to ClickHouse, over millions of rows that it makes up itself: log search and
// statistics, asked through the API.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	plantedAgents = 20
	plantedKeys   = 50
	plantedDays   = 29
	asks          = 40 // of each question
)

// plantRequests fills the request log: bodies of some 600 bytes, words of which a few are common, over the last days.
// One in a hundred thousand has a word of its own. Ids begin with the time, as those of requests do.
const plantRequests = `INSERT INTO {db:Identifier}.requests (account, at, request_id, key_id, agent_id, conversation_id, method, route, path, status,
	latency_us, model, input_tokens, output_tokens, remote_ip, user_agent, request_headers, response_headers, request_body, response_body, request_bytes,
	response_bytes, words, insert_by)
WITH arrayMap(i -> concat('palabra', toString(toUInt32(pow(cityHash64(number, i) / 18446744073709551616., 3) * 20000))), range(52)) AS drawn,
	arrayConcat(drawn, if(number % 100000 = 7, ['singular'], [])) AS spoken
SELECT 'default', now64(3) - toIntervalMillisecond(intDiv(({rows:UInt64} - number) * {span:UInt64}, {rows:UInt64})) AS at,
	concat('req_', arrayStringConcat(arrayMap(i -> substring('0123456789abcdefghijklmnopqrstuv',
		bitAnd(bitShiftRight(toUnixTimestamp64Milli(at) * 4, 45 - 5 * i), 31) + 1, 1), range(10))), leftPad(toString(number), 16, '0')), concat('key_', toString(cityHash64(number, 101) % {keys:UInt64})),
	concat('agt_', leftPad(toString(number % {agents:UInt64}), 26, '0')), concat('conv_', toString(intDiv(number, 10))),
	'POST', '/api/v2/agent/{agentId}/chat', '/api/v2/agent/x/chat', if(cityHash64(number, 102) % 50 = 0, 429, 200),
	cityHash64(number, 103) % 5000000, 'fast', 100, 20, '127.0.0.1', 'bench', '[]', '[]',
	concat('{"query":"', arrayStringConcat(arraySlice(spoken, 1, 26), ' '), '"}'), concat('{"response":"', arrayStringConcat(arraySlice(spoken, 27), ' '), '"}'),
	300, 300, arrayStringConcat(arraySort(arrayDistinct(arrayConcat(spoken, ['query', 'response']))), ' '), now64(3) + INTERVAL 1 DAY
FROM numbers({rows:UInt64})
SETTINGS max_insert_block_size = 250000, min_insert_block_size_rows = 250000, max_insert_threads = 1`

// plantMessages fills the fold's messages: conversations of ten, one behind the other in time as a log would have them.
const plantMessages = `INSERT INTO {db:Identifier}.messages (account, agent_id, at, stream, version, idx, kind, said, turn_id, message_id, text,
	erased, model, error_code, input_tokens, output_tokens, first_reply_us, full_reply_us, part, off, insert_by)
SELECT 'default', concat('agt_', leftPad(toString(c % {agents:UInt64}), 26, '0')) AS agent,
	now64(3) - toIntervalMillisecond(intDiv(({rows:UInt64} - number + v) * {span:UInt64}, {rows:UInt64})) - INTERVAL 1 MINUTE + toIntervalMillisecond(v * 5000) AS at,
	concat('conversation-', agent, '.', lower(hex(sipHash128(c)))), v + 1, 0,
	if(v % 2 = 0, 'received', if(cityHash64(number, 100) % 100 = 0, 'failed', 'completed')), true,
	concat('turn_', leftPad(toString(intDiv(number, 2)), 26, '0')), concat('msg_', leftPad(toString(number), 26, '0')),
	repeat('Contame los horarios ', 14), false, if(v % 2 = 0, '', 'fast'), '', if(v % 2 = 0, 0, cityHash64(number, 1) % 2000),
	if(v % 2 = 0, 0, cityHash64(number, 2) % 500), if(v % 2 = 0, 0, cityHash64(number, 3) % 2000000),
	if(v % 2 = 0, 0, cityHash64(number, 4) % 9000000), 0, 1000000000 + number, now64(3) + INTERVAL 1 DAY
FROM (SELECT number, intDiv(number, 10) AS c, toInt64(number % 10) AS v FROM numbers({rows:UInt64}))
SETTINGS max_insert_block_size = 250000, min_insert_block_size_rows = 250000, max_insert_threads = 1`

// plantConversations goes with it: each has begun, and every third stands resolved.
const plantConversations = `INSERT INTO {db:Identifier}.conversations (account, agent_id, at, stream, version, idx, kind, conversation_id, metadata,
	erased, by_message, part, off, insert_by)
SELECT 'default', concat('agt_', leftPad(toString(c % {agents:UInt64}), 26, '0')) AS agent,
	now64(3) - toIntervalMillisecond(intDiv(({rows:UInt64} - c * 10) * {span:UInt64}, {rows:UInt64})) + toIntervalMillisecond(resolves * 60000),
	concat('conversation-', agent, '.', lower(hex(sipHash128(c)))), 1 + 10 * resolves, 0, if(resolves, 'resolved', 'started'),
	if(resolves, '', concat('conv_', toString(c))), '', false, false, 0, 2000000000 + number, now64(3) + INTERVAL 1 DAY
FROM (SELECT number, intDiv(number, 2) AS c, number % 2 AS resolves FROM numbers(intDiv({rows:UInt64}, 5))) WHERE NOT resolves OR c % 3 = 0`

// analytics opens ClickHouse beside the nodes, and names the database of the request log.
func analytics() (conn driver.Conn, database string, err error) {
	options, err := clickhouse.ParseDSN(os.Getenv("NIDO_CLICKHOUSE_URL"))
	if err != nil {
		return nil, "", errors.New("NIDO_CLICKHOUSE_URL is no DSN")
	}
	options.ReadTimeout = 20 * time.Minute
	conn, err = clickhouse.Open(options)
	return conn, options.Auth.Database, err
}

// plant makes up the rows of a table and of those that go with it, unless an earlier run on the same engines has.
func (b *bench) plant(ctx context.Context, database, table string, conn driver.Conn, statements ...string) error {
	var there uint64
	err := conn.QueryRow(ctx, `SELECT count() FROM {db:Identifier}.{table:Identifier}`, clickhouse.Named("db", database), clickhouse.Named("table", table)).Scan(&there)
	if err != nil {
		return fmt.Errorf("count the rows of %s: %w", table, err)
	}
	if there >= uint64(b.planted) {
		b.say("  %d rows are there", there)
		return nil
	}
	for _, statement := range statements {
		began := time.Now()
		err := conn.Exec(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
			"db": database, "rows": fmt.Sprint(b.planted), "agents": fmt.Sprint(plantedAgents), "keys": fmt.Sprint(plantedKeys),
			"span": fmt.Sprint((plantedDays * 24 * time.Hour).Milliseconds()),
		})), statement)
		if err != nil {
			return fmt.Errorf("make up rows: %w", err)
		}
		b.say("  rows made up in %v", time.Since(began).Round(time.Second))
	}
	return nil
}

// plantedIDs are the ids of requests from all times.
func plantedIDs(ctx context.Context, database string, conn driver.Conn, planted int) (ids []string, err error) {
	var found []struct {
		ID string `ch:"request_id"`
	}
	err = conn.Select(ctx, &found, `SELECT request_id FROM {db:Identifier}.requests WHERE account = 'default'
		AND toUInt64OrZero(substring(request_id, 15)) % {every:UInt64} = 3 AND user_agent = 'bench'`,
		clickhouse.Named("db", database), clickhouse.Named("every", max(planted/asks, 1)))
	for _, one := range found {
		ids = append(ids, one.ID)
	}
	if err == nil && len(ids) == 0 {
		err = errors.New("no ids among the rows made up")
	}
	return ids, err
}

func plantedAgent(number int) string { return fmt.Sprintf("agt_%026d", number) }

// question is asked again and again, each time a little different.
type question struct {
	name string
	goal float64 // milliseconds
	ask  func(n int) string
}

// asked measures questions: the slowest twentieth, and what ClickHouse spends on one.
func (b *bench) asked(ctx context.Context, c *cluster, row int, questions []question) error {
	for _, q := range questions {
		var all []int64
		before, err := engineTimes()
		if err != nil {
			return err
		}
		for n := range asks + 2 {
			began := time.Now()
			var answer any
			if err := call(ctx, c.api.addr, c.key, http.MethodGet, q.ask(n), nil, &answer); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			if n > 1 { // the first two warm up
				all = append(all, time.Since(began).Microseconds())
			}
		}
		after, err := engineTimes()
		if err != nil {
			return err
		}
		slices.Sort(all)
		b.results.add(row, q.name+": p50", "ms", quantile(all, 0.5))
		b.results.add(row, q.name+": p95", "ms", quantile(all, 0.95)).atMost(q.goal)
		b.results.add(row, q.name+": ClickHouse's CPU each", "ms", float64((after["ClickHouse"]-before["ClickHouse"]).Microseconds())/1000/float64(asks+2))
	}
	return nil
}

// logSearch is row 12.
func logSearch(ctx context.Context, b *bench) error {
	b.say("row 12: log search over %d requests", b.planted)
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	conn, database, err := analytics()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := b.plant(ctx, database, "requests", conn, plantRequests); err != nil {
		return err
	}
	ids, err := plantedIDs(ctx, database, conn, b.planted)
	if err != nil {
		return err
	}
	list := func(narrowed func(n int) string) func(int) string {
		return func(n int) string { return "/api/logs?limit=50&" + narrowed(n) }
	}
	week := "from=" + url.QueryEscape(time.Now().Add(-7*24*time.Hour).UTC().Format(time.RFC3339))
	return b.asked(ctx, c, 12, []question{
		{name: "an agent's newest 50 of 7 days", goal: 100, ask: list(func(n int) string { return week + "&agentId=" + plantedAgent(n%plantedAgents) })},
		{name: "a key's newest 50", goal: 100, ask: list(func(n int) string { return fmt.Sprint("keyId=key_", n%plantedKeys) })},
		{name: "a rare word of one agent", goal: 200, ask: list(func(int) string { return "q=singular&agentId=" + plantedAgent(7) })},
		{name: "a common word", goal: 300, ask: list(func(n int) string { return fmt.Sprint("q=palabra", n%4) })},
		{name: "one request by its id", goal: 50, ask: func(n int) string { return "/api/logs/" + ids[n%len(ids)] }},
	})
}

// statistics is row 13.
func statistics(ctx context.Context, b *bench) error {
	b.say("row 13: statistics over %d messages", b.planted)
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	conn, database, err := analytics()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := b.plant(ctx, database+"_1", "messages", conn, plantMessages, plantConversations); err != nil {
		return err
	}
	const by = "/api/stats/conversations?groupBy=agent,day"
	return b.asked(ctx, c, 13, []question{
		{name: "all agents by agent and day", goal: 500, ask: func(int) string { return by }},
		{name: "one agent by day", goal: 50, ask: func(n int) string { return by + "&agentId=" + plantedAgent(n%plantedAgents) }},
	})
}
