//go:build realkafka

package kafka

// This file takes the log through what happens to a real Kafka's nodes: one is killed, all are renewed one by one. What
// is left is read by a client that knows nothing of Nido, and counted as the fold counts: for a stream's version the
// first commit wins.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/kafkatest"
)

const (
	manyPartitions = 12
	loadWriters    = 48
	// outageLimit is how long one node's death may keep a writer waiting: Kafka takes nine seconds to notice it, and
	// then elects.
	outageLimit = 25 * time.Second
)

// nodes is the real cluster; a test that runs without it says how to get it.
func nodes(t *testing.T) (*brokers, kafkatest.Remote) {
	t.Helper()
	remote, ok := kafkatest.FromEnvironment()
	if !ok {
		t.Fatalf("%s is not set: this test needs real Kafka nodes, run `make test-kafka`", kafkatest.BrokersVariable)
	}
	return startBrokers(t, kafkatest.NodeCount), remote
}

// load is writers that append to a stream each, one commit behind the other, and repeat what was not acknowledged.
type load struct {
	t    *testing.T
	log  *Log
	stop chan struct{}
	wait sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[domain.Position]domain.Commit
	latest       map[int32]time.Time // of an acknowledgement, by partition
	slowest      time.Duration       // from the first attempt at a commit to its acknowledgement
	slowestCall  time.Duration       // of one attempt
	failures     map[string]int      // by what the error says
}

func startLoad(t *testing.T, log *Log) *load {
	l := &load{t: t, log: log, stop: make(chan struct{}), acknowledged: map[domain.Position]domain.Commit{}, latest: map[int32]time.Time{}, failures: map[string]int{}}
	for writer := range loadWriters {
		l.wait.Go(func() { l.write(writer) })
	}
	return l
}

func (l *load) write(writer int) {
	for base := 0; ; base++ {
		commit := someCommit(writer)
		commit.Base, commit.Command = domain.Version(base), fmt.Sprintf("cmd_%d_%d", writer, base)
		for begun := time.Now(); ; {
			select {
			case <-l.stop:
				return // what is under way stays without an acknowledgement
			default:
			}
			called := time.Now()
			position, err := l.log.Append(l.t.Context(), commit)
			if l.note(commit, position, err, time.Since(called), time.Since(begun)) {
				break
			}
			if err := pause(l.t.Context(), 20*time.Millisecond); err != nil {
				return
			}
		}
	}
}

func (l *load) note(commit domain.Commit, position domain.Position, err error, call, since time.Duration) (done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowestCall = max(l.slowestCall, call)
	if err != nil {
		if !errors.Is(err, commands.ErrUnknownOutcome) && !errors.Is(err, commands.ErrUnavailable) {
			l.t.Errorf("append: %v", err)
		}
		what := err.Error()
		if _, reason, ok := strings.Cut(what, "cannot produce message "); ok {
			_, what, _ = strings.Cut(reason, ": ")
		}
		l.failures[what]++
		return false
	}
	if other, taken := l.acknowledged[position]; taken {
		l.t.Errorf("%s and %s were both acknowledged at %+v", other.Command, commit.Command, position)
	}
	l.acknowledged[position], l.latest[position.Partition] = commit, time.Now()
	l.slowest = max(l.slowest, since)
	return true
}

// flows waits until every partition has acknowledged something that was sent after now.
func (l *load) flows(t *testing.T, what string) {
	t.Helper()
	begun := time.Now()
	poll(t, what, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		moved := 0
		for _, at := range l.latest {
			if at.After(begun) {
				moved++
			}
		}
		return moved == manyPartitions
	})
	t.Logf("%s: after %v", what, time.Since(begun).Round(time.Millisecond))
}

func (l *load) end() {
	close(l.stop)
	l.wait.Wait()
	l.t.Logf("%d acknowledged; the slowest took %v, the slowest call %v; failed attempts: %v",
		len(l.acknowledged), l.slowest.Round(time.Millisecond), l.slowestCall.Round(time.Millisecond), l.failures)
	if l.slowest > outageLimit {
		l.t.Errorf("a commit waited %v for its acknowledgement", l.slowest)
	}
}

