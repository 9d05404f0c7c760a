//go:build realkafka

package e2e

// This file takes the whole of Nido, on a real Kafka, through what happens to nodes in a year: projectors join and die,
// a Kafka node dies and another is renewed. The load never stops, and every answer is checked.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/infra/kafkatest"
	"github.com/nidohq/nido/infra/model/modeltest"
)

const (
	nodesWorkers = 8 // half of them change agents, half of them chat
	nodesAgents  = nodesWorkers / 2
)

// traffic is applications that never stop: each change is repeated with its Idempotency-Key until it is acknowledged,
// and looked for on the other node at once.
type traffic struct {
	t       *testing.T
	nodes   [2]*client
	agents  []agentView
	book    *sent
	wait    sync.WaitGroup
	stop    chan struct{}
	changes atomic.Int64

	mu      sync.Mutex
	wanted  [nodesAgents][]string // acknowledged instructions, by agent
	refused map[string]int        // answers that ask to come back, by code
	slowest time.Duration         // from the first attempt to the acknowledgement
}

func startTraffic(t *testing.T, a, b *client) *traffic {
	l := &traffic{t: t, nodes: [2]*client{a, b}, stop: make(chan struct{}), refused: map[string]int{},
		book: &sent{tried: map[string]bool{}, acked: map[string]chatView{}}}
	for i := range nodesAgents {
		l.agents = append(l.agents, a.createAgent(fmt.Sprintf("Nodes %d", i)))
	}
	for worker := range nodesWorkers {
		l.wait.Go(func() {
			for i := 0; !l.stopped() && !t.Failed(); i++ {
				if here := l.nodes[i%2]; worker%2 == 0 {
					l.change(here, l.nodes[(i+1)%2], worker/2, fmt.Sprintf("worker-%d-order-%d", worker, i))
				} else {
					l.book.chat(here, l.agents[0].ID, fmt.Sprintf("conv-%d", worker/2), fmt.Sprintf("worker %d, message %d", worker, i))
				}
			}
		})
	}
	return l
}

func (l *traffic) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// change sets an agent's instructions on one node and reads them on the other. Each agent has one worker.
func (l *traffic) change(here, there *client, agent int, instructions string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), 2*time.Minute)
	defer cancel()
	path := "/api/agents/" + l.agents[agent].ID
	for begun := time.Now(); ; {
		got, err := here.do(ctx, "PATCH", path, map[string]any{"instructions": instructions}, "Idempotency-Key", instructions)
		if err == nil && got.status == http.StatusOK {
			l.mu.Lock()
			l.wanted[agent] = append(l.wanted[agent], instructions)
			l.slowest = max(l.slowest, time.Since(begun))
			l.mu.Unlock()
			break
		}
		if err != nil || got.code() != "idempotency_in_flight" && got.status != http.StatusServiceUnavailable {
			l.t.Errorf("change: %v, status %d: %s", err, got.status, got.body)
			return
		}
		l.mu.Lock()
		l.refused[got.code()]++
		l.mu.Unlock()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			l.t.Errorf("%s was never acknowledged", instructions)
			return
		}
	}
	got, err := there.do(ctx, "GET", path, nil)
	var read struct{ Instructions string }
	if err != nil || got.status != http.StatusOK || json.Unmarshal(got.body, &read) != nil || read.Instructions != instructions {
		l.t.Errorf("%q was acknowledged, the other node said: %v, status %d: %s", instructions, err, got.status, got.body)
	}
	l.changes.Add(1)
}

// flows waits until every worker that changes agents has got through, on average, several times, and chats too.
func (l *traffic) flows(what string) {
	l.t.Helper()
	begun, changes, chats := time.Now(), l.changes.Load(), l.book.count()
	await(l.t, time.Minute, what, func() bool {
		return l.t.Failed() || l.changes.Load() > changes+5*nodesAgents && l.book.count() > chats+5*nodesWorkers/2
	})
	l.t.Logf("%s: after %v", what, time.Since(begun).Round(time.Millisecond))
}

