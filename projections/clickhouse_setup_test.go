package projections_test

// This file stands below the tests of the ClickHouse read models: an account's story as commits, and who else is asked.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/projections"
)

// clickhouseConn connects to a database of the test's own.
func clickhouseConn(t testing.TB) (driver.Conn, string) {
	t.Helper()
	options, err := clickhouse.ParseDSN(enginestest.ClickHouse(t))
	if err != nil {
		t.Fatal("read the DSN of the test's ClickHouse")
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatalf("connect to ClickHouse: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close the connection to ClickHouse: %v", err)
		}
	})
	return conn, options.Auth.Database
}

// clickhouseTextKeys opens what clickhouseSeal sealed, unless its key was destroyed.
type clickhouseTextKeys struct{ destroyed map[string]bool }

func (k clickhouseTextKeys) Open(_ context.Context, texts []domain.Sealed) ([][]byte, []bool, error) {
	plain, erased := make([][]byte, len(texts)), make([]bool, len(texts))
	for i, text := range texts {
		if erased[i] = k.destroyed[text.Key]; !erased[i] && !text.IsZero() {
			plain[i] = clickhouseTurned(text.Data)
		}
	}
	return plain, erased, nil
}

func clickhouseSeal(key, text string) domain.Sealed {
	return domain.Sealed{Key: key, Data: clickhouseTurned([]byte(text))}
}

func clickhouseTurned(text []byte) []byte {
	text = bytes.Clone(text)
	for i := range text {
		text[i] ^= 0x55
	}
	return text
}

// clickhouseVerdicts is a Postgres fold that has decided about everything.
type clickhouseVerdicts struct{ rejected []int64 }

func (v clickhouseVerdicts) Passed(context.Context, domain.Position) error { return nil }

func (v clickhouseVerdicts) Rejected(_ context.Context, _ int32, first, last int64) ([]int64, error) {
	var within []int64
	for _, offset := range v.rejected {
		if first <= offset && offset <= last {
			within = append(within, offset)
		}
	}
	return within, nil
}

// clickhouseLog is one partition of a log in the making.
type clickhouseLog struct {
	account  string
	records  []domain.Recorded
	versions map[domain.StreamID]domain.Version
}

func newClickhouseLog(account string) *clickhouseLog {
	return &clickhouseLog{account: account, versions: map[domain.StreamID]domain.Version{}}
}

// commit appends a commit to a conversation and returns its offset.
func (l *clickhouseLog) commit(t testing.TB, stream domain.StreamID, at time.Time, events ...conversation.Event) int64 {
	t.Helper()
	stored, err := conversation.Aggregate.Codec.Encode(events)
	if err != nil {
		t.Fatalf("encode events: %v", err)
	}
	offset := int64(len(l.records))
	sum := sha256.Sum256(fmt.Append(nil, l.account, offset))
	l.records = append(l.records, domain.Recorded{
		Position: domain.Position{Offset: offset},
		Commit: domain.Commit{
			Stream: stream, Base: l.versions[stream], Command: fmt.Sprint("cmd_", offset), Account: l.account, Time: at, Events: stored,
		},
		Hash: sum[:],
	})
	l.versions[stream]++
	return offset
}

func clickhouseStream(agent, id string) domain.StreamID {
	return conversation.Aggregate.Stream(agent + "." + id)
}

// turn is a message and its completed reply.
func (l *clickhouseLog) turn(t testing.TB, agent, id string, at time.Time, first, full time.Duration) {
	t.Helper()
	stream := clickhouseStream(agent, id)
	received := conversation.MessageReceived{Turn: fmt.Sprint("trn_", len(l.records)), Message: fmt.Sprint("msg_", len(l.records)),
		Text: clickhouseSeal("dk_"+id, "hello from "+id), Received: at}
	events := []conversation.Event{received}
	if l.versions[stream] == 0 {
		events = []conversation.Event{
			conversation.Started{Account: l.account, Agent: agent, Key: "dk_" + id, ID: clickhouseSeal("dk_"+id, "client-"+id)}, received,
		}
	}
	l.commit(t, stream, at, events...)
	l.commit(t, stream, at.Add(full), conversation.ReplyCompleted{Turn: received.Turn, Message: received.Message + "r",
		Text: clickhouseSeal("dk_"+id, "hello back"), Model: "echo", Usage: conversation.Usage{InputTokens: 10, OutputTokens: 5},
		FirstReply: first, FullReply: full, At: at.Add(full)})
}

// clickhouseFold folds a log in batches that end behind the given offsets, and then the rest.
func clickhouseFold(t testing.TB, fold *projections.ClickHouse, records []domain.Recorded, ends ...int) {
	t.Helper()
	after, from := int64(-1), 0
	for _, end := range append(ends, len(records)) {
		if end <= from {
			continue
		}
		if err := fold.Apply(t.Context(), records[from].Partition, after, records[from:end]); err != nil {
			t.Fatalf("fold records %d to %d: %v", from, end, err)
		}
		after, from = records[end-1].Offset, end
	}
}

// newClickhouseFold prepares a fold and its questions.
func newClickhouseFold(t testing.TB, keys clickhouseTextKeys, verdicts clickhouseVerdicts) (*projections.ClickHouse, *projections.Stats, driver.Conn, string) {
	t.Helper()
	conn, database := clickhouseConn(t)
	fold := projections.NewClickHouse(conn, database, keys, verdicts, slog.New(slog.DiscardHandler))
	if err := fold.Prepare(t.Context()); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	return fold, projections.NewStats(conn, database), conn, database
}
