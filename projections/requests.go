package projections

// This file stands behind an answered request: the request log's entry, and its table in ClickHouse. The log is primary
// data, not a fold: it is filled from a topic of its own, through a bounded queue, and no rebuild touches it.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nidohq/nido/domain"
)

// Request is one entry of the request log. Whoever fills it has redacted the headers (RedactHeaders); the queue redacts
// the bodies.
type Request struct {
	ID      string    // req_…
	At      time.Time // when the request came in
	Account string    // empty where no account could be told; then no body is kept
	KeyID   string
	AgentID string
	// ConversationID is what the client knows the conversation by.
	ConversationID string

	Method string
	Route  string // the path's template in the contract; empty for an unknown path
	Path   string
	Query  string // without the question mark
	Status int

	Latency    time.Duration
	FirstToken time.Duration // zero where nothing was streamed
	ErrorCode  string
	Model      string

	InputTokens  int64
	OutputTokens int64

	ClientRequestID string // the X-Request-Id that the client sent
	RemoteIP        string
	UserAgent       string
	Trace           string // W3C traceparent

	RequestHeaders  []Header
	ResponseHeaders []Header
	RequestBody     Body
	ResponseBody    Body

	// Erased says that the data key was destroyed before the entry reached its table: the conversation's id, path,
	// headers and bodies are gone. It is part of the answers, not of what is recorded.
	Erased bool

	// DataKey is the id of the key that sealed the personal half on its way; empty where there was none.
	DataKey string

	// Owner is whose data key seals the personal half of the entry on its way: the stream of the conversation whose
	// texts the bodies hold. Empty: the account's.
	Owner string
	// Sealer is that key where the recorder has it at hand, which saves looking it up.
	Sealer Sealer
}

// Body is as much of a body as the log keeps.
type Body struct {
	Text      []byte
	Truncated bool
	Bytes     int64 // how long it was
}

// Sealer seals text under one data key.
type Sealer interface {
	ID() string
	Seal(plain []byte) domain.Sealed
}

// Gap is what the request log knows to have lost.
type Gap struct {
	ID      string // of the loss; writing it again changes nothing
	Account string // empty where the losses of more accounts than could be told apart came together
	Node    string
	Lost    int64 // requests; 0 where nobody knows how many
	From    time.Time
	To      time.Time
	Why     string // "queue_full", "closed", "undecodable"
}

// Requests keeps the request log's tables.
type Requests struct {
	store clickhouseStore
}

// NewRequests returns the request log in a database, which must exist.
func NewRequests(conn driver.Conn, database string) *Requests {
	return &Requests{store: clickhouseStore{conn: conn, database: database}}
}

// Prepare creates the tables where they are missing.
func (r *Requests) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clickhouseTableTimeout)
	defer cancel()
	if err := r.store.create(ctx, clickhouseRequestTables); err != nil {
		return fmt.Errorf("prepare the request log: %w", err)
	}
	return nil
}

// Checkpoint returns the last record of a partition that has been written, and its hash; -1 where nothing has been.
func (r *Requests) Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error) {
	found, err := r.store.checkpoint(ctx, partition)
	if err != nil {
		return 0, nil, err
	}
	return found.offset, found.hash, nil
}

// Idle notes that a partition had nothing left to write at an instant, so that the watermark does not stand still.
func (r *Requests) Idle(ctx context.Context, partition int32, at time.Time) error {
	return r.store.idle(ctx, partition, at)
}

// RequestBatch is what some records of the topic hold.
type RequestBatch struct {
	Partition   int32
	After, Last int64  // the offset of the record before the batch, and of its last one
	Hash        []byte // of the last one
	Requests    []Request
	Gaps        []Gap
	InsertBy    time.Time // of Begin, called before the first text was opened
}

// Begin gives a batch the time by which it must be in. It must be called before the keys are read that open its texts.
func (r *Requests) Begin(ctx context.Context, batch *RequestBatch) error {
	batch.After = max(batch.After, -1)
	stands, err := r.store.expect(ctx, batch.Partition, batch.After)
	if err != nil {
		return err
	}
	batch.InsertBy = stands.insertBy()
	return nil
}

