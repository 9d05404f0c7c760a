package e2e

// This file takes engines away from running nodes, one at a time, and gives them back.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// soon is how long a caller waits for a refusal while an engine is down; a second, and what a busy machine adds.
const soon = 1500 * time.Millisecond

// patience is how long it waits where an engine is there and says nothing.
const patience = 3 * time.Second

// late is what no answer may take, also on a busy machine: without our bounds it would be ten seconds and more.
const late = 8 * time.Second

// wants holds a request's status, code and time against what is wanted. One that takes too long is repeated twice, since a
// busy machine may have had it wait; it must be quick once.
func wants(t *testing.T, c *client, status int, code, method, path string, body any) {
	t.Helper()
	wantsWithin(t, soon, c, status, code, method, path, body)
}

func wantsWithin(t *testing.T, limit time.Duration, c *client, status int, code, method, path string, body any) {
	t.Helper()
	for tries := 1; ; tries++ {
		began := time.Now()
		got, err := c.do(t.Context(), method, path, body)
		took := time.Since(began)
		// A write that was on its way when its engine went may or may not have arrived.
		unsure := status == 503 && method != "GET" && got.code() == "unknown_outcome"
		fits := err == nil && got.status == status && (got.code() == code || unsure)
		if fits && took <= limit {
			return
		}
		if !fits || took > late || tries == 3 {
			t.Errorf("%s %s: %d %s after %v, %v: %s", method, path, got.status, got.code(), took, err, got.body)
			return
		}
	}
}

func chatPath(agentID string) string { return "/api/v2/agent/" + agentID + "/chat" }

