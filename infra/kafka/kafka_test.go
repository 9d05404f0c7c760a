package kafka

// This file is the tests' own: brokers in this process or, for the same tests, real ones of several nodes, and
// handlers that keep checkpoints as a store does.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafkatest"
)

// brokers is a cluster that can be stopped and started again with the same data and addresses.
type brokers struct {
	t       *testing.T
	prefix  string
	addrs   []string
	options []kfake.Opt
	cluster *kfake.Cluster    // nil where the brokers are real ones
	remote  *kafkatest.Remote // nil where they are embedded
	stopped bool
}

// startBrokers gives the real Kafka that NIDO_TEST_KAFKA_BROKERS names, which has always three nodes, and else starts
// embedded brokers.
func startBrokers(t *testing.T, count int) *brokers {
	t.Helper()
	remote, ok := kafkatest.FromEnvironment()
	if !ok {
		return startEmbedded(t, count)
	}
	b := &brokers{t: t, remote: &remote, addrs: remote.Brokers, prefix: "test-" + strings.ToLower(rand.Text()[:8])}
	t.Cleanup(func() { // the next test finds them whole
		if b.stopped {
			b.start()
		}
	})
	return b
}

// startEmbedded starts brokers as the embedded engine does: durable, with synced writes. Tests call it that give the
// broker its lines.
func startEmbedded(t *testing.T, count int) *brokers {
	t.Helper()
	ports, err := kafkatest.FreePorts(count)
	if err != nil {
		t.Fatal(err)
	}
	b := &brokers{t: t, prefix: "test", options: []kfake.Opt{
		kfake.DataDir(t.TempDir()), kfake.SyncWrites(), kfake.NumBrokers(count), kfake.ClusterID("nido"), kfake.Ports(ports...),
	}}
	b.start()
	t.Cleanup(b.stop)
	return b
}

// stop ends all brokers at once, as a power cut does.
func (b *brokers) stop() {
	b.stopped = true
	if b.remote != nil {
		if err := b.remote.All(context.WithoutCancel(b.t.Context()), b.remote.Kill); err != nil {
			b.t.Fatal(err)
		}
		return
	}
	if b.cluster != nil {
		b.cluster.Close()
		b.cluster = nil
	}
}

func (b *brokers) start() {
	b.t.Helper()
	b.stopped = false
	if b.remote != nil {
		if err := b.remote.All(context.WithoutCancel(b.t.Context()), b.remote.Resume); err != nil {
			b.t.Fatal(err)
		}
		return
	}
	cluster, err := kfake.NewCluster(b.options...)
	if err != nil {
		b.t.Fatalf("start the brokers: %v", err)
	}
	b.cluster, b.addrs = cluster, cluster.ListenAddrs()
}

func (b *brokers) config() Config {
	return Config{Brokers: b.addrs, Prefix: b.prefix, Logger: slog.New(slog.DiscardHandler)}
}

// open opens the cluster and its log.
func (b *brokers) open(partitions int32) (*Cluster, *Log) {
	b.t.Helper()
	config := b.config()
	config.Partitions = partitions
	cluster, err := Open(b.t.Context(), config)
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	log, err := cluster.Log(b.t.Context())
	if err != nil {
		b.t.Fatalf("open the log: %v", err)
	}
	b.t.Cleanup(func() {
		if err := errors.Join(log.Close(), cluster.Close()); err != nil {
			b.t.Errorf("close: %v", err)
		}
	})
	return cluster, log
}

// someCommit is a well-formed commit; n tells commits apart.
func someCommit(n int) domain.Commit {
	return domain.Commit{
		Stream: domain.NewStreamID("agent", fmt.Sprintf("agt_%d", n)), Base: domain.Version(n), Command: fmt.Sprintf("cmd_%d", n),
		Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "key_1"},
		Time:  time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC),
		Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Events: []domain.Stored{
			{Type: "agent.renamed", Schema: 1, Data: json.RawMessage(`{"name":"Ñandú <1>"}`)},
			{Type: "agent.paused", Schema: 2, Data: json.RawMessage(`{}`)},
		},
	}
}

func (b *brokers) append(log *Log, from, count int) []domain.Position {
	b.t.Helper()
	positions := make([]domain.Position, count)
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() {
			position, err := log.Append(b.t.Context(), someCommit(from+i))
			if err != nil {
				b.t.Errorf("append %d: %v", from+i, err)
			}
			positions[i] = position
		})
	}
	wait.Wait()
	return positions
}

// patience is how long anything may take that comes in the end: it is long, since a green test does not wait for it, and
// three real nodes that were killed share two busy cores with other tests when they come back.
const patience = 90 * time.Second

// hold keeps the next produce request without an answer until release is closed, and says when it has come.
func (b *brokers) hold(release <-chan struct{}, asked chan<- struct{}) {
	b.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		asked <- struct{}{}
		b.cluster.SleepControl(func() { <-release })
		return nil, nil, false
	})
}

// answerDuplicate lets the broker answer the next produce request as one does that knows the batch, but no longer its
// offset.
func (b *brokers) answerDuplicate() {
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		produce := request.(*kmsg.ProduceRequest)
		response := produce.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range produce.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				duplicate := kmsg.NewProduceResponseTopicPartition()
				duplicate.Partition, duplicate.ErrorCode, duplicate.BaseOffset = partition.Partition, kerr.DuplicateSequenceNumber.Code, -1
				answer.Partitions = append(answer.Partitions, duplicate)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
}

// deleteBefore makes a topic's partition 0 begin later, as retention does.
func deleteBefore(t *testing.T, b *brokers, topic string, offset int64) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, offset, -1)
	deleted, err := admin.DeleteRecords(t.Context(), offsets)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatalf("delete records: %v", err)
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (l *lines) count(what string) int { return strings.Count(l.String(), what) }
