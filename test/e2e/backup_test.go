package e2e

// This file is the drill: an installation is backed up while it serves, its machine burns, and another one takes over
// from the backup.

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lived is what clients know of an installation before its backup.
type lived struct {
	agent   agentView
	theirs  agentView
	reader  *client           // another account's only key
	creator answer            // to a command with an Idempotency-Key
	gone    erasureView       // of a conversation about whales
	answers map[string]string // of GETs, by path
}

// liveALot makes something of everything.
func (i installation) liveALot(t *testing.T) lived {
	t.Helper()
	l := lived{agent: i.live(t)}
	i.root.chat(l.agent.ID, "conv-gone", "ballenas azules")
	await(t, 20*time.Second, "the request to be found by its words", func() bool { return i.root.requestsAbout("ballenas") == 1 })
	l.gone = i.root.erase("/api/conversations/conv-gone?agentId=" + l.agent.ID)
	var opened struct {
		ID  string
		Key struct{ Key string }
	}
	i.root.must(http.StatusCreated, "POST", "/api/accounts", map[string]any{"name": "Cafés del Sur", "plan": "pro"}).into(t, &opened)
	l.reader = i.root.with(opened.Key.Key)
	l.theirs = l.reader.createAgent("Theirs")
	l.reader.chat(l.theirs.ID, "their-1", "what they said")
	var issued struct{ ID string }
	i.root.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "revoked", "scopes": []string{"chat"}}).into(t, &issued)
	i.root.must(http.StatusOK, "POST", "/api/keys/"+issued.ID+"/revoke", nil)
	l.creator = l.createOnce(i.root)

	var logs struct{ Data []struct{ RequestID string } }
	await(t, 20*time.Second, "the request log", func() bool {
		i.root.must(http.StatusOK, "GET", "/api/logs?limit=25&method=POST", nil).into(t, &logs)
		return len(logs.Data) == 25
	})
	l.answers = answers(t, i.root, []string{
		"/api/accounts", "/api/accounts/" + opened.ID, "/api/agents/" + l.agent.ID, "/api/agents/" + l.agent.ID + "/versions", "/api/keys/" + issued.ID,
		"/api/conversations?status=resolved", "/api/conversations/conv-1?agentId=" + l.agent.ID, "/api/conversations/conv-1/messages?limit=100&agentId=" + l.agent.ID,
		"/api/conversations/conv-4/messages?limit=100&agentId=" + l.agent.ID, "/api/logs/" + logs.Data[0].RequestID, "/api/logs/" + logs.Data[24].RequestID, "/api/me",
	})
	return l
}

// createOnce sends one and the same command.
func (l lived) createOnce(c *client) answer {
	c.t.Helper()
	return c.must(http.StatusCreated, "POST", "/api/agents", map[string]any{"name": "Once", "model": "echo"}, "Idempotency-Key", "only-once")
}

// elsewhere starts empty engines that have only the master key, as they would be on the next machine.
func elsewhere(t *testing.T, engines []string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "master.key"), []byte(variable(t, engines, "NIDO_MASTER_KEY")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, there := startEngines(t, dir)
	return there
}

// requestsAbout counts what a word finds in the request log.
func (c *client) requestsAbout(word string) int {
	c.t.Helper()
	var found struct{ Data []struct{ RequestID string } }
	c.must(http.StatusOK, "GET", "/api/logs?q="+word, nil).into(c.t, &found)
	return len(found.Data)
}

