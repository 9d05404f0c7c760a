package e2e

// This file rebuilds read models while a node serves traffic, and kills a rebuild in the middle.

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// fill has so many messages answered, in conversations of their own.
func (i installation) fill(t *testing.T, agentID string, chats int) {
	t.Helper()
	inParallel(32, chats, func(n int) {
		got, err := i.root.untilLetIn("POST", "/api/v2/agent/"+agentID+"/chat", chatBody(fmt.Sprintf("fill-%d", n), fmt.Sprintf("fill %d", n)))
		if err != nil || got.status != http.StatusOK {
			t.Errorf("chat: %v, status %d: %s", err, got.status, got.body)
		}
	})
}

// count runs a query that answers with one number.
func count(t *testing.T, db *pgx.Conn, query string) (number int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), query).Scan(&number); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return number
}

// watch reads and changes things all the time until it is told to stop; any error fails the test. It says how long the
// slowest command took.
func (i installation) watch(t *testing.T, agentID string) (stop func() time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	var slowest atomic.Int64
	var watching sync.WaitGroup
	ask := func(method, path string, body any) {
		watching.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if got, err := i.root.do(t.Context(), method, path, body); err != nil || got.status != http.StatusOK {
					t.Errorf("%s %s: %v, status %d: %s", method, path, err, got.status, got.body)
					return
				}
				if took := int64(time.Since(began)); method != "GET" && took > slowest.Load() {
					slowest.Store(took)
				}
			}
		})
	}
	ask("GET", "/api/agents/"+agentID, nil)
	ask("GET", "/api/conversations?agentId="+agentID, nil)
	ask("GET", "/api/stats/conversations", nil)
	ask("PATCH", "/api/agents/"+agentID, map[string]any{"instructions": "una tarea"})
	return func() time.Duration {
		cancel()
		watching.Wait()
		return time.Duration(slowest.Load())
	}
}

func TestPostgresIsRebuiltUnderTrafficAndAfterAKill(t *testing.T) {
	t.Parallel()
	const filled = 600
	i := install(t)
	agent := i.live(t)
	i.fill(t, agent.ID, filled)
	db := i.postgres(t)
	answers := func() string {
		return string(i.root.must(http.StatusOK, "GET", "/api/conversations/conv-1/messages?agentId="+agent.ID, nil).body) +
			string(i.root.must(http.StatusOK, "GET", "/api/conversations/fill-7?agentId="+agent.ID, nil).body)
	}
	before, table := answers(), count(t, db, `SELECT 'read.messages'::regclass::oid::bigint`)

	stopTalking, stopWatching := i.traffic(t, agent.ID), i.watch(t, agent.ID)
	first := launch(t, i.engines, "rebuild", "postgres", "--batch", "5")
	reached := 0
	await(t, 30*time.Second, "the rebuild to come half way", func() bool {
		if first.isGone() {
			t.Fatalf("the rebuild was over before it could be killed: %v", first.err)
		}
		if count(t, db, `SELECT count(*) FROM pg_tables WHERE schemaname = 'read_next' AND tablename = 'checkpoints'`) == 0 {
			return false
		}
		return db.QueryRow(t.Context(), `SELECT off FROM read_next.checkpoints`).Scan(&reached) == nil && reached > 300
	})
	first.stop(syscall.SIGKILL, 20*time.Second)
	if served := count(t, db, `SELECT 'read.messages'::regclass::oid::bigint`); served != table {
		t.Error("a killed rebuild has switched")
	}
	printed, said, code := operate(t, i.engines, "rebuild", "postgres")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, printed, said)
	}
	end := count(t, db, `SELECT off::int FROM read.checkpoints`)
	told := regexp.MustCompile(`rebuilding postgres: \d+ of (\d+) events \(\d+ %\), \d+ events/s`).FindStringSubmatch(said)
	if told == nil {
		t.Errorf("no progress was printed: %s", said)
	} else if events, err := strconv.Atoi(told[1]); err != nil || events > end-reached {
		t.Errorf("it began anew instead of behind %d: %s", reached, said)
	}
	t.Logf("resumed behind %d: %s", reached, said)
	if slowest := stopWatching(); slowest > late {
		t.Errorf("a command took %v", slowest)
	} else {
		t.Logf("the slowest command took %v", slowest)
	}
	sent := stopTalking()
	if sent == 0 {
		t.Error("nothing was sent meanwhile")
	}

	if served := count(t, db, `SELECT 'read.messages'::regclass::oid::bigint`); served == table {
		t.Error("the old table still serves")
	}
	if left := count(t, db, `SELECT count(*) FROM pg_namespace WHERE nspname IN ('read_old', 'read_next')`); left != 0 {
		t.Errorf("%d schemas are left", left)
	}
	if generation := count(t, db, `SELECT generation FROM nido.generations WHERE read_model = 'postgres'`); generation != 2 {
		t.Errorf("generation %d", generation)
	}
	if after := answers(); after != before {
		t.Errorf("the answers were\n%s\nand are\n%s", before, after)
	}
	if kept := count(t, db, `SELECT count(*) FROM read.messages WHERE role = 'user'`); kept != 20+filled+sent {
		t.Errorf("%d messages are there, %d were answered", kept, 20+filled+sent)
	}
	i.root.createAgent("After the switch")
	mustOperate(t, i.engines, "verify")
}

func TestClickHouseIsRebuiltUnderTraffic(t *testing.T) {
	t.Parallel()
	const filled = 400
	i := install(t)
	agent := i.live(t)
	i.fill(t, agent.ID, filled)
	await(t, 20*time.Second, "ClickHouse", func() bool { return i.statistics() == 2*(20+filled) })
	analytics := i.clickhouse(t)
	if err := analytics.Exec(t.Context(), `ALTER TABLE nido_1.messages DELETE WHERE off < 40 SETTINGS mutations_sync = 2`); err != nil {
		t.Fatal(err)
	}
	if _, _, code := operate(t, i.engines, "verify"); code != 1 {
		t.Fatalf("the damage was not found: exit code %d", code)
	}

	stopTalking, stopWatching := i.traffic(t, agent.ID), i.watch(t, agent.ID)
	doomed := append(slices.Clone(i.engines), throughTunnel(t, variable(t, i.engines, "NIDO_CLICKHOUSE_URL")))
	first := launch(t, doomed, "rebuild", "clickhouse", "--batch", "20")
	await(t, 30*time.Second, "the rebuild to begin", func() bool {
		var rows uint64
		return analytics.QueryRow(t.Context(), `SELECT count() FROM nido_2.messages`).Scan(&rows) == nil && rows > 0
	})
	first.stop(syscall.SIGKILL, 20*time.Second)
	mustOperate(t, i.engines, "rebuild", "clickhouse", "--grace", "3s")
	stopWatching()
	sent := stopTalking()
	await(t, 20*time.Second, "the statistics to count everything", func() bool { return i.statistics() == 2*(20+filled+sent) })

	var databases []string
	if err := analytics.QueryRow(t.Context(), `SELECT groupArray(name) FROM system.databases WHERE match(name, '^nido_[0-9]+$')`).Scan(&databases); err != nil {
		t.Fatal(err)
	}
	if len(databases) != 1 || databases[0] != "nido_2" {
		t.Errorf("databases %v", databases)
	}
	mustOperate(t, i.engines, "verify")
	i.node.stop(syscall.SIGTERM, time.Minute)
	again := startNode(t, i.engines, "api,projector,sweeper")
	i.root.base = again.base
	if counted := i.statistics(); counted != 2*(20+filled+sent) {
		t.Errorf("a node that starts behind the switch counts %d messages", counted)
	}
}
