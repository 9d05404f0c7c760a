package e2e

// This file gives operators' commands while a node serves: the log, a record that nobody can read.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// operate gives an operator's command and returns what it printed, what it complained about, and its exit code.
func operate(t testing.TB, engines []string, args ...string) (printed, said string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Env = append(withoutNido(os.Environ()), engines...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("nido %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), complaints.String(), cmd.ProcessState.ExitCode()
}

// mustOperate wants exit code 0.
func mustOperate(t testing.TB, engines []string, args ...string) string {
	t.Helper()
	printed, said, code := operate(t, engines, args...)
	if code != 0 {
		t.Fatalf("nido %s: exit code %d\n%s%s", strings.Join(args, " "), code, printed, said)
	}
	return printed
}

// installation is one node with every role on engines of its own.
type installation struct {
	engines []string
	node    *process
	root    *client
}

func install(t *testing.T, env ...string) installation {
	t.Helper()
	_, engines := startEngines(t, t.TempDir())
	key := bootstrap(t, engines)
	node := startNode(t, engines, "api,projector,sweeper", env...)
	return installation{engines: engines, node: node, root: newClient(t, node.base, key)}
}

// readiness is what /readyz says, whatever its status.
func (i installation) readiness(t *testing.T) string {
	t.Helper()
	response, err := http.Get(i.node.base + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// statistics is how many messages ClickHouse counts.
func (i installation) statistics() int {
	var stats struct{ Data []struct{ Messages int } }
	got, err := i.root.do(i.root.t.Context(), "GET", "/api/stats/conversations", nil)
	if err != nil || got.status != http.StatusOK || json.Unmarshal(got.body, &stats) != nil || len(stats.Data) != 1 {
		return -1
	}
	return stats.Data[0].Messages
}

type loggedEvent struct {
	Partition, Version                           int
	Offset                                       int64
	Outcome, Stream, Type, Account, Command, Why string
	Actor                                        struct{ Kind, ID string }
	Data                                         json.RawMessage
}

func logged(t *testing.T, engines []string, args ...string) []loggedEvent {
	t.Helper()
	var events []loggedEvent
	for line := range strings.Lines(mustOperate(t, engines, append([]string{"log"}, args...)...)) {
		var event loggedEvent
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		events = append(events, event)
	}
	return events
}

func TestARecordThatNobodyCanReadStopsTheFoldUntilAnOperatorSkipsIt(t *testing.T) {
	t.Parallel()
	i := install(t)
	agent := i.root.createAgent("Skip")
	i.root.chat(agent.ID, "conv-1", "before the record")

	foreign, err := kgo.NewClient(kgo.SeedBrokers(variable(t, i.engines, "NIDO_KAFKA_BROKERS")))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	produced := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: "nido.events", Key: []byte("x"), Value: []byte("not a commit")})
	record, err := produced.First()
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("%d:%d", record.Partition, record.Offset)
	stoppedBehind := fmt.Sprintf("stopped behind %d:%d", record.Partition, record.Offset-1)
	await(t, 20*time.Second, "/readyz to say where both projectors stopped", func() bool {
		return strings.Count(i.readiness(t), stoppedBehind) == 1
	})

	if _, said, code := operate(t, i.engines, "skip", "--at", fmt.Sprintf("0:%d", record.Offset-1), "--why", "a good one"); code != 1 || !strings.Contains(said, "has been folded") {
		t.Errorf("skipping what was folded: exit code %d, %s", code, said)
	}
	if _, said, code := operate(t, i.engines, "skip", "--at", fmt.Sprintf("0:%d", record.Offset+5), "--why", "too far"); code != 1 || !strings.Contains(said, "no such record") {
		t.Errorf("skipping what is not there: exit code %d, %s", code, said)
	}
	mustOperate(t, i.engines, "skip", "--at", at, "--by", "ana", "--why", "a foreign client wrote it by mistake")
	await(t, 20*time.Second, "the fold to go on by itself", func() bool { return !strings.Contains(i.readiness(t), "stopped") })
	i.root.chat(agent.ID, "conv-1", "behind the record")
	await(t, 20*time.Second, "ClickHouse to go on, too", func() bool { return i.statistics() == 4 })
	if log := i.node.tail(); strings.Count(log, "projector stopped") > 2 || !strings.Contains(log, `"offset":`+fmt.Sprint(record.Offset)) {
		t.Errorf("the node's log:\n%s", log)
	}

	var skipped []loggedEvent
	for _, event := range logged(t, i.engines) {
		if event.Outcome == "skipped" {
			skipped = append(skipped, event)
		}
	}
	if len(skipped) != 1 || skipped[0].Offset != record.Offset || skipped[0].Actor.ID != "ana" || !strings.Contains(skipped[0].Why, "by mistake") {
		t.Errorf("the log says of the skip: %+v", skipped)
	}
	mustOperate(t, i.engines, "verify") // a replay hears of it, too
	mustOperate(t, i.engines, "rebuild", "postgres")
	mustOperate(t, i.engines, "rebuild", "clickhouse", "--grace", "2s")
	mustOperate(t, i.engines, "verify")
}

func TestTheLogIsPrintedAndFiltered(t *testing.T) {
	t.Parallel()
	i := install(t)
	agent := i.root.createAgent("Bitácora")
	const secret = "una frase que nadie debe leer"
	i.root.chat(agent.ID, "conv-1", secret)
	i.root.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": "Bitácora 2"})
	appendAgain(t, i.engines, "agent-"+agent.ID) // too late: the stream has left that version

	all := logged(t, i.engines)
	version, accepted := 0, 0
	for _, event := range all {
		if event.Stream == "agent-"+agent.ID && event.Outcome == "accepted" {
			if version++; event.Version != version {
				t.Errorf("offset %d: version %d behind %d", event.Offset, event.Version, version-1)
			}
		}
		if event.Outcome == "accepted" {
			accepted++
		} else if event.Outcome != "rejected" {
			t.Errorf("offset %d: %s", event.Offset, event.Outcome)
		}
	}
	var agents struct{ Version int }
	i.root.must(http.StatusOK, "GET", "/api/agents/"+agent.ID, nil).into(t, &agents)
	if version != agents.Version || accepted != len(all)-1 {
		t.Errorf("%d versions of %d are in the log; %d of %d events were accepted, want one rejected", version, agents.Version, accepted, len(all))
	}

	for _, event := range logged(t, i.engines, "--type", "agent.created") {
		if event.Type != "agent.created" || event.Stream != "agent-"+agent.ID || event.Account != "default" {
			t.Errorf("filtered by type: %+v", event)
		}
	}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for what, count := range map[string]int{
		"--stream=agent-" + agent.ID: -1, "--account=default": len(all), "--account=another": 0, "--from=" + later: 0, "--to=" + later: len(all),
	} {
		if found := len(logged(t, i.engines, what)); count >= 0 && found != count || found > len(all) {
			t.Errorf("%s: %d events, want %d", what, found, count)
		}
	}
	if strings.Contains(mustOperate(t, i.engines, "log"), secret) {
		t.Error("a text is not sealed")
	}
	if opened := mustOperate(t, i.engines, "log", "--open", "--type", "message.received"); !strings.Contains(opened, secret) || !strings.Contains(opened, `"received":`) {
		t.Errorf("opened: %s", opened)
	}
	if _, said, code := operate(t, append(withoutMaster(i.engines), "NIDO_MASTER_KEY="), "log", "--open"); code != 1 || !strings.Contains(said, "NIDO_MASTER_KEY") {
		t.Errorf("opened without a key: exit code %d, %s", code, said)
	}
}

// appendAgain has a foreign client append a stream's first record once more, and waits until the fold has passed it.
func appendAgain(t *testing.T, engines []string, stream string) {
	t.Helper()
	brokers := variable(t, engines, "NIDO_KAFKA_BROKERS")
	records := readTopic(t, engines)
	first := slices.IndexFunc(records, func(r *kgo.Record) bool { return string(r.Key) == stream })
	foreign, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	again := &kgo.Record{Topic: "nido.events", Key: records[first].Key, Value: records[first].Value, Headers: records[first].Headers}
	if err := foreign.ProduceSync(t.Context(), again).FirstErr(); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "the fold to pass it", func() bool {
		events := logged(t, engines)
		return events[len(events)-1].Outcome == "rejected"
	})
}

func withoutMaster(engines []string) []string {
	var kept []string
	for _, line := range engines {
		if !strings.HasPrefix(line, "NIDO_MASTER_KEY=") {
			kept = append(kept, line)
		}
	}
	return kept
}

func TestTheLogIsFollowed(t *testing.T) {
	t.Parallel()
	i := install(t)
	follower := launch(t, i.engines, "log", "--follow", "--type", "agent.created")
	agent := i.root.createAgent("Followed")
	await(t, 20*time.Second, "the event to be printed with its outcome", func() bool {
		return strings.Contains(follower.tail(), `"outcome":"accepted"`) && strings.Contains(follower.tail(), agent.ID)
	})
	if code := follower.stop(syscall.SIGINT, 20*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
