package e2e

// This file takes ClickHouse away from a node under load, and gives it one that belongs to another log: chats must not
// notice either.

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	pacedClients = 8
	pacedEvery   = 100 * time.Millisecond // a chat of each client
	// pacedRounds is how often the comparison is made before it counts: on a machine that others use, a pause of theirs
	// is not ClickHouse's.
	pacedRounds = 3
	// unnoticed is what a busy machine may add to a chat. One that waited for ClickHouse would wait for seconds.
	unnoticed = 100 * time.Millisecond
	// caughtUp is how long logs and statistics may take to be complete behind the outage.
	caughtUp = time.Minute
)

// paced sends chats at a steady pace and returns how long each took, sorted.
func (i installation) paced(t *testing.T, agentID, name string, lasts time.Duration) (took []time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var mu sync.Mutex
	var talking sync.WaitGroup
	for n := range pacedClients {
		talking.Go(func() {
			ticker := time.NewTicker(pacedEvery)
			defer ticker.Stop()
			for turn := 0; ctx.Err() == nil; turn++ {
				began := time.Now()
				got, err := i.root.do(t.Context(), "POST", chatPath(agentID), chatBody(fmt.Sprintf("%s-%d-%d", name, n, turn/10), "hola"))
				if err != nil || got.status != http.StatusOK {
					t.Errorf("chat: %v, status %d: %s", err, got.status, got.body)
					return
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-ticker.C:
				}
			}
		})
	}
	talking.Wait()
	slices.Sort(took)
	return took
}

// ninetyNinth is the p99 of sorted durations.
func ninetyNinth(sorted []time.Duration) time.Duration { return sorted[len(sorted)*99/100] }

func TestChatsDoNotNoticeThatClickHouseStandsStill(t *testing.T) {
	outage := 12 * time.Second
	if *full {
		outage = time.Minute
	}
	dir := t.TempDir()
	engines, env := startEngines(t, dir)
	key := bootstrap(t, env)
	startNode(t, env, "projector,sweeper")
	i := installation{engines: env, node: startNode(t, env, "api")}
	i.root = newClient(t, i.node.base, key)
	agent := i.root.createAgent("Paced")
	i.paced(t, agent.ID, "warm", 2*time.Second)

	within := false
	for round := 0; round < pacedRounds && !within; round++ {
		before := i.paced(t, agent.ID, fmt.Sprintf("before-%d", round), outage/2)
		child := childOf(t, engines, "nido-clickhouse")
		if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		during := i.paced(t, agent.ID, fmt.Sprintf("during-%d", round), outage)
		if err := syscall.Kill(child, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		sent := countRows(t, env, `SELECT count(*) FROM read.messages`)
		await(t, caughtUp, "logs and statistics to be complete", func() bool { return i.statistics() == sent && i.loggedChats(t) == sent/2 })
		if took := time.Since(began); took > caughtUp {
			t.Errorf("logs and statistics were complete after %v", took)
		}
		within = ninetyNinth(during) <= max(2*ninetyNinth(before), unnoticed)
		t.Logf("p99 %v of %d chats before, %v of %d while ClickHouse stood still for %v; complete %v later", ninetyNinth(before), len(before),
			ninetyNinth(during), len(during), outage, time.Since(began).Round(100*time.Millisecond))
	}
	if !within {
		t.Error("chats took more than twice as long while ClickHouse stood still")
	}
	mustOperate(t, env, "verify")
}

// loggedChats counts the chats in the request log; -1 where one is there twice, or ClickHouse does not answer.
func (i installation) loggedChats(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var rows, requests uint64
	const query = `SELECT count(), uniqExact(request_id) FROM nido.requests FINAL WHERE route = '/api/v2/agent/{agentId}/chat'`
	if err := i.clickhouse(t).QueryRow(ctx, query).Scan(&rows, &requests); err != nil || rows != requests {
		return -1
	}
	return int(rows)
}

func TestAClickHouseOfAnotherLogStopsOnlyWhatItIsFor(t *testing.T) {
	t.Parallel()
	i := install(t)
	agent := i.root.createAgent("Aside")
	i.root.chat(agent.ID, "before", "hola")
	await(t, 20*time.Second, "ClickHouse", func() bool { return i.statistics() == 2 })
	clickhouse := i.clickhouse(t)
	folded := countRows(t, i.engines, `SELECT off FROM read.checkpoints`)
	await(t, 20*time.Second, "ClickHouse's checkpoint", func() bool { // it follows the rows
		var off int64
		err := clickhouse.QueryRow(t.Context(), `SELECT max(off) FROM nido_1.checkpoints`).Scan(&off)
		return err == nil && off == int64(folded)
	})

	const ahead = `INSERT INTO nido_1.checkpoints SELECT part, max(off) + 1000, 'x', max(up_to) FROM nido_1.checkpoints GROUP BY part`
	if err := clickhouse.Exec(t.Context(), ahead); err != nil {
		t.Fatal(err)
	}
	i.root.chat(agent.ID, "while", "hola")
	await(t, 30*time.Second, "the projector to be reported", func() bool {
		return strings.Contains(i.readiness(t), "stopped: the log ends before what it has folded")
	})
	if i.node.isGone() {
		t.Fatal("the node has ended")
	}
	for range 10 {
		i.root.chat(agent.ID, "while", "hola")
	}
	i.node.awaitReady(20 * time.Second)
	await(t, 20*time.Second, "the request log to go on", func() bool { return i.loggedChats(t) == 12 })

	const mend = `ALTER TABLE nido_1.checkpoints DELETE WHERE off >= 1000 SETTINGS mutations_sync = 2`
	if err := clickhouse.Exec(t.Context(), mend); err != nil {
		t.Fatal(err)
	}
	await(t, 40*time.Second, "the statistics to go on", func() bool { return i.statistics() == 24 })
	await(t, 20*time.Second, "the projector to be well again", func() bool {
		return strings.Contains(i.readiness(t), `"clickhouse projector":"ok"`)
	})
}