// check reads the log with a foreign client and folds it.
func (l *load) check(topic string, addrs []string) {
	l.t.Helper()
	records := enginestest.ReadTopic(l.t, addrs, topic)
	at := map[domain.Position]*kgo.Record{}
	versions := map[string]int64{} // of each stream
	winners := map[string]int{}    // commands that won
	doubled := 0
	for _, record := range records {
		at[domain.Position{Partition: record.Partition, Offset: record.Offset}] = record
		var commit struct {
			Base    int64
			Command string
		}
		if err := json.Unmarshal(record.Value, &commit); err != nil {
			l.t.Fatalf("%d:%d is no commit: %v", record.Partition, record.Offset, err)
		}
		stream := string(record.Key)
		switch {
		case commit.Base == versions[stream]:
			versions[stream]++
			winners[commit.Command]++
		case commit.Base > versions[stream]:
			l.t.Errorf("%d:%d: %s goes from version %d to %d: a commit is missing", record.Partition, record.Offset, stream, versions[stream], commit.Base)
		default:
			doubled++ // sent again after an attempt without an answer; the fold drops it
		}
	}
	for position, commit := range l.acknowledged {
		record := at[position]
		if record == nil || string(record.Key) != string(commit.Stream) || !slices.ContainsFunc(record.Headers, func(header kgo.RecordHeader) bool {
			return header.Key == headerID && string(header.Value) == commit.Command+"."+strconv.Itoa(int(commit.Base))
		}) {
			l.t.Errorf("%s was acknowledged at %+v, there is %v", commit.Command, position, record)
		}
		if winners[commit.Command] != 1 {
			l.t.Errorf("%s was acknowledged and applied %d times", commit.Command, winners[commit.Command])
		}
	}
	if extra := len(winners) - len(l.acknowledged); extra < 0 || extra > loadWriters {
		l.t.Errorf("%d commands were applied and %d acknowledged: at most %d were under way at the end", len(winners), len(l.acknowledged), loadWriters)
	}
	l.t.Logf("%d records, %d applied, %d sent twice", len(records), len(winners), doubled)
}

// leader is the node that leads a partition.
func leader(t *testing.T, addrs []string, topic string, partition int32) int {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	topics, err := admin.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return int(topics[topic].Partitions[partition].Leader)
}

func TestALeaderKilledUnderLoadTakesNoAcknowledgedCommitWithIt(t *testing.T) {
	brokers, nodes := nodes(t)
	cluster, log := brokers.open(manyPartitions)
	load := startLoad(t, log)
	load.flows(t, "every partition takes commits")
	killed := leader(t, brokers.addrs, cluster.Events(), 0)
	if err := nodes.Kill(t.Context(), killed); err != nil {
		t.Fatal(err)
	}
	load.flows(t, "every partition takes commits without the dead leader")
	if err := nodes.Resume(t.Context(), killed); err != nil {
		t.Fatal(err)
	}
	if err := nodes.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	load.flows(t, "every partition takes commits with the leader back")
	load.end()
	load.check(cluster.Events(), brokers.addrs)
}

func TestAllNodesAreRenewedOneByOneUnderLoad(t *testing.T) {
	brokers, nodes := nodes(t)
	cluster, log := brokers.open(manyPartitions)
	load := startLoad(t, log)
	load.flows(t, "every partition takes commits")
	for id := 1; id <= kafkatest.NodeCount; id++ {
		if err := nodes.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		load.flows(t, fmt.Sprintf("every partition takes commits without node %d", id))
		if err := nodes.Resume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := nodes.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	load.end()
	load.check(cluster.Events(), brokers.addrs)
}

func TestTooFewReplicasRefuseACommitSoonAndTakeItAgainWithoutRestart(t *testing.T) {
	brokers, nodes := nodes(t)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 3)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	// The loss of two nodes would also stop the controllers; asking for all three replicas needs the loss of one.
	all := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: new("3")}}
	if answers, err := admin.AlterTopicConfigs(t.Context(), all, cluster.Events()); err != nil || answers[0].Err != nil {
		t.Fatal(err, answers)
	}
	stopped := 1 + leader(t, brokers.addrs, cluster.Events(), 0)%kafkatest.NodeCount // a follower
	if err := nodes.Stop(t.Context(), stopped); err != nil {
		t.Fatal(err)
	}
	soonest, refusals := time.Hour, 0
	refused := func() bool {
		begun := time.Now()
		_, err := log.Append(t.Context(), someCommit(100))
		if err != nil && !errors.Is(err, commands.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome", err)
		}
		if err != nil && strings.Contains(err.Error(), "in-sync replicas") {
			soonest, refusals = min(soonest, time.Since(begun)), refusals+1
		}
		return refusals >= 5
	}
	// The first ones may wait until the leader has heard who is left.
	poll(t, "commits are refused for want of replicas", refused)
	if soonest > time.Second {
		t.Errorf("they were refused after %v at the soonest", soonest)
	}
	if err := nodes.Resume(t.Context(), stopped); err != nil {
		t.Fatal(err)
	}
	if err := nodes.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	poll(t, "a commit is taken", func() bool { _, err := log.Append(t.Context(), someCommit(200)); return err == nil })
	found := 0
	for _, record := range enginestest.ReadTopic(t, brokers.addrs, cluster.Events()) {
		if string(record.Key) == string(someCommit(200).Stream) {
			found++
		}
	}
	if found == 0 {
		t.Error("the commit that was taken is not in the log")
	}
}
