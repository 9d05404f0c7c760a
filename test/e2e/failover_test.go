package e2e

// This file puts an older copy in Postgres' place, as a failover to a standby that lagged does, and looks at what nodes
// do that were running all the time.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAPostgresThatHasLostCommitsIsNotServedFromUntilItHasThemAgain(t *testing.T) {
	t.Parallel()
	in := startKillable(t)
	a, b := in.clients[0], in.clients[1]
	agent := a.createAgent("Failover")
	revoked, kept := a.issueKey("chat"), a.issueKey("chat")
	for _, node := range in.clients {
		node.with(revoked.Key).must(http.StatusOK, "GET", "/api/me", nil)
	}
	in.stopEngines()
	data, copied := filepath.Join(in.dir, "postgres", "data"), filepath.Join(t.TempDir(), "data")
	mustRun(t, "cp", "-a", data, copied)
	in.startEngines()

	for i := range 50 { // so that there is something to fold again
		a.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": fmt.Sprintf("Failover %d", i)})
	}
	a.must(http.StatusOK, "POST", "/api/keys/"+revoked.ID+"/revoke", map[string]any{"reason": "leaked"})
	for _, projector := range in.nodes[2:] {
		projector.signal(syscall.SIGSTOP) // keeps the window open for as long as the test looks
	}
	in.stopEngines()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "cp", "-a", copied, data)
	engines, _ := startEngines(t, in.dir)
	in.engines = engines
	if valid := countRows(t, in.env, `SELECT count(*) FROM read.keys WHERE public_id = '`+strings.TrimPrefix(revoked.ID, "key_")+`' AND revoked_at IS NULL`); valid != 1 {
		t.Fatal("the copy knows of the revocation; there is nothing to see here")
	}

	codes := in.lookWith(revoked.Key, agent.ID, 4*time.Second)
	t.Logf("while the copy was behind: %v", codes)
	asked := 0
	for code, times := range codes {
		asked += times
		if !strings.HasPrefix(code, "503 ") {
			t.Errorf("a node answered from a Postgres that had lost commits: %s", code)
		}
	}
	if asked < 50 {
		t.Errorf("only %d times did anybody ask", asked)
	}
	areUnreadyForAnotherServer(t, in.nodes[:2])
	in.goOn()
	for _, node := range []*client{a, b} {
		if got := node.with(revoked.Key).must(http.StatusUnauthorized, "GET", "/api/me", nil); got.code() != "revoked_api_key" {
			t.Errorf("%s", got.body)
		}
		node.with(kept.Key).must(http.StatusOK, "GET", "/api/me", nil)
		var read agentView
		node.must(http.StatusOK, "GET", "/api/agents/"+agent.ID, nil).into(t, &read)
		if read.Name != "Failover 49" || read.Version != 51 {
			t.Errorf("the agent is %+v", read)
		}
		node.chat(agent.ID, "after", "hola")
	}
	mustOperate(t, in.env, "verify")
}

// stopEngines ends them in good order; the nodes stay.
func (in *killable) stopEngines() {
	in.t.Helper()
	if code := in.engines.stop(syscall.SIGTERM, time.Minute); code != 0 {
		in.t.Fatalf("the engines ended with %d\n%s", code, in.engines.tail())
	}
}

func mustRun(t testing.TB, name string, args ...string) {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, output)
	}
}

// areUnreadyForAnotherServer says that nodes do not trust the Postgres that they met.
func areUnreadyForAnotherServer(t *testing.T, nodes []*process) {
	t.Helper()
	for _, node := range nodes {
		says := readyzOf(t, node)
		if says.status != http.StatusServiceUnavailable || !strings.Contains(string(says.body), "another server than before") {
			t.Errorf("readyz: %d %s", says.status, says.body)
		}
	}
}

// readyzOf is what /readyz answers, whatever its status.
func readyzOf(t testing.TB, node *process) answer {
	t.Helper()
	got, err := newClient(t, node.base, "").do(t.Context(), "GET", "/readyz", nil)
	if err != nil || !json.Valid(got.body) {
		t.Fatalf("readyz: %v %s", err, got.body)
	}
	return got
}
