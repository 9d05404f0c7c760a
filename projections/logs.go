package projections

// This file stands at the query: what an account may ask of its request log.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	// logsTimeout bounds a question to ClickHouse, there and here.
	logsTimeout = 10 * time.Second
	// logsMaxLimit bounds a page.
	logsMaxLimit = 1000
	// logsMaxWords bounds a search. The longest words are kept, being the rarest as a rule.
	logsMaxWords = 16
)

// Logs answers from the request log. It is safe for concurrent use.
type Logs struct {
	store clickhouseStore
}

// NewLogs returns the questions about the request log in a database.
func NewLogs(conn driver.Conn, database string) *Logs {
	return &Logs{store: clickhouseStore{conn: conn, database: database}}
}

// LogFilter narrows a list. What is zero does not narrow.
type LogFilter struct {
	From, To       time.Time // From is included, To is not
	KeyID          string
	AgentID        string
	ConversationID string
	Status         StatusRange
	Method         string
	Path           string // its beginning
	MinLatency     time.Duration
	Q              string // all of its words occur in the bodies
	Limit          int    // 1 to 1000; what is outside counts as the nearer bound
}

// StatusRange is the HTTP statuses from First to Last; zero is all of them.
type StatusRange struct{ First, Last int }

// ParseStatus reads "429" or "4xx".
func ParseStatus(text string) (StatusRange, error) {
	class, isClass := strings.CutSuffix(strings.ToLower(text), "xx")
	number, err := strconv.Atoi(class)
	switch {
	case err == nil && isClass && number >= 1 && number <= 5:
		return StatusRange{number * 100, number*100 + 99}, nil
	case err == nil && !isClass && number >= 100 && number <= 599:
		return StatusRange{number, number}, nil
	}
	return StatusRange{}, fmt.Errorf("%q is neither a status nor a class of them", text)
}

// LogKey is an entry's place in the list, newest first.
type LogKey struct {
	At time.Time
	ID string
}

// logsListQuery is what every list begins with and logsListOrder what it ends with; between them stand the conditions of
// what was asked for, and no others: parsing and planning a dozen that do not narrow took longer than searching.
//
// It may answer a request twice: copies that no merge has replaced yet, one behind the other and equal in every column.
// LIMIT 1 BY would drop them, but makes ClickHouse read all of the account's rows for a page of fifty.
//
// Dynamic filtering is off, since it takes the place of reading the filters' columns first: a key without requests among
// 830,000 took 227 ms with it and 10 without.
const (
	logsListQuery = `SELECT account, at, request_id, key_id, agent_id, conversation_id, method, route, path, query, status,
	latency_us, first_token_us, error_code, model, input_tokens, output_tokens, client_request_id, remote_ip, user_agent, trace, erased
FROM {db:Identifier}.requests
WHERE account = {account:String}`
	logsListOrder = `
ORDER BY at DESC, request_id DESC
LIMIT {limit:UInt32}
SETTINGS use_top_k_dynamic_filtering = 0`
)

// conditions are what stands between the two, with its parameters.
func (f LogFilter) conditions(words []string, after *LogKey) (where string, parameters []any) {
	narrow := func(narrows bool, condition string, named ...any) {
		if narrows {
			where += "\n\tAND " + condition
			parameters = append(parameters, named...)
		}
	}
	narrow(!f.From.IsZero(), `at >= {from:DateTime64(3, 'UTC')}`, clickhouse.Named("from", clickhouseTime(f.From)))
	narrow(!f.To.IsZero(), `at < {to:DateTime64(3, 'UTC')}`, clickhouse.Named("to", clickhouseTime(f.To)))
	if after != nil {
		narrow(true, `at <= {after_at:DateTime64(3, 'UTC')} AND (at < {after_at:DateTime64(3, 'UTC')} OR request_id < {after_id:String})`,
			clickhouse.Named("after_at", clickhouseTime(after.At)), clickhouse.Named("after_id", after.ID))
	}
	narrow(f.KeyID != "", `key_id = {key:String}`, clickhouse.Named("key", f.KeyID))
	narrow(f.AgentID != "", `agent_id = {agent:String}`, clickhouse.Named("agent", f.AgentID))
	narrow(f.ConversationID != "", `conversation_id = {conversation:String}`, clickhouse.Named("conversation", f.ConversationID))
	narrow(f.Status.Last != 0, `status BETWEEN {first:UInt16} AND {last:UInt16}`,
		clickhouse.Named("first", f.Status.First), clickhouse.Named("last", f.Status.Last))
	narrow(f.Method != "", `method = {method:String}`, clickhouse.Named("method", f.Method))
	narrow(f.Path != "", `startsWith(path, {path:String})`, clickhouse.Named("path", f.Path))
	latency := requestsMicroseconds(f.MinLatency)
	narrow(latency != 0, `latency_us >= {latency:UInt64}`, clickhouse.Named("latency", latency))
	narrow(len(words) > 0, `hasAllTokens(words, {words:Array(String)})`, clickhouse.Named("words", words))
	return where, parameters
}

