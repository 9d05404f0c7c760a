package e2e

// This file drops the read models of both stores, and compares what the API answers before and behind folding the log anew.

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
)

var lastUse = regexp.MustCompile(`"lastUsedAt":(null|"[^"]*")`)

func TestReadModelsDroppedAndFoldedAnewAnswerTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := startDev(t, dir)
	root := newClient(t, node.base, rootKey(t, dir))
	fillWithLife(t, root)
	paths := everyGet(t, root)
	before := answers(t, root, paths)
	if code := node.stop(syscall.SIGTERM, 30*time.Second); code != 0 {
		t.Fatalf("exit code %d\n%s", code, node.tail())
	}

	engines, env := startEngines(t, dir)
	db, err := pgx.Connect(t.Context(), variable(t, env, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `DROP SCHEMA read CASCADE`); err != nil {
		t.Fatal(err)
	}
	db.Close(t.Context())
	options, err := clickhouse.ParseDSN(variable(t, env, "NIDO_CLICKHOUSE_URL"))
	if err != nil {
		t.Fatal(err)
	}
	analytics, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := analytics.Exec(t.Context(), `DROP DATABASE nido_1 SYNC`); err != nil {
		t.Fatal(err)
	}
	analytics.Close()
	if code := engines.stop(syscall.SIGTERM, 30*time.Second); code != 0 {
		t.Fatalf("exit code %d\n%s", code, engines.tail())
	}

	node = startDev(t, dir)
	root = newClient(t, node.base, rootKey(t, dir))
	var after map[string]string
	await(t, 30*time.Second, "the same statistics as before", func() bool {
		if got, err := root.do(t.Context(), "GET", statsPath, nil); err != nil || got.status != http.StatusOK {
			return false // ClickHouse's tables are made while the node serves
		}
		after = answers(t, root, paths)
		return after[statsPath] == before[statsPath]
	})
	for _, path := range paths {
		if before[path] != after[path] {
			t.Errorf("GET %s\nbefore: %s\nafter:  %s", path, before[path], after[path])
		}
	}
	t.Logf("%d GETs answer the same", len(paths))
}

// fillWithLife uses everything that leaves a trace in a read model.
func fillWithLife(t *testing.T, root *client) {
	t.Helper()
	for i := range 3 {
		agent := root.createAgent(fmt.Sprintf("Agent %d", i))
		root.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"temperature": 0.5, "metadata": map[string]string{"team": "a"}})
		root.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": "Renamed"})
		root.must(http.StatusOK, "POST", "/api/agents/"+agent.ID+"/versions/1/restore", nil)
		for j := range 4 {
			conversation := fmt.Sprintf("c-%d-%d", i, j)
			root.chat(agent.ID, conversation, "hola")
			root.chat(agent.ID, conversation, "¿qué tal?")
		}
		root.must(http.StatusOK, "POST", fmt.Sprintf("/api/conversations/c-%d-0/resolve?agentId=%s", i, agent.ID), nil)
		root.must(http.StatusOK, "POST", fmt.Sprintf("/api/conversations/c-%d-1/resolve?agentId=%s", i, agent.ID), nil)
		root.must(http.StatusOK, "POST", fmt.Sprintf("/api/conversations/c-%d-1/reopen?agentId=%s", i, agent.ID), nil)
		if i == 1 {
			root.must(http.StatusOK, "POST", "/api/agents/"+agent.ID+"/pause", nil)
		}
	}
	doomed := root.createAgent("Doomed")
	root.must(http.StatusNoContent, "DELETE", "/api/agents/"+doomed.ID, nil)
	var key struct{ ID string }
	root.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "one", "scopes": []string{"chat"}}).into(t, &key)
	root.must(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", nil)
	var account struct{ ID string }
	root.must(http.StatusCreated, "POST", "/api/accounts", map[string]any{"name": "Panadería Sol", "plan": "starter"}).into(t, &account)
	root.must(http.StatusOK, "PATCH", "/api/accounts/"+account.ID, map[string]any{"plan": "pro"})
}

// everyGet lists the addresses of everything that a fold answers for.
func everyGet(t *testing.T, root *client) []string {
	t.Helper()
	paths := []string{"/api/me", "/api/accounts", "/api/agents?limit=100", "/api/keys?limit=100", "/api/conversations?limit=100",
		"/api/conversations?status=resolved", statsPath}
	var list struct{ Data []struct{ ID string } }
	for _, kind := range []string{"accounts", "agents", "keys"} {
		root.must(http.StatusOK, "GET", "/api/"+kind+"?limit=100", nil).into(t, &list)
		for _, item := range list.Data {
			paths = append(paths, "/api/"+kind+"/"+item.ID)
			if kind == "agents" {
				paths = append(paths, "/api/agents/"+item.ID+"/versions", "/api/agents/"+item.ID+"/versions/1")
			}
		}
	}
	var conversations []conversationView
	root.must(http.StatusOK, "GET", "/api/conversations?limit=100", nil).into(t, &conversations)
	for _, c := range conversations {
		paths = append(paths, fmt.Sprintf("/api/conversations/%s?agentId=%s", c.ID, c.AgentID),
			fmt.Sprintf("/api/conversations/%s/messages?agentId=%s", c.ID, c.AgentID))
	}
	if len(paths) < 40 {
		t.Fatalf("only %d paths: %s", len(paths), slices.Clone(paths))
	}
	// Statistics follow a moment later; they are compared once they are complete.
	await(t, 15*time.Second, "complete statistics", func() bool {
		var stats struct {
			Data []struct{ Conversations, Messages int }
		}
		root.must(http.StatusOK, "GET", "/api/stats/conversations", nil).into(t, &stats)
		return len(stats.Data) == 1 && stats.Data[0].Conversations == len(conversations) && stats.Data[0].Messages == 4*len(conversations)
	})
	return paths
}

func answers(t *testing.T, root *client, paths []string) map[string]string {
	t.Helper()
	found := map[string]string{}
	port := root.base[strings.LastIndex(root.base, ":"):]
	for _, path := range paths {
		body := string(root.must(http.StatusOK, "GET", path, nil).body)
		body = strings.ReplaceAll(body, port, ":port")                       // another one after each start
		found[path] = lastUse.ReplaceAllString(body, `"lastUsedAt":"noted"`) // telemetry, not a fold
	}
	return found
}
