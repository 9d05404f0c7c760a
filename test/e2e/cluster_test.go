package e2e

// This file runs several nodes on the same engines.

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/kafkatest"
)

// cluster is two API nodes and two projector nodes on one set of engines.
type cluster struct {
	engines []string
	a, b    *client
}

func startCluster(t *testing.T) cluster {
	t.Helper()
	_, engines := startEngines(t, t.TempDir())
	engines = withRealKafka(engines)
	key := bootstrap(t, engines)
	startNode(t, engines, "projector,sweeper")
	startNode(t, engines, "projector")
	a := startNode(t, engines, "api")
	b := startNode(t, engines, "api")
	return cluster{engines: engines, a: newClient(t, a.base, key), b: newClient(t, b.base, key)}
}

func TestTwoNodesOnTheSameEngines(t *testing.T) {
	t.Parallel()
	c := startCluster(t)

	t.Run("64 concurrent commands on 10 hot agents lose no update", func(t *testing.T) {
		agents := make([]agentView, 10)
		for i := range agents {
			agents[i] = c.a.createAgent(fmt.Sprintf("Hot %d", i))
		}
		const commandCount = 640
		var wanted [10][]string
		var mu sync.Mutex
		inParallel(64, commandCount, func(i int) {
			node := []*client{c.a, c.b}[i%2]
			instructions := fmt.Sprintf("order %d", i)
			for {
				got, err := node.do(t.Context(), "PATCH", "/api/agents/"+agents[i%10].ID, map[string]any{"instructions": instructions})
				if err == nil && got.status == http.StatusOK {
					break
				}
				if err != nil || got.code() != "conflict" && got.code() != "overloaded" { // of both nothing has happened
					t.Errorf("change: %v, status %d: %s", err, got.status, got.body)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			wanted[i%10] = append(wanted[i%10], instructions)
		})
		for i, agent := range agents {
			checkVersions(t, c.b, agent.ID, wanted[i])
		}
	})

	t.Run("whoever creates on one node gets, lists and chats on the other", func(t *testing.T) {
		const rounds = 1000
		inParallel(8, rounds, func(i int) {
			here, there := c.a, c.b
			if i%2 == 1 {
				here, there = c.b, c.a
			}
			got, err := here.untilLetIn("POST", "/api/agents", map[string]any{"name": fmt.Sprintf("Round %d", i), "model": "echo"})
			if err != nil || got.status != http.StatusCreated {
				t.Errorf("create: %v, status %d: %s", err, got.status, got.body)
				return
			}
			var agent agentView
			if err := json.Unmarshal(got.body, &agent); err != nil {
				t.Error(err)
				return
			}
			if miss := firstMiss(there, agent); miss != "" {
				t.Errorf("round %d: %s", i, miss)
			}
		})
	})

	t.Run("any Kafka client reads well-formed CloudEvents", func(t *testing.T) {
		records := readTopic(t, c.engines)
		if len(records) < 3000 {
			t.Fatalf("%d records", len(records))
		}
		for _, record := range records {
			headers := map[string]string{}
			for _, header := range record.Headers {
				headers[header.Key] = string(header.Value)
			}
			for _, name := range []string{"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time"} {
				if headers[name] == "" {
					t.Fatalf("offset %d lacks %s: %v", record.Offset, name, headers)
				}
			}
			if headers["ce_specversion"] != "1.0" || headers["content-type"] != "application/json" || !json.Valid(record.Value) {
				t.Fatalf("offset %d: %v %s", record.Offset, headers, record.Value)
			}
			if headers["ce_subject"] != string(record.Key) {
				t.Fatalf("offset %d: subject %q, key %q", record.Offset, headers["ce_subject"], record.Key)
			}
			if _, err := time.Parse(time.RFC3339Nano, headers["ce_time"]); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("a lost administrator key is replaced by whoever may start nodes", func(t *testing.T) {
		c.a.must(http.StatusOK, "PATCH", "/api/accounts/default", map[string]any{"plan": "scale"})
		if _, said, code := operate(t, c.engines, "bootstrap"); code != 1 || !strings.Contains(said, "--again") {
			t.Errorf("a second bootstrap: exit code %d: %s", code, said)
		}
		another := strings.TrimSpace(mustOperate(t, c.engines, "bootstrap", "--again"))
		newClient(t, c.b.base, another).must(http.StatusOK, "GET", "/api/accounts", nil)
		c.a.must(http.StatusOK, "GET", "/api/accounts", nil)
	})
}

// checkVersions wants every accepted change in the agent's history, once, without a gap.
func checkVersions(t *testing.T, c *client, id string, wanted []string) {
	t.Helper()
	var versions []agentView
	for cursor := ""; ; {
		var page struct {
			Data []struct {
				Version      int
				Instructions string
			}
			NextCursor *string
		}
		c.must(http.StatusOK, "GET", "/api/agents/"+id+"/versions?limit=100"+cursor, nil).into(t, &page)
		for _, version := range page.Data {
			versions = append(versions, agentView{Version: version.Version, Instructions: version.Instructions})
		}
		if page.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *page.NextCursor
	}
	slices.SortFunc(versions, func(a, b agentView) int { return a.Version - b.Version })
	var found []string
	for i, version := range versions {
		if version.Version != i+1 {
			t.Fatalf("agent %s: version %d at place %d", id, version.Version, i+1)
		}
		if i > 0 {
			found = append(found, version.Instructions)
		}
	}
	slices.Sort(found)
	slices.Sort(wanted)
	if !slices.Equal(found, wanted) {
		t.Fatalf("agent %s: %d changes acknowledged, %d kept", id, len(wanted), len(found))
	}
}

// firstMiss gets, lists and chats with an agent that another node has just created.
func firstMiss(c *client, agent agentView) string {
	if got, err := c.untilLetIn("GET", "/api/agents/"+agent.ID, nil); err != nil || got.status != http.StatusOK {
		return fmt.Sprintf("get: %v, status %d: %s", err, got.status, got.body)
	}
	got, err := c.untilLetIn("GET", "/api/agents?limit=100", nil)
	var page struct{ Data []agentView }
	if err != nil || json.Unmarshal(got.body, &page) != nil ||
		!slices.ContainsFunc(page.Data, func(a agentView) bool { return a.ID == agent.ID }) {
		return fmt.Sprintf("list: %v, status %d: %d agents without it", err, got.status, len(page.Data))
	}
	if got, err := c.untilLetIn("POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola")); err != nil || got.status != http.StatusOK {
		return fmt.Sprintf("chat: %v, status %d: %s", err, got.status, got.body)
	}
	return ""
}

// inParallel calls work(0) to work(count-1) from so many goroutines and waits for them.
func inParallel(goroutines, count int, work func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range goroutines {
		group.Go(func() {
			for i := range next {
				work(i)
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	group.Wait()
}

// withRealKafka replaces the embedded broker by the real nodes, where there are some: twelve partitions, and topics and
// groups of the test's own.
func withRealKafka(engines []string) []string {
	remote, ok := kafkatest.FromEnvironment()
	if !ok {
		return engines
	}
	engines = slices.DeleteFunc(engines, func(line string) bool { return strings.HasPrefix(line, "NIDO_KAFKA_BROKERS=") })
	return append(engines, "NIDO_KAFKA_BROKERS="+strings.Join(remote.Brokers, ","),
		"NIDO_KAFKA_PREFIX=e2e-"+strings.ToLower(rand.Text()[:8]), "NIDO_KAFKA_PARTITIONS=12")
}

// eventsTopic is where the nodes on these engines write.
func eventsTopic(engines []string) string {
	for _, line := range engines {
		if prefix, ok := strings.CutPrefix(line, "NIDO_KAFKA_PREFIX="); ok {
			return prefix + ".events"
		}
	}
	return "nido.events"
}

// readTopic reads the events topic to its present end with a client that knows nothing of Nido.
func readTopic(t *testing.T, engines []string) []*kgo.Record {
	t.Helper()
	return enginestest.ReadTopic(t, strings.Split(variable(t, engines, "NIDO_KAFKA_BROKERS"), ","), eventsTopic(engines))
}