// List returns an account's requests without headers and bodies, newest first, from behind a key if one is given.
func (l *Logs) List(ctx context.Context, account string, filter LogFilter, after *LogKey) ([]Request, error) {
	words := requestsWords(filter.Q)
	if strings.TrimSpace(filter.Q) != "" && len(words) == 0 {
		return nil, nil // a question of signs alone: no body has such a word
	}
	words = logsRarest(words)
	limit := min(max(filter.Limit, 1), logsMaxLimit)
	ctx, cancel := logsContext(ctx, limit)
	defer cancel()
	var list []Request
	for {
		page, err := l.page(ctx, account, filter, words, after, limit)
		if err != nil {
			return nil, fmt.Errorf("list requests: %w", err)
		}
		for _, request := range page {
			if last := len(list) - 1; last < 0 || list[last].ID != request.ID || !list[last].At.Equal(request.At) {
				list = append(list, request)
			}
		}
		if len(page) < limit || len(list) >= limit {
			return list[:min(len(list), limit)], nil
		}
		after = &LogKey{At: list[len(list)-1].At, ID: list[len(list)-1].ID} // copies took places
	}
}

// page reads the rows behind a key, copies included.
func (l *Logs) page(ctx context.Context, account string, filter LogFilter, words []string, after *LogKey, limit int) ([]Request, error) {
	where, parameters := filter.conditions(words, after)
	rows, err := l.store.conn.Query(ctx, logsListQuery+where+logsListOrder, append(parameters,
		clickhouse.Named("db", l.store.database), clickhouse.Named("account", account), clickhouse.Named("limit", limit))...)
	if err != nil {
		return nil, err
	}
	return logsCollect(rows, func(scan func(...any) error) (Request, error) {
		var found logsRow
		err := scan(found.columns()...)
		return found.request(), err
	})
}

// logsGetQuery finds a request by the time that its id begins with (see requestsTime): that names the one granule which
// has it, where the id alone would have to be looked for in all of the account's.
const logsGetQuery = `SELECT account, at, request_id, key_id, agent_id, conversation_id, method, route, path, query, status,
	latency_us, first_token_us, error_code, model, input_tokens, output_tokens, client_request_id, remote_ip, user_agent, trace, erased,
	request_headers, response_headers, request_body, response_body, request_truncated, response_truncated,
	toInt64(request_bytes), toInt64(response_bytes)
FROM {db:Identifier}.requests
WHERE account = {account:String} AND at = {at:DateTime64(3, 'UTC')} AND request_id = {id:String}
LIMIT 1`

// Get returns one request with headers and bodies. There may be none; then found is false.
func (l *Logs) Get(ctx context.Context, account, requestID string) (request Request, found bool, err error) {
	at, ok := requestsTime(requestID)
	if !ok {
		return Request{}, false, nil // nobody has given such an id
	}
	ctx, cancel := logsContext(ctx, 1)
	defer cancel()
	row := l.store.conn.QueryRow(ctx, logsGetQuery, clickhouse.Named("db", l.store.database), clickhouse.Named("account", account),
		clickhouse.Named("at", at), clickhouse.Named("id", requestID))
	var got logsRow
	var requestHeaders, responseHeaders, requestBody, responseBody string
	err = row.Scan(append(got.columns(), &requestHeaders, &responseHeaders, &requestBody, &responseBody,
		&got.RequestBody.Truncated, &got.ResponseBody.Truncated, &got.RequestBody.Bytes, &got.ResponseBody.Bytes)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Request{}, false, nil
	}
	if err == nil {
		request = got.request()
		request.RequestBody.Text, request.ResponseBody.Text = []byte(requestBody), []byte(responseBody)
		request.RequestHeaders, err = requestsReadHeaders(requestHeaders)
	}
	if err == nil {
		request.ResponseHeaders, err = requestsReadHeaders(responseHeaders)
	}
	if err != nil {
		return Request{}, false, fmt.Errorf("get request %s: %w", requestID, err)
	}
	return request, true, nil
}

const logsGapsQuery = `SELECT account, id, node, toInt64(lost), from_at, to_at, why
FROM {db:Identifier}.gaps FINAL
WHERE account IN ({account:String}, '') AND to_at >= {from:DateTime64(3, 'UTC')} AND from_at < {to:DateTime64(3, 'UTC')}
ORDER BY to_at DESC, id LIMIT 1000`

// Gaps returns what the log is known to lack of an account's requests, newest first; with them come losses of which
// nobody knows whose they were.
func (l *Logs) Gaps(ctx context.Context, account string, from, to time.Time) ([]Gap, error) {
	ctx, cancel := logsContext(ctx, 1000)
	defer cancel()
	rows, err := l.store.conn.Query(ctx, logsGapsQuery, clickhouse.Named("db", l.store.database), clickhouse.Named("account", account),
		clickhouse.Named("from", logsBound(from, clickhouseEarliest)), clickhouse.Named("to", logsBound(to, clickhouseLatest)))
	if err != nil {
		return nil, fmt.Errorf("list gaps: %w", err)
	}
	gaps, err := logsCollect(rows, func(scan func(...any) error) (g Gap, err error) {
		err = scan(&g.Account, &g.ID, &g.Node, &g.Lost, &g.From, &g.To, &g.Why)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("list gaps: %w", err)
	}
	return gaps, nil
}

// Watermark is the time up to which every request is in; zero where there is none yet.
func (l *Logs) Watermark(ctx context.Context) (time.Time, error) { return l.store.watermark(ctx) }