// Insert writes a batch if the checkpoint stands where the batch begins, and moves it to the batch's end. It returns
// ErrFenced if the checkpoint stands elsewhere. A batch that is inserted twice changes nothing.
func (r *Requests) Insert(ctx context.Context, batch RequestBatch) error {
	batch.After = max(batch.After, -1)
	stands, err := r.store.expect(ctx, batch.Partition, batch.After)
	if err != nil {
		return err
	}
	token := fmt.Sprintf("requests:%d:%d-%d", batch.Partition, batch.After+1, batch.Last)
	if err := r.store.insert(ctx, requestsInsert, token, len(batch.Requests), batch.addRequest); err != nil {
		return fmt.Errorf("insert requests: %w", err)
	}
	if err := r.store.insert(ctx, requestsGapsInsert, token, len(batch.Gaps), batch.addGap); err != nil {
		return fmt.Errorf("insert gaps: %w", err)
	}
	to := clickhouseCheckpoint{offset: batch.Last, hash: batch.Hash, upTo: stands.upTo}
	for i := range batch.Requests {
		if at := batch.Requests[i].At; at.After(to.upTo) {
			to.upTo = at
		}
	}
	return r.store.pass(ctx, batch.Partition, to)
}

const requestsInsert = `INSERT INTO {db:Identifier}.requests (account, at, request_id, key_id, agent_id, conversation_id,
	method, route, path, query, status, latency_us, first_token_us, error_code, model, input_tokens, output_tokens,
	client_request_id, remote_ip, user_agent, trace, request_headers, response_headers, request_body, response_body,
	request_truncated, response_truncated, request_bytes, response_bytes, erased, data_key, insert_by, words)`

func (b *RequestBatch) addRequest(i int, add func(...any) error) error {
	r := &b.Requests[i]
	requestHeaders, err := requestsHeaders(r.RequestHeaders)
	if err != nil {
		return err
	}
	responseHeaders, err := requestsHeaders(r.ResponseHeaders)
	if err != nil {
		return err
	}
	request, response := string(r.RequestBody.Text), string(r.ResponseBody.Text)
	return add(r.Account, clickhouseTime(r.At), r.ID, r.KeyID, r.AgentID, r.ConversationID,
		r.Method, r.Route, r.Path, r.Query, uint16(r.Status), requestsMicroseconds(r.Latency), requestsMicroseconds(r.FirstToken),
		r.ErrorCode, r.Model, r.InputTokens, r.OutputTokens, r.ClientRequestID, r.RemoteIP, r.UserAgent, r.Trace,
		requestHeaders, responseHeaders, request, response, r.RequestBody.Truncated, r.ResponseBody.Truncated,
		uint64(max(r.RequestBody.Bytes, 0)), uint64(max(r.ResponseBody.Bytes, 0)), r.Erased, r.DataKey, b.InsertBy,
		strings.Join(requestsWords(request, response), " "))
}

const requestsGapsInsert = `INSERT INTO {db:Identifier}.gaps (account, id, node, lost, from_at, to_at, why)`

func (b *RequestBatch) addGap(i int, add func(...any) error) error {
	g := b.Gaps[i]
	return add(g.Account, g.ID, g.Node, uint64(max(g.Lost, 0)), clickhouseTime(g.From), clickhouseTime(g.To), g.Why)
}

// requestsHeaders keeps a header as a JSON list of pairs: order and repetitions stay.
func requestsHeaders(headers []Header) (string, error) {
	if len(headers) == 0 {
		return "", nil
	}
	pairs := make([][2]string, len(headers))
	for i, header := range headers {
		pairs[i] = [2]string{header.Name, header.Value}
	}
	data, err := json.Marshal(pairs)
	if err != nil {
		return "", fmt.Errorf("encode headers: %w", err)
	}
	return string(data), nil
}

func requestsReadHeaders(data string) ([]Header, error) {
	if data == "" {
		return nil, nil
	}
	var pairs [][2]string
	if err := json.Unmarshal([]byte(data), &pairs); err != nil {
		return nil, fmt.Errorf("decode headers: %w", err)
	}
	headers := make([]Header, len(pairs))
	for i, pair := range pairs {
		headers[i] = Header{Name: pair[0], Value: pair[1]}
	}
	return headers, nil
}

func requestsMicroseconds(d time.Duration) uint64 { return uint64(max(d, 0).Microseconds()) }