func TestAnEngineThatIsDown(t *testing.T) {
	t.Parallel()
	in := startInstallation(t)
	model := modeltest.New(modeltest.Options{FirstToken: 20 * time.Millisecond})
	defer model.Close()
	upstream := "NIDO_MODEL_BASE_URL=" + model.OpenAI()
	startNode(t, in.engines, "projector,sweeper")
	node := startNode(t, in.engines, "api", upstream)
	root := newClient(t, node.base, in.key)
	agent := root.createAgent("Outage")
	root.chat(agent.ID, "before", "hola")
	probe := &http.Client{Timeout: late}
	ready := func() int {
		response, err := probe.Get(node.base + "/readyz")
		if err != nil {
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}

	t.Run("Kafka: writes are refused at once, reads go on, and it recovers by itself", func(t *testing.T) {
		in.kafka.stop()
		for range 5 { // more often than the client library's patience
			wants(t, root, 503, "unavailable", "POST", chatPath(agent.ID), chatBody("kafka", "hola"))
			wants(t, root, 503, "unavailable", "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": "Other"})
		}
		wants(t, root, 200, "", "GET", "/api/agents/"+agent.ID, nil)
		wants(t, root, 200, "", "GET", "/api/conversations/before/messages?agentId="+agent.ID, nil)
		if status := ready(); status != 503 {
			t.Errorf("readyz answers %d", status)
		}
		in.kafka.start()
		await(t, 10*time.Second, "chats to be answered again", func() bool {
			got, err := root.do(t.Context(), "POST", chatPath(agent.ID), chatBody("kafka-again", "hola"))
			return err == nil && got.status == 200
		})
		await(t, 20*time.Second, "the node to be ready again", func() bool { return ready() == 200 })
		if said := root.messages(agent.ID, "before"); len(said) != 2 {
			t.Errorf("before: %+v", said)
		}
	})

	t.Run("Postgres: everything is refused at once, turns under way get their end, and it recovers by itself", func(t *testing.T) {
		var under sync.WaitGroup
		var slowest atomic.Int64 // of the commands
		var commands sync.WaitGroup
		load, stop := context.WithCancel(t.Context())
		var busy [4]agentView
		for i := range busy {
			busy[i] = root.createAgent(fmt.Sprintf("Busy %d", i))
		}
		for i, own := range busy {
			under.Go(func() {
				for j := 0; load.Err() == nil; j++ {
					got, err := root.do(t.Context(), "POST", chatPath(agent.ID), chatBody(fmt.Sprintf("postgres-%d-%d", i, j), "hola"))
					if err != nil || got.status != 200 && got.status != 503 {
						t.Errorf("chat under way: %d %s, %v", got.status, got.body, err)
					}
				}
			})
			commands.Go(func() {
				for j := 0; load.Err() == nil; j++ {
					began := time.Now()
					got, err := root.do(t.Context(), "PATCH", "/api/agents/"+own.ID, map[string]any{"name": fmt.Sprint(j)})
					if err != nil || got.status != 200 && got.status != 503 {
						t.Errorf("command under way: %d %s, %v", got.status, got.body, err)
					}
					slowest.Store(max(slowest.Load(), int64(time.Since(began))))
				}
			})
		}
		await(t, 10*time.Second, "turns to be under way", func() bool { return model.Stats().Active >= 2 })
		in.postgres.takeAway()
		for range 5 {
			wants(t, root, 503, "unavailable", "POST", chatPath(agent.ID), chatBody("postgres", "hola"))
			wants(t, root, 503, "unavailable", "GET", "/api/agents/"+agent.ID, nil)
			wants(t, root, 503, "unavailable", "POST", "/api/agents", map[string]any{"name": "x", "model": "m"})
		}
		if status := ready(); status != 503 {
			t.Errorf("readyz answers %d", status)
		}
		stop()
		commands.Wait() // they hear while it is still away
		if took := time.Duration(slowest.Load()); took > late {
			t.Errorf("the slowest command under way took %v", took)
		}
		in.postgres.giveBack()
		under.Wait() // a turn that has its reply tries for longer to get it accepted
		await(t, 20*time.Second, "the node to be ready again", func() bool { return ready() == 200 })
		root.chat(agent.ID, "postgres-again", "hola")
		await(t, 30*time.Second, "every turn to have its end", func() bool { return openTurns(t, in) == 0 })
	})

	t.Run("Postgres hanging: everything is refused, and it recovers by itself", func(t *testing.T) {
		root.chat(agent.ID, "used", "hola") // connections that have just been used are not tried before they are used again
		in.postgres.hold(true)
		for range 3 {
			wantsWithin(t, patience, root, 503, "unavailable", "GET", "/api/agents/"+agent.ID, nil)
			wantsWithin(t, patience, root, 503, "unavailable", "POST", chatPath(agent.ID), chatBody("frozen", "hola"))
			wantsWithin(t, patience, root, 503, "unavailable", "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": "x"})
		}
		if status := ready(); status != 503 {
			t.Errorf("readyz answers %d", status)
		}
		in.postgres.hold(false)
		await(t, 20*time.Second, "the node to be ready again", func() bool { return ready() == 200 })
		await(t, 20*time.Second, "chats to be answered again", func() bool {
			got, err := root.do(t.Context(), "POST", chatPath(agent.ID), chatBody("frozen-again", "hola"))
			return err == nil && got.status == 200
		})
	})

	t.Run("Postgres elsewhere: connections that hear nothing any more are given up", func(t *testing.T) {
		load, stop := context.WithCancel(t.Context())
		defer stop()
		var under sync.WaitGroup
		var answered atomic.Int64
		for i := range 8 {
			under.Go(func() {
				for j := 0; load.Err() == nil; j++ {
					if got, err := root.do(load, "POST", chatPath(agent.ID), chatBody(fmt.Sprintf("moved-%d-%d", i, j), "hola")); err == nil && got.status == 200 {
						answered.Add(1)
					}
				}
			})
		}
		await(t, 10*time.Second, "chats to be answered", func() bool { return answered.Load() > 20 })
		in.postgres.strand() // in the middle of a transaction of the fold, most likely
		before := answered.Load()
		await(t, 30*time.Second, "chats to be answered again", func() bool { return answered.Load() > before+50 })
		stop()
		under.Wait()
		await(t, 20*time.Second, "every turn to have its end", func() bool { return openTurns(t, in) == 0 })
	})

	t.Run("ClickHouse: only logs and statistics wait, and they catch up", func(t *testing.T) {
		for name, outage := range map[string]func(){"down": in.clickhouse.takeAway, "hanging": func() { in.clickhouse.hold(true) }} {
			t.Run(name, func(t *testing.T) {
				outage()
				const chats = 20
				for i := range chats {
					wants(t, root, 200, "", "POST", chatPath(agent.ID), chatBody(fmt.Sprintf("analytics-%s-%d", name, i), "hola"))
				}
				if status := ready(); status != 200 {
					t.Errorf("readyz answers %d", status)
				}
				root.must(503, "GET", "/api/logs", nil)
				root.must(503, "GET", "/api/stats/conversations", nil)
				if name == "down" {
					in.clickhouse.giveBack()
				} else {
					in.clickhouse.hold(false)
				}
				await(t, 30*time.Second, "the request log to have every chat once", func() bool {
					var page struct {
						Data []struct{ ConversationID *string }
					}
					got, err := root.do(t.Context(), "GET", "/api/logs?limit=100&method=POST", nil)
					if err != nil || got.status != 200 {
						return false
					}
					got.into(t, &page)
					found := map[string]int{}
					for _, entry := range page.Data {
						if id := entry.ConversationID; id != nil && strings.HasPrefix(*id, "analytics-"+name) {
							found[*id]++
						}
					}
					for id, times := range found {
						if times != 1 {
							t.Fatalf("%s is there %d times", id, times)
						}
					}
					return len(found) == chats
				})
			})
		}
	})
	checkTurns(t, in)
}