func TestProjectorsAndKafkaNodesComeAndGoUnderLoad(t *testing.T) {
	remote, ok := kafkatest.FromEnvironment()
	if !ok {
		t.Fatalf("%s is not set: this test needs real Kafka nodes, run `make test-kafka`", kafkatest.BrokersVariable)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	model := modeltest.New(modeltest.Options{Reply: func(asked modeltest.Request) modeltest.Reply {
		return modeltest.Words("you said: " + asked.Messages[len(asked.Messages)-1].Text)
	}})
	defer model.Close()
	_, engines := startEngines(t, t.TempDir())
	engines = append(withRealKafka(engines), "NIDO_MODEL_BASE_URL="+model.OpenAI())
	key := bootstrap(t, engines)
	survivor := startNode(t, engines, "projector,sweeper")
	defer func() {
		if t.Failed() {
			says, err := newClient(t, survivor.base, key).do(context.WithoutCancel(t.Context()), "GET", "/readyz", nil)
			t.Logf("the first projector says %s (%v)", says.body, err)
		}
	}()
	doomed := startNode(t, engines, "projector", throughTunnel(t, variable(t, engines, "NIDO_CLICKHOUSE_URL")))
	a, b := startNode(t, engines, "api"), startNode(t, engines, "api")
	root := newClient(t, a.base, key)
	load := startTraffic(t, root, newClient(t, b.base, key))
	load.flows("two projectors")

	startNode(t, engines, "projector")
	awaitMembers(t, remote, engines, 3)
	load.flows("a third projector has joined")
	doomed.signal(syscall.SIGKILL)
	load.flows("a projector was killed")
	awaitMembers(t, remote, engines, 2)

	killed := leaderOf(t, remote, eventsTopic(engines))
	must(remote.Kill(t.Context(), killed))
	load.flows("a Kafka node was killed")
	must(remote.Resume(t.Context(), killed))
	must(remote.Settle(t.Context()))
	renewed := killed%kafkatest.NodeCount + 1
	must(remote.Stop(t.Context(), renewed))
	load.flows("another Kafka node was stopped")
	must(remote.Resume(t.Context(), renewed))
	must(remote.Settle(t.Context()))
	load.flows("all Kafka nodes are back")

	close(load.stop)
	load.wait.Wait()
	t.Logf("%d changes, the slowest took %v; asked to come back: %v", load.changes.Load(), load.slowest.Round(time.Millisecond), load.refused)
	for i, agent := range load.agents {
		checkVersions(t, root, agent.ID, load.wanted[i])
	}
	const conversations = nodesWorkers / 2
	await(t, time.Minute, "every turn to have its end", func() bool {
		for i := range conversations {
			if len(root.messages(load.agents[0].ID, fmt.Sprintf("conv-%d", i)))%2 != 0 {
				return false
			}
		}
		return true
	})
	checkConversations(t, root, load.agents[0].ID, conversations, load.book)
	var stats struct{ Data []struct{ Messages int } }
	defer func() { t.Logf("the statistics say %+v, %d messages were kept", stats, load.book.kept) }()
	await(t, time.Minute, "the statistics to count everything", func() bool {
		root.must(http.StatusOK, "GET", "/api/stats/conversations", nil).into(t, &stats)
		return len(stats.Data) == 1 && stats.Data[0].Messages == load.book.kept
	})
	checkStores(t, engines, load.book)
}

// awaitMembers waits until the Postgres fold's group consists of so many projectors that share all partitions.
func awaitMembers(t *testing.T, remote kafkatest.Remote, engines []string, count int) {
	t.Helper()
	admin := adminOf(t, remote)
	group := strings.TrimSuffix(eventsTopic(engines), "events") + "postgres"
	await(t, 30*time.Second, fmt.Sprintf("%d projectors to share the partitions", count), func() bool {
		groups, err := admin.DescribeGroups(t.Context(), group)
		described := groups[group]
		return err == nil && described.Err == nil && described.State == "Stable" && len(described.Members) == count &&
			len(described.AssignedPartitions()[eventsTopic(engines)]) == 12
	})
}

func leaderOf(t *testing.T, remote kafkatest.Remote, topic string) int {
	t.Helper()
	topics, err := adminOf(t, remote).ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return int(topics[topic].Partitions[0].Leader)
}

func adminOf(t *testing.T, remote kafkatest.Remote) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(remote.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}
