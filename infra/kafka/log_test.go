package kafka

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/enginestest"
)

var _ commands.Log = (*Log)(nil)

func TestACommitIsReadAsItWasAppended(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	commit := someCommit(7)
	position, err := log.Append(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	var read []domain.Recorded
	if err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error { read = append(read, recorded); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(read) != 1 || read[0].Position != position || len(read[0].Hash) != 32 {
		t.Fatalf("read %+v, want one commit at %+v", read, position)
	}
	// The log keeps JSON escaped for HTML, as the codec writes it.
	commit.Events[0].Data = []byte(`{"name":"Ñandú \u003c1\u003e"}`)
	if !reflect.DeepEqual(read[0].Commit, commit) {
		t.Errorf("read\n%+v\nwant\n%+v", read[0].Commit, commit)
	}
}

func TestAForeignClientSeesACloudEvent(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(3)
	position, err := log.Append(t.Context(), someCommit(7))
	if err != nil {
		t.Fatal(err)
	}
	records := enginestest.ReadTopic(t, brokers.addrs, cluster.Events())
	if len(records) != 1 {
		t.Fatalf("%d records, want 1", len(records))
	}
	record := records[0]
	if record.Partition != position.Partition || record.Offset != position.Offset {
		t.Errorf("it is at %d:%d, the acknowledgement said %+v", record.Partition, record.Offset, position)
	}
	if string(record.Key) != "agent-agt_7" {
		t.Errorf("key %q", record.Key)
	}
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "cmd_7.7", "ce_source": "/nido", "ce_type": "com.nido.commit.v1",
		"ce_subject": "agent-agt_7", "ce_partitionkey": "agent-agt_7", "ce_time": "2026-11-21T10:00:00.123456Z", "ce_account": "acc_1",
		"ce_traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "content-type": "application/json",
	}
	if !reflect.DeepEqual(headers, want) || len(record.Headers) != len(want) {
		t.Errorf("headers\n%v\nwant\n%v", headers, want)
	}
	const value = `{"account":"acc_1","actor":{"kind":"key","id":"key_1"},"base":7,"command":"cmd_7","time":"2026-11-21T10:00:00.123456Z",` +
		`"events":[{"type":"agent.renamed","schema":1,"data":{"name":"Ñandú \u003c1\u003e"}},{"type":"agent.paused","schema":2,"data":{}}]}`
	if string(record.Value) != value {
		t.Errorf("value\n%s\nwant\n%s", record.Value, value)
	}
}

func TestEveryFaultInARecordIsUndecodable(t *testing.T) {
	good := func() (*sarama.ConsumerMessage, map[string]string) {
		msg, err := Encode(someCommit(7))
		if err != nil {
			t.Fatal(err)
		}
		return &sarama.ConsumerMessage{Topic: "test.events", Partition: 3, Offset: 99, Key: []byte("agent-agt_7"), Value: msg.Payload}, msg.Metadata
	}
	seal := func(record *sarama.ConsumerMessage, headers map[string]string) *message.Message {
		for name, value := range headers {
			record.Headers = append(record.Headers, &sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
		}
		return fromRecord(record)
	}
	if _, err := Decode(seal(good())); err != nil {
		t.Fatalf("the good record: %v", err)
	}
	header := func(name, value string) func(*sarama.ConsumerMessage, map[string]string) {
		return func(_ *sarama.ConsumerMessage, headers map[string]string) { headers[name] = value }
	}
	value := func(old, with string) func(*sarama.ConsumerMessage, map[string]string) {
		return func(record *sarama.ConsumerMessage, _ map[string]string) {
			changed := bytes.Replace(record.Value, []byte(old), []byte(with), 1)
			if bytes.Equal(changed, record.Value) {
				t.Fatalf("%q is not in the value", old)
			}
			record.Value = changed
		}
	}
	for name, spoil := range map[string]func(*sarama.ConsumerMessage, map[string]string){
		"another specification":   header("ce_specversion", "0.3"),
		"another type":            header("ce_type", "com.nido.commit.v2"),
		"another id":              header("ce_id", "cmd_7.8"),
		"no source":               header("ce_source", ""),
		"another subject":         header("ce_subject", "agent-agt_8"),
		"another partition key":   header("ce_partitionkey", "agent-agt_8"),
		"another account":         header("ce_account", "acc_2"),
		"another time":            header("ce_time", "2026-11-21T10:00:01Z"),
		"no time":                 header("ce_time", "yesterday"),
		"another content type":    header("content-type", "text/plain"),
		"another key":             func(record *sarama.ConsumerMessage, _ map[string]string) { record.Key = []byte("agent-agt_8") },
		"no key":                  func(record *sarama.ConsumerMessage, _ map[string]string) { record.Key = nil },
		"no value":                func(record *sarama.ConsumerMessage, _ map[string]string) { record.Value = nil },
		"no JSON":                 value(`{"account"`, `{account`),
		"something behind":        func(record *sarama.ConsumerMessage, _ map[string]string) { record.Value = append(record.Value, '1') },
		"a negative base":         value(`"base":7`, `"base":-7`),
		"another command":         value(`"command":"cmd_7"`, `"command":"cmd_9"`),
		"an event without type":   value(`"agent.renamed"`, `""`),
		"an event without schema": value(`"schema":1`, `"schema":0`),
		"an actor without kind":   value(`"kind":"key"`, `"kind":""`),
		"no events": func(record *sarama.ConsumerMessage, _ map[string]string) {
			at := bytes.Index(record.Value, []byte(`"events"`))
			record.Value = append(record.Value[:at], `"events":[]}`...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			record, headers := good()
			spoil(record, headers)
			_, err := Decode(seal(record, headers))
			if !errors.Is(err, domain.ErrUndecodable) {
				t.Fatalf("got %v, want ErrUndecodable", err)
			}
			if !strings.Contains(err.Error(), "test.events, partition 3, offset 99") {
				t.Errorf("%q does not say where", err)
			}
		})
	}
}

func TestPartitionsAreThoseOfTheJavaClient(t *testing.T) {
	// The hashes of Kafka's own test of Utils.murmur2.
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		for _, partitions := range []int32{1, 4, 12, 64} {
			got, err := (Config{}).producer(sarama.CompressionNone).Producer.Partitioner("t").Partition(&sarama.ProducerMessage{Key: sarama.StringEncoder(key)}, partitions)
			if err != nil {
				t.Fatal(err)
			}
			if want := (hash & 0x7fffffff) % partitions; got != want {
				t.Errorf("key %q of %d partitions: %d, want %d", key, partitions, got, want)
			}
		}
	}
}

func TestConcurrentAppendsGetDistinctOffsetsInOrder(t *testing.T) {
	brokers := startBrokers(t, 3)
	cluster, log := brokers.open(4)
	const writers, each = 64, 10
	positions := make([][]domain.Position, writers)
	var wait sync.WaitGroup
	for writer := range writers {
		wait.Go(func() {
			for i := range each {
				commit := someCommit(writer) // one stream per writer
				commit.Base = domain.Version(i)
				position, err := log.Append(t.Context(), commit)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				positions[writer] = append(positions[writer], position)
			}
		})
	}
	wait.Wait()
	at := map[domain.Position]domain.Commit{}
	if err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error { at[recorded.Position] = recorded.Commit; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(at) != writers*each {
		t.Errorf("%d commits are in the log, want %d", len(at), writers*each)
	}
	partitions := map[int32]bool{}
	for writer, mine := range positions {
		for i, position := range mine {
			partitions[position.Partition] = true
			if got := at[position]; got.Stream != someCommit(writer).Stream || got.Base != domain.Version(i) {
				t.Errorf("at %+v is %s on %d, want %s on %d", position, got.Stream, got.Base, someCommit(writer).Stream, i)
			}
			if i > 0 && (position.Partition != mine[i-1].Partition || position.Offset <= mine[i-1].Offset) {
				t.Errorf("stream %d goes from %+v to %+v", writer, mine[i-1], position)
			}
		}
	}
	if len(partitions) != 4 {
		t.Errorf("%d partitions were used, want 4", len(partitions))
	}
}

func TestACommitThatIsTooLargeIsRefusedAndTheNextOneGoesThrough(t *testing.T) {
	brokers := startBrokers(t, 1)
	_, log := brokers.open(1)
	sized := func(bytes int) domain.Commit {
		commit := someCommit(1)
		noise := make([]byte, bytes)
		for i := range noise {
			noise[i] = 'a' + byte(rand.IntN(26))
		}
		commit.Events[0].Data = fmt.Appendf(nil, `{"name":%q}`, noise)
		return commit
	}
	_, err := log.Append(t.Context(), sized(MaxRecordBytes))
	if !errors.Is(err, ErrTooLarge) || errors.Is(err, commands.ErrUnknownOutcome) || errors.Is(err, commands.ErrUnavailable) {
		t.Fatalf("got %v, want ErrTooLarge alone", err)
	}
	// The largest that we let pass must pass the broker too.
	low, high := MaxRecordBytes-4096, MaxRecordBytes+8192
	for low+1 < high {
		middle := (low + high) / 2
		msg, err := Encode(sized(middle))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (marshaler{limit: log.producer.sarama.Producer.MaxMessageBytes}).Marshal("t", msg); err == nil {
			low = middle
		} else {
			high = middle
		}
	}
	if position, err := log.Append(t.Context(), sized(low)); err != nil || position.Offset != 0 {
		t.Fatalf("the largest commit: %+v, %v", position, err)
	}
}