func TestADrill(t *testing.T) {
	t.Parallel()
	i := install(t)
	l := i.liveALot(t)
	stop := i.traffic(t, l.agent.ID)
	dir := filepath.Join(t.TempDir(), "backup")
	i.killBackups(t, dir)
	mustOperate(t, i.engines, "backup", "--to", dir)
	said := mustOperate(t, i.engines, "backup", "--to", dir) // what is new since
	if sent := stop(); sent == 0 {
		t.Error("nothing was sent meanwhile")
	}
	t.Logf("%s", said)
	if checked := mustOperate(t, masterOnly(t, i.engines), "backup", "--check", dir); !strings.Contains(checked, "is whole") {
		t.Errorf("check: %s", checked)
	}
	i.root.chat(l.agent.ID, "conv-after", "said after the backup")
	i.refusals(t, dir)
	i.node.stop(syscall.SIGKILL, 20*time.Second)

	there := elsewhere(t, i.engines)
	killRestores(t, there, dir)
	next := installation{engines: there, node: startNode(t, there, "api,projector,sweeper")}
	next.root = newClient(t, next.node.base, i.root.key)
	l.reader.base = next.node.base
	for path, got := range answers(t, next.root, slices.Collect(maps.Keys(l.answers))) {
		got = strings.ReplaceAll(got, i.root.base[strings.LastIndex(i.root.base, ":"):], ":port") // in what was answered then
		if want := l.answers[path]; got != want {
			t.Errorf("GET %s answers\n%s\nand answered\n%s", path, got, want)
		}
	}
	if said := l.reader.messages(l.theirs.ID, "their-1"); len(said) != 2 || said[0].Text != "what they said" {
		t.Errorf("another account's conversation: %+v", said)
	}
	if again := l.createOnce(next.root); string(again.body) != string(l.creator.body) || again.header.Get("Idempotent-Replayed") == "" {
		t.Errorf("the retry of a command was answered\n%s\nand not\n%s", again.body, l.creator.body)
	}
	if got, err := next.root.do(t.Context(), "GET", "/api/conversations/conv-after?agentId="+l.agent.ID, nil); err != nil || got.status != http.StatusNotFound {
		t.Errorf("what was said after the backup: %v, status %d", err, got.status)
	}
	next.root.awaitErased(t, l.gone)
	if got, err := next.root.do(t.Context(), "GET", "/api/conversations/conv-gone?agentId="+l.agent.ID, nil); err != nil || got.status != http.StatusNotFound {
		t.Errorf("what was erased before the backup: %v, status %d", err, got.status)
	}
	if found := next.root.requestsAbout("ballenas"); found != 0 {
		t.Errorf("%d requests still say what was erased before the backup", found)
	}
	next.root.chat(l.agent.ID, "conv-1", "and on it goes")
	if said := next.root.messages(l.agent.ID, "conv-1"); said[len(said)-2].Text != "and on it goes" {
		t.Errorf("the conversation did not go on: %+v", said[len(said)-2])
	}
	await(t, 30*time.Second, "every turn to have its end", func() bool { return count(t, next.postgres(t), `SELECT count(*) FROM read.turns`) == 0 })
	mustOperate(t, there, "verify")
	mustOperate(t, there, "backup", "--to", filepath.Join(t.TempDir(), "next"))
}

// masterOnly is what checking needs.
func masterOnly(t *testing.T, engines []string) []string {
	return []string{"NIDO_MASTER_KEY=" + variable(t, engines, "NIDO_MASTER_KEY")}
}

// later doubles a delay until what it is to interrupt comes to its end.
func later(delay time.Duration) time.Duration { return delay * 8 / 5 }

// killBackups kills one backup after another, each a bit later, until one is quick enough. None of the others may be
// taken for a backup.
func (i installation) killBackups(t *testing.T, dir string) {
	t.Helper()
	doomed := append(slices.Clone(i.engines), throughTunnel(t, variable(t, i.engines, "NIDO_CLICKHOUSE_URL")))
	killed := 0
	for delay := 60 * time.Millisecond; delay < time.Minute; delay = later(delay) {
		p := launch(t, doomed, "backup", "--to", dir)
		if !p.killedAfter(delay) {
			t.Logf("%d backups were killed, the last one after %v", killed, delay*5/8)
			return
		}
		killed++
		_, said, code := operate(t, masterOnly(t, i.engines), "backup", "--check", dir)
		if code != 1 || !strings.Contains(said, "no finished backup") {
			// It may have been killed behind its end, before it could say so.
			if code != 0 {
				t.Fatalf("a backup that was killed after %v: exit code %d, %s", delay, code, said)
			}
			return
		}
	}
	t.Fatal("no backup came to its end")
}

// killedAfter kills a process that still runs then.
func (p *process) killedAfter(delay time.Duration) bool {
	p.t.Helper()
	select {
	case <-p.gone:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			p.t.Fatalf("exit code %d\n%s", code, p.tail())
		}
		return false
	case <-time.After(delay):
		p.signal(syscall.SIGKILL)
		<-p.gone
		return p.cmd.ProcessState.ExitCode() != 0
	}
}

