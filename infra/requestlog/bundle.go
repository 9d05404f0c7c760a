package requestlog

// This file stands between the queue and the sink: how request log entries travel through Kafka.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// A bundle is many entries in one record:
//
//	1 byte   version, 1
//	uvarint  length of what follows
//	zstd     JSON document: entries and gaps, without anything personal
//	…        the entries' sealed halves, one behind the other, as long as the document says
//
// The document is JSON so that a field can be added without a new version and a foreign consumer can read it. What is
// sealed stands outside of it: ciphertext neither compresses nor likes base64. The plain form of a sealed half is the
// same idea once more: uvarint, a JSON document, both bodies.
const bundleVersion = 1

// The limits keep a hostile or broken record from taking the sink's memory.
const (
	maxDocumentBytes = 64 << 20
	maxBundleEntries = 100_000
)

// document is the readable part of a bundle.
type document struct {
	Entries []entry `json:"entries,omitempty"`
	Gaps    []gap   `json:"gaps,omitempty"`
}

// entry is an entry's impersonal half.
type entry struct {
	ID           string    `json:"id"`
	At           time.Time `json:"at"`
	Account      string    `json:"account,omitempty"`
	Key          string    `json:"key,omitempty"`
	Agent        string    `json:"agent,omitempty"`
	Method       string    `json:"method,omitempty"`
	Route        string    `json:"route,omitempty"`
	Status       int       `json:"status"`
	LatencyUS    int64     `json:"latencyUs"`
	FirstTokenUS int64     `json:"firstTokenUs,omitempty"`
	Error        string    `json:"error,omitempty"`
	Model        string    `json:"model,omitempty"`
	InputTokens  int64     `json:"inputTokens,omitempty"`
	OutputTokens int64     `json:"outputTokens,omitempty"`
	Trace        string    `json:"trace,omitempty"`
	// DataKey and SealedBytes describe the sealed half. Without an account there is no key, and Open takes its place.
	DataKey     string    `json:"dataKey,omitempty"`
	SealedBytes int       `json:"sealedBytes,omitempty"`
	Open        *personal `json:"open,omitempty"`
}

// personal is the half that says who did what: what clients choose and what they say.
type personal struct {
	Conversation    string      `json:"conversation,omitempty"`
	Path            string      `json:"path,omitempty"`
	Query           string      `json:"query,omitempty"`
	ClientRequestID string      `json:"clientRequestId,omitempty"`
	RemoteIP        string      `json:"remoteIp,omitempty"`
	UserAgent       string      `json:"userAgent,omitempty"`
	RequestHeaders  [][2]string `json:"requestHeaders,omitempty"`
	ResponseHeaders [][2]string `json:"responseHeaders,omitempty"`
	Request         *body       `json:"request,omitempty"`
	Response        *body       `json:"response,omitempty"`
}

// body describes a body; its bytes stand behind the document.
type body struct {
	Kept      int   `json:"kept,omitempty"`
	Truncated bool  `json:"truncated,omitempty"`
	Bytes     int64 `json:"bytes,omitempty"`
}

