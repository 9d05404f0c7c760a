package backup_test

// This file stands below the tests on engines: an installation's stores without nodes, and what is in them.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/backup"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

// partitions is the count of the events topic.
const partitions = 3

// world is a log under a prefix; stores come and go, since a restore wants the same prefix.
type world struct {
	brokers []string
	prefix  string
	master  []byte
	foreign *kgo.Client // a Kafka client that knows nothing of ours
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{master: enginestest.MasterKey(t)}
	w.brokers, w.prefix = enginestest.Kafka(t)
	var err error
	if w.foreign, err = kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.foreign.Close)
	return w
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// stores are Postgres and ClickHouse.
type stores struct {
	*world
	pool       *pgxpool.Pool
	clickhouse *clickhouse.Client
}

func (w *world) stores(t testing.TB) stores {
	t.Helper()
	s := stores{world: w}
	var err error
	s.pool, err = postgres.Open(t.Context(), postgres.Config{
		URL: enginestest.Postgres(t), Schemas: []string{"read", "nido"}, AcquireTimeout: 10 * time.Second, StatementTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	if s.clickhouse, err = clickhouse.New(clickhouse.Config{DSN: enginestest.ClickHouse(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.clickhouse.Close() })
	return s
}

// source makes the stores ones that a node has started on.
func (w *world) source(t testing.TB) (stores, *kafka.Cluster, *keyring.Keyring) {
	t.Helper()
	s := w.stores(t)
	if err := postgres.Migrate(t.Context(), s.pool); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), s.pool, w.master)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.clickhouse.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := projections.NewRequests(s.clickhouse, s.clickhouse.Database).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Open(t.Context(), kafka.Config{Brokers: w.brokers, Prefix: w.prefix, Partitions: partitions, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	return s, cluster, keys
}

func (s stores) backup(t testing.TB, cluster *kafka.Cluster, dir string) (*backup.Manifest, error) {
	t.Helper()
	keys, err := keyring.ForBackup(s.master)
	if err != nil {
		t.Fatal(err)
	}
	return backup.Backup{
		Dir: dir, Prefix: s.prefix, Cluster: cluster, Pool: s.pool, ClickHouse: s.clickhouse, Keys: keys,
		SegmentBytes: 3000, Patience: time.Minute, Out: io.Discard, Progress: &progress.Progress{Out: io.Discard}, Logger: quiet(),
	}.Run(t.Context())
}

func (s stores) mustBackup(t testing.TB, cluster *kafka.Cluster, dir string) *backup.Manifest {
	t.Helper()
	m, err := s.backup(t, cluster, dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (s stores) restore(t testing.TB, dir string, said io.Writer) (*backup.Manifest, error) {
	t.Helper()
	target := s.target(t)
	return backup.Restore{
		Dir: dir, Prefix: s.prefix, Log: target, Pool: s.pool, ClickHouse: s.clickhouse, MasterKey: s.master,
		Patience: time.Minute, Out: said, Progress: &progress.Progress{Out: said}, Logger: quiet(),
	}.Run(t.Context())
}

func (w *world) target(t testing.TB) *kafka.Target {
	t.Helper()
	target, err := kafka.OpenTarget(t.Context(), kafka.Config{Brokers: w.brokers, Prefix: w.prefix, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// topics are those that are copied.
func (w *world) topics() []string { return []string{w.prefix + ".control", w.prefix + ".events"} }

// lose takes the log away.
func (w *world) lose(t testing.TB) {
	t.Helper()
	admin := kadm.NewClient(w.foreign)
	answers, err := admin.DeleteTopics(t.Context(), append(w.topics(), w.prefix+".requests")...)
	if err := errors.Join(err, answers.Error()); err != nil {
		t.Fatal(err)
	}
}

// produce appends records as they are.
func (w *world) produce(t testing.TB, records ...*kgo.Record) {
	t.Helper()
	if err := w.foreign.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// printed is everything in a topic, a line for each record.
func (w *world) printed(t testing.TB, topic string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(end kadm.ListedOffset) { left += end.Offset })
	var records []*kgo.Record
	for left > int64(len(records)) {
		records = append(records, client.PollFetches(ctx).Records()...)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records of %s", len(records), left, topic)
		}
	}
	slices.SortFunc(records, func(a, b *kgo.Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	var lines strings.Builder
	for _, r := range records {
		fmt.Fprintf(&lines, "%d:%d %d %q %v %q %v", r.Partition, r.Offset, r.Timestamp.UnixMilli(), r.Key, r.Key == nil, r.Value, r.Value == nil)
		for _, header := range r.Headers {
			fmt.Fprintf(&lines, " %q=%q", header.Key, header.Value)
		}
		lines.WriteByte('\n')
	}
	return lines.String()
}

// table is what a query says, as Postgres prints it.
func (s stores) table(t testing.TB, query string) string {
	t.Helper()
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var printed bytes.Buffer
	if _, err := conn.Conn().PgConn().CopyTo(t.Context(), &printed, `COPY (`+query+`) TO STDOUT`); err != nil {
		t.Fatal(err)
	}
	return printed.String()
}

// requests is the request log, a line for each row, in all of its columns.
func (s stores) requests(t testing.TB) string {
	t.Helper()
	var lines strings.Builder
	for _, query := range []string{
		"SELECT toString(tuple(* EXCEPT '^insert_by$')) FROM `" + s.clickhouse.Database + "`.requests FINAL ORDER BY account, at, request_id",
		"SELECT toString(tuple(*)) FROM `" + s.clickhouse.Database + "`.gaps FINAL ORDER BY account, id",
	} {
		rows, err := s.clickhouse.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			lines.WriteString(line + "\n")
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return lines.String()
}

// commit makes an event of a type; what is in it does not matter here.
func commit(stream string, base int, account, kind string) domain.Commit {
	return domain.Commit{
		Stream: domain.StreamID(stream), Base: domain.Version(base), Command: fmt.Sprintf("cmd_%s_%d_%s", stream, base, kind), Account: account,
		Actor: domain.Actor{Kind: "operator", ID: "test"}, Time: time.Date(2026, 3, 14, 12, 0, base, 0, time.UTC),
		Events: []domain.Stored{{Type: kind, Schema: 1, Data: []byte(`{}`)}},
	}
}

// ask fills the request log with one request for each minute from a time on.
func (s stores) ask(t testing.TB, from time.Time, requests ...projections.Request) {
	t.Helper()
	for i := range requests {
		requests[i].ID = fmt.Sprintf("req_%d_%d", from.Unix(), i)
		requests[i].At = from.Add(time.Duration(i) * time.Minute)
		requests[i].Method, requests[i].Status = "POST", 200
	}
	// Not by the sink's own way in: what an older version wrote must come back, too.
	columns, extra := "account, at, request_id, agent_id, conversation_id, method, status, latency_us, input_tokens, request_headers, request_body, response_body, request_truncated, request_bytes, erased", []any{}
	var fenced uint64
	if err := s.clickhouse.QueryRow(t.Context(), `SELECT count() FROM system.columns WHERE database = ? AND table = 'requests' AND name = 'insert_by'`, s.clickhouse.Database).Scan(&fenced); err != nil {
		t.Fatal(err)
	}
	if fenced > 0 {
		columns, extra = columns+", insert_by", []any{time.Now().Add(10 * time.Second)}
	}
	batch, err := s.clickhouse.PrepareBatch(t.Context(), "INSERT INTO `"+s.clickhouse.Database+"`.requests ("+columns+")")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		values := append([]any{r.Account, r.At, r.ID, r.AgentID, r.ConversationID, r.Method, uint16(r.Status), uint64(r.Latency.Microseconds()), r.InputTokens,
			fmt.Sprint(r.RequestHeaders), string(r.RequestBody.Text), string(r.ResponseBody.Text), r.RequestBody.Truncated, uint64(r.RequestBody.Bytes), r.Erased}, extra...)
		if err := batch.Append(values...); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	gap := fmt.Sprintf("gap_%d", from.Unix())
	if err := s.clickhouse.Exec(t.Context(), "INSERT INTO `"+s.clickhouse.Database+"`.gaps VALUES ('acc_1', ?, 'n', 3, now64(3), now64(3), 'queue_full')", gap); err != nil {
		t.Fatal(err)
	}
}

// said is a text of a client, with what JSON does not like.
func said(text string) projections.Body {
	return projections.Body{Text: []byte(text + "\xff\x00 ñ \n\t'\\"), Bytes: 99, Truncated: true}
}
