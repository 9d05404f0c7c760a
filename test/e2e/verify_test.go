package e2e

// This file damages read models and wants every damage found.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
)

// live makes a bit of everything that read models are folded from.
func (i installation) live(t *testing.T) (agent agentView) {
	t.Helper()
	agent = i.root.createAgent("Verify")
	i.root.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"instructions": "otra cosa"})
	i.root.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "k", "scopes": []string{"chat"}})
	for n := range 20 {
		i.root.chat(agent.ID, fmt.Sprintf("conv-%d", n%5), fmt.Sprintf("message %d", n))
	}
	i.root.must(http.StatusOK, "POST", "/api/conversations/conv-1/resolve?agentId="+agent.ID, nil)
	appendAgain(t, i.engines, "agent-"+agent.ID)
	return agent
}

// traffic chats until it is told to stop, and then says how many messages were answered.
func (i installation) traffic(t *testing.T, agentID string) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	var talking sync.WaitGroup
	answered := make([]int, 4)
	for n := range answered {
		talking.Go(func() {
			for turn := 0; ctx.Err() == nil; turn++ {
				got, err := i.root.do(t.Context(), "POST", "/api/v2/agent/"+agentID+"/chat", chatBody(fmt.Sprintf("talk-%d-%d", n, turn/10), "and so on"))
				if err != nil || got.status != http.StatusOK {
					t.Errorf("chat: %v, status %d: %s", err, got.status, got.body)
					return
				}
				answered[n]++
			}
		})
	}
	return func() (sum int) {
		cancel()
		talking.Wait()
		for _, count := range answered {
			sum += count
		}
		return sum
	}
}

func (i installation) postgres(t *testing.T) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), variable(t, i.engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	return db
}

func (i installation) clickhouse(t *testing.T) clickhouse.Conn {
	t.Helper()
	options, err := clickhouse.ParseDSN(variable(t, i.engines, "NIDO_CLICKHOUSE_URL"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestVerifyFindsOneDamagedRowInEachReadModel(t *testing.T) {
	t.Parallel()
	i := install(t)
	agent := i.live(t)
	await(t, 20*time.Second, "ClickHouse", func() bool { return i.statistics() == 40 })

	stop := i.traffic(t, agent.ID)
	clean := mustOperate(t, i.engines, "verify")
	if sent := stop(); sent == 0 {
		t.Error("nothing was sent meanwhile")
	}
	for _, table := range []string{"accounts", "agents", "conversations", "keys", "messages", "rejections", "streams", "clickhouse"} {
		if !strings.Contains(clean, table) {
			t.Errorf("verify did not look at %s:\n%s", table, clean)
		}
	}
	if code := i.node.stop(15, time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	db := i.postgres(t)
	for table, damage := range map[string]string{
		"accounts":       `UPDATE read.accounts SET name = 'x'`,
		"agents":         `UPDATE read.agents SET status = 'paused'`,
		"agent_versions": `DELETE FROM read.agent_versions WHERE version = 1`,
		"checkpoints":    `UPDATE read.checkpoints SET clock = clock + interval '1 second'`,
		"commits":        `DELETE FROM read.commits WHERE off = (SELECT max(off) FROM read.commits)`,
		"conversations":  `UPDATE read.conversations SET message_count = message_count + 1 WHERE stream = (SELECT min(stream) FROM read.conversations)`,
		"erasures":       `INSERT INTO read.erasures VALUES ('x', 'x', 'x', 'x', 'x', false, 0, 0, now())`,
		"hosts":          `UPDATE read.hosts SET bound = NOT bound`,
		"keys":           `UPDATE read.keys SET revoked_at = now() WHERE name = 'k'`,
		"messages":       `UPDATE read.messages SET text_data = 'x' WHERE ctid = (SELECT min(ctid) FROM read.messages)`,
		"rejections":     `DELETE FROM read.rejections`,
		"streams":        `UPDATE read.streams SET version = version + 1 WHERE stream = (SELECT min(stream) FROM read.streams)`,
		"turns":          `INSERT INTO read.turns VALUES ('x', 'x', 'x', now(), now())`,
	} {
		tag, err := db.Exec(t.Context(), damage)
		if err != nil || tag.RowsAffected() == 0 {
			t.Errorf("damage %s: %v, %d rows", table, err, tag.RowsAffected())
		}
	}
	analytics := i.clickhouse(t)
	for _, damage := range []string{
		`ALTER TABLE nido_1.messages DELETE WHERE off = (SELECT max(off) FROM nido_1.messages) SETTINGS mutations_sync = 2`,
		`INSERT INTO nido_1.conversations SELECT * REPLACE ('another' AS conversation_id, now64() + 60 AS insert_by) FROM nido_1.conversations FINAL LIMIT 1`,
	} {
		if err := analytics.Exec(t.Context(), damage); err != nil {
			t.Fatal(err)
		}
	}
	printed, said, code := operate(t, i.engines, "verify")
	if code != 1 || !strings.Contains(said, "differ from the log in") {
		t.Errorf("exit code %d: %s", code, said)
	}
	var tables []string
	rows, err := db.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'read' AND tablename <> 'generation'`)
	if err == nil {
		tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range append(tables, "clickhouse messages", "clickhouse conversations") {
		if !strings.Contains(printed, "\n  "+found+" ") {
			t.Errorf("nothing was found in %s:\n%s", found, printed)
		}
	}
	if _, err := db.Exec(t.Context(), `UPDATE read.generation SET fingerprint = fingerprint + 1`); err != nil {
		t.Fatal(err)
	}
	if _, said, code := operate(t, i.engines, "verify"); code != 1 || !strings.Contains(said, "another version of nido") {
		t.Errorf("tables of another version: exit code %d: %s", code, said)
	}
	var left int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_namespace WHERE nspname = 'read_verify'`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d scratch schemas are left, %v", left, err)
	}
}