type gap struct {
	ID      string    `json:"id"`
	Account string    `json:"account,omitempty"`
	Node    string    `json:"node,omitempty"`
	Lost    int64     `json:"lost"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Why     string    `json:"why"`
}

var decompressor = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDocumentBytes)))

// newCompressor makes a queue's own.
func newCompressor() *zstd.Encoder {
	return must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)))
}

// must panics on options that are wrong in themselves.
func must[T any](value T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("requestlog: %v", err))
	}
	return value
}

// encodeBundle writes entries with their sealed halves, which belong to them one by one, and gaps.
func encodeBundle(compressor *zstd.Encoder, entries []entry, sealed [][]byte, gaps []gap) ([]byte, error) {
	data, err := json.Marshal(document{Entries: entries, Gaps: gaps})
	if err != nil {
		return nil, fmt.Errorf("encode a bundle: %w", err)
	}
	compressed := compressor.EncodeAll(data, nil)
	size := 1 + binary.MaxVarintLen64 + len(compressed)
	for _, half := range sealed {
		size += len(half)
	}
	bundle := append(make([]byte, 0, size), bundleVersion)
	bundle = binary.AppendUvarint(bundle, uint64(len(compressed)))
	bundle = append(bundle, compressed...)
	for _, half := range sealed {
		bundle = append(bundle, half...)
	}
	return bundle, nil
}

// decodeBundle reads a bundle. The sealed texts belong to the entries one by one; those without are zero.
func decodeBundle(bundle []byte) (document, []domain.Sealed, error) {
	if len(bundle) == 0 || bundle[0] != bundleVersion {
		return document{}, nil, errors.New("decode a bundle: unknown version")
	}
	compressed, rest, err := cutCounted(bundle[1:])
	if err != nil {
		return document{}, nil, fmt.Errorf("decode a bundle: %w", err)
	}
	data, err := decompressor.DecodeAll(compressed, nil)
	if err != nil {
		return document{}, nil, fmt.Errorf("decode a bundle: %w", err)
	}
	var found document
	if err := json.Unmarshal(data, &found); err != nil {
		return document{}, nil, fmt.Errorf("decode a bundle: %w", err)
	}
	if len(found.Entries)+len(found.Gaps) > maxBundleEntries {
		return document{}, nil, fmt.Errorf("decode a bundle: more than %d entries", maxBundleEntries)
	}
	sealed := make([]domain.Sealed, len(found.Entries))
	for i, e := range found.Entries {
		if e.SealedBytes < 0 || e.SealedBytes > len(rest) {
			return document{}, nil, errors.New("decode a bundle: it ends in the middle of a sealed text")
		}
		if e.SealedBytes > 0 {
			sealed[i] = domain.Sealed{Key: e.DataKey, Data: rest[:e.SealedBytes]}
		}
		rest = rest[e.SealedBytes:]
	}
	return found, sealed, nil
}

// cutCounted splits what a uvarint counts from what stands behind it.
func cutCounted(data []byte) (counted, rest []byte, err error) {
	length, used := binary.Uvarint(data)
	if used <= 0 || length > uint64(len(data)-used) {
		return nil, nil, errors.New("it is cut short")
	}
	return data[used : used+int(length)], data[used+int(length):], nil
}

// split divides an entry into its two halves. The personal one is ready to be sealed.
func split(r projections.Request) (entry, personal) {
	return entry{
			ID: r.ID, At: r.At.UTC(), Account: r.Account, Key: r.KeyID, Agent: r.AgentID, Method: r.Method, Route: r.Route, Status: r.Status,
			LatencyUS: r.Latency.Microseconds(), FirstTokenUS: r.FirstToken.Microseconds(), Error: r.ErrorCode, Model: r.Model,
			InputTokens: r.InputTokens, OutputTokens: r.OutputTokens, Trace: r.Trace,
		}, personal{
			Conversation: r.ConversationID, Path: r.Path, Query: r.Query, ClientRequestID: r.ClientRequestID, RemoteIP: r.RemoteIP,
			UserAgent: r.UserAgent, RequestHeaders: pairs(r.RequestHeaders), ResponseHeaders: pairs(r.ResponseHeaders),
			Request: describe(r.RequestBody), Response: describe(r.ResponseBody),
		}
}

func describe(b projections.Body) *body {
	if len(b.Text) == 0 && b.Bytes == 0 && !b.Truncated {
		return nil
	}
	return &body{Kept: len(b.Text), Truncated: b.Truncated, Bytes: b.Bytes}
}

func pairs(headers []projections.Header) [][2]string {
	list := make([][2]string, len(headers))
	for i, header := range headers {
		list[i] = [2]string{header.Name, header.Value}
	}
	return list
}

func headers(pairs [][2]string) []projections.Header {
	if len(pairs) == 0 {
		return nil
	}
	list := make([]projections.Header, len(pairs))
	for i, pair := range pairs {
		list[i] = projections.Header{Name: pair[0], Value: pair[1]}
	}
	return list
}

// plain is the form in which a personal half is sealed.
func (p personal) plain(request, response []byte) ([]byte, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode an entry: %w", err)
	}
	plain := make([]byte, 0, binary.MaxVarintLen64+len(data)+len(request)+len(response))
	plain = binary.AppendUvarint(plain, uint64(len(data)))
	plain = append(plain, data...)
	plain = append(plain, request...)
	return append(plain, response...), nil
}

// join puts an entry together again. A nil plain half is one that was erased, or that an entry without account never had.
func (e entry) join(plain []byte, erased bool) (projections.Request, error) {
	r := projections.Request{
		ID: e.ID, At: e.At, Account: e.Account, KeyID: e.Key, AgentID: e.Agent, Method: e.Method, Route: e.Route, Status: e.Status,
		Latency: time.Duration(e.LatencyUS) * time.Microsecond, FirstToken: time.Duration(e.FirstTokenUS) * time.Microsecond,
		ErrorCode: e.Error, Model: e.Model, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, Trace: e.Trace, Erased: erased, DataKey: e.DataKey,
	}
	half := personal{}
	var bodies []byte
	switch {
	case erased:
	case e.Open != nil:
		half = *e.Open
	case len(plain) > 0:
		data, rest, err := cutCounted(plain)
		if err == nil {
			err = json.Unmarshal(data, &half)
		}
		if err != nil {
			return projections.Request{}, fmt.Errorf("decode an entry: %w", err)
		}
		bodies = rest
	}
	var err error
	if r.RequestBody, bodies, err = half.Request.take(bodies); err != nil {
		return projections.Request{}, err
	}
	if r.ResponseBody, _, err = half.Response.take(bodies); err != nil {
		return projections.Request{}, err
	}
	r.ConversationID, r.Path, r.Query = half.Conversation, half.Path, half.Query
	r.ClientRequestID, r.RemoteIP, r.UserAgent = half.ClientRequestID, half.RemoteIP, half.UserAgent
	r.RequestHeaders, r.ResponseHeaders = headers(half.RequestHeaders), headers(half.ResponseHeaders)
	return r, nil
}

// take reads a described body from the front of the bytes.
func (b *body) take(data []byte) (projections.Body, []byte, error) {
	if b == nil {
		return projections.Body{}, data, nil
	}
	if b.Kept < 0 || b.Kept > len(data) {
		return projections.Body{}, nil, errors.New("decode an entry: a body is cut short")
	}
	return projections.Body{Text: bytes.Clone(data[:b.Kept]), Truncated: b.Truncated, Bytes: b.Bytes}, data[b.Kept:], nil
}