// killRestores does the same to restores. A node must not start in between.
func killRestores(t *testing.T, engines []string, dir string) {
	t.Helper()
	doomed := append(slices.Clone(engines), throughTunnel(t, variable(t, engines, "NIDO_CLICKHOUSE_URL")))
	db := (installation{engines: engines}).postgres(t)
	begun := func() bool {
		return count(t, db, `SELECT count(*) FROM pg_tables WHERE schemaname = 'nido' AND tablename = 'restores'`) == 1 &&
			count(t, db, `SELECT count(*) FROM nido.restores WHERE finished_at IS NULL`) == 1
	}
	first := launch(t, doomed, "restore", "--from", dir)
	await(t, 30*time.Second, "the restore to begin", begun)
	if !first.killedAfter(0) {
		t.Fatal("the restore was over before it could be killed")
	}
	killed, refused := 1, 0
	for delay := 80 * time.Millisecond; delay < time.Minute; delay = later(delay) {
		await(t, 10*time.Second, "Postgres to notice the death", func() bool {
			return count(t, db, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nido operator'`) == 0
		})
		if refused > 0 && !begun() {
			return // it was killed behind its end, before it could say so
		}
		refused++
		for _, args := range [][]string{{"serve", "--listen", freeAddress(t)}, {"bootstrap"}, {"backup", "--to", t.TempDir()}, {"verify"}} {
			p := launch(t, engines, args...)
			await(t, 20*time.Second, args[0]+" to be refused", p.isGone)
			if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.tail(), "a restore into these stores has not finished") {
				t.Fatalf("nido %s on a part of a log: exit code %d, %s", args[0], code, p.tail())
			}
		}
		if p := launch(t, doomed, "restore", "--from", dir); !p.killedAfter(delay) {
			t.Logf("%d restores were killed; nodes were refused %d times", killed, refused)
			return
		}
		killed++
	}
	t.Fatal("no restore came to its end")
}

// refusals tries to restore what is no backup of this master key, and where something is.
func (i installation) refusals(t *testing.T, dir string) {
	t.Helper()
	refused := func(what string, engines []string, dir, wanted string) {
		t.Helper()
		if _, said, code := operate(t, engines, "restore", "--from", dir); code != 1 || !strings.Contains(said, wanted) {
			t.Errorf("%s: exit code %d, %s", what, code, said)
		}
	}
	refused("stores that serve", i.engines, dir, "a restore needs empty stores: topic nido.control has had")
	wrong := append(withoutMaster(i.engines), "NIDO_MASTER_KEY=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	refused("another master key", wrong, dir, "the master key does not fit")
	refused("another prefix", append(slices.Clone(i.engines), "NIDO_KAFKA_PREFIX=other"), dir, "set NIDO_KAFKA_PREFIX")
	refused("an empty directory", i.engines, t.TempDir(), "no finished backup")

	empty := elsewhere(t, i.engines)
	segment, err := filepath.Glob(filepath.Join(dir, "log", "events-*"))
	if err != nil || len(segment) == 0 {
		t.Fatalf("%v, no segments", err)
	}
	whole, err := os.ReadFile(segment[0])
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for what, content := range map[string][]byte{"a changed file": flipped, "a file that was cut off": whole[:len(whole)-1], "an empty file": {}} {
		if err := os.WriteFile(segment[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(what, empty, dir, "the backup is damaged: log/"+filepath.Base(segment[0]))
	}
	if err := os.WriteFile(segment[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	// Nothing may have been written.
	foreign, err := kgo.NewClient(kgo.SeedBrokers(variable(t, empty, "NIDO_KAFKA_BROKERS")))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	topics, err := kadm.NewClient(foreign).ListTopics(ctx)
	if err != nil || len(topics.Names()) > 0 {
		t.Errorf("%v, a refused restore has made %v", err, topics.Names())
	}
	if left := count(t, (installation{engines: empty}).postgres(t), `SELECT count(*) FROM pg_namespace WHERE nspname IN ('nido', 'read')`); left != 0 {
		t.Error(fmt.Errorf("a refused restore has made %d schemas", left))
	}
}
