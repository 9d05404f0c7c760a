package e2e

// This file kills nodes, projectors and engines again and again while applications use everything that can be
// commanded, and then holds the log, the tables and the answers against what the applications were told.

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	full = flag.Bool("full", false, "run the fault tests in their full length")
	seed = flag.Uint64("seed", 0, "what the fault tests choose by; 0 chooses at random")
)

// chosenSeed is printed, so that a run can be repeated.
func chosenSeed(t testing.TB) uint64 {
	t.Helper()
	chosen := *seed
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	t.Logf("seed %d", chosen)
	return chosen
}

// killable is an installation of processes that can all be killed and started again at the same addresses.
type killable struct {
	t       *testing.T
	dir     string
	engines *process
	env     []string
	key     string
	nodes   [4]*process // api, api, projector, projector
	listen  [4]string
	clients [2]*client
	killed  map[string]int
	way     []string // into which the engines are started
}

var killableRoles = [4]string{"api,sweeper", "api,sweeper", "projector", "projector"}

func startKillable(t *testing.T, settings ...string) *killable {
	t.Helper()
	in := &killable{t: t, dir: t.TempDir(), killed: map[string]int{}}
	in.start(settings...)
	return in
}

func (in *killable) start(settings ...string) {
	t := in.t
	t.Helper()
	in.engines, in.env = startEnginesBy(t, in.way, in.dir)
	// Nodes that are killed in the middle of an answer reach ClickHouse through a tunnel, see there.
	in.env = append(in.env, throughTunnel(t, variable(t, in.env, "NIDO_CLICKHOUSE_URL")))
	in.env = append(in.env, settings...)
	in.key = bootstrap(t, in.env)
	for i := range in.nodes {
		in.listen[i] = freeAddress(t)
		in.startNode(i)
	}
	for i := range in.clients {
		in.clients[i] = newClient(t, in.nodes[i].base, in.key)
	}
}

func (in *killable) startNode(i int) {
	in.t.Helper()
	in.nodes[i] = launch(in.t, append([]string{"NIDO_LISTEN=" + in.listen[i]}, in.env...), "serve", "--roles", killableRoles[i])
	in.nodes[i].base = "http://" + in.listen[i]
	in.nodes[i].awaitReady(time.Minute)
}

// kill takes one part away with SIGKILL and sees to it that it comes back: nodes and engines by being started again,
// ClickHouse by itself.
func (in *killable) kill(what string) {
	in.t.Helper()
	in.killed[what]++
	switch what {
	case "engines": // the broker, and Postgres and ClickHouse with it
		in.engines.stop(syscall.SIGKILL, 20*time.Second)
		in.startEngines()
	case "postgres": // with which the engines end
		killProcess(in.t, childOf(in.t, in.engines, "postgres"))
		select {
		case <-in.engines.gone:
		case <-time.After(20 * time.Second):
			in.t.Fatal("the engines outlive Postgres")
		}
		in.startEngines()
	case "clickhouse":
		before := childOf(in.t, in.engines, "nido-clickhouse")
		killProcess(in.t, before)
		await(in.t, 30*time.Second, "ClickHouse to be started again", func() bool {
			now := children(in.t, in.engines)["nido-clickhouse"]
			return now != 0 && now != before
		})
	default:
		i := slices.Index([]string{"api 0", "api 1", "projector 0", "projector 1"}, what)
		in.nodes[i].stop(syscall.SIGKILL, 20*time.Second)
		in.startNode(i)
	}
}

// startEngines starts them again on the same data, where they must be found at the same addresses.
func (in *killable) startEngines() {
	in.t.Helper()
	engines, env := startEnginesBy(in.t, in.way, in.dir)
	in.engines = engines
	for _, line := range env {
		if !strings.HasPrefix(line, "NIDO_CLICKHOUSE_URL=") && !slices.Contains(in.env, line) {
			in.t.Fatalf("the engines came back elsewhere: %s", line)
		}
	}
	for _, node := range in.nodes {
		node.awaitReady(time.Minute)
	}
}

// children are the processes that a process has started, by the names of their programs.
func children(t testing.TB, parent *process) map[string]int {
	t.Helper()
	found := map[string]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name in parentheses may hold anything; the state and the parent come behind it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[1] != strconv.Itoa(parent.cmd.Process.Pid) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		found[filepath.Base(program)] = pid
	}
	return found
}

func childOf(t testing.TB, parent *process, program string) int {
	t.Helper()
	pid := 0
	await(t, 30*time.Second, program, func() bool { pid = children(t, parent)[program]; return pid != 0 })
	return pid
}

func killProcess(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// victims is an order in which things are killed: everything about equally often, the engines no less than the nodes.
func victims(random *rand.Rand, count int) (order []string) {
	all := []string{"api 0", "projector 0", "engines", "api 1", "projector 1", "postgres", "clickhouse"}
	for len(order) < count {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		order = append(order, all...)
	}
	return order[:count]
}

func TestNothingAcknowledgedIsLostOrDoubledHoweverOftenAnythingIsKilled(t *testing.T) {
	t.Parallel()
	kills, wanted, workers := 7, 1500, 24 // everything once
	if *full {
		kills, wanted, workers = 24, 10_000, 32
	}
	chosen := chosenSeed(t)
	random := rand.New(rand.NewPCG(chosen, 0))
	in := startKillable(t, "NIDO_CLAIM_TIMEOUT=5m")
	load := startLoad(t, in.clients, workers, chosen)
	began := time.Now()
	for i, victim := range victims(random, kills) {
		goal := (i + 1) * wanted / (kills + 1)
		await(t, 2*time.Minute, fmt.Sprintf("%d acknowledged commands", goal), func() bool { return load.acknowledged() >= goal })
		in.kill(victim)
		t.Logf("%6.1fs: killed %s, %d commands acknowledged so far", time.Since(began).Seconds(), victim, load.acknowledged())
	}
	await(t, 3*time.Minute, "the rest", func() bool { return load.acknowledged() >= wanted })
	load.finish()
	took := time.Since(began)

	await(t, 90*time.Second, "every turn to have its end", func() bool { return countRows(t, in.env, `SELECT count(*) FROM read.turns`) == 0 })
	log := judge(t, in.env)
	load.check(log)
	checkTables(t, in.env, log)
	clean := mustOperate(t, in.env, "verify")
	for _, kind := range slices.Sorted(maps.Keys(load.refused)) {
		t.Logf("asked to come back, or not answered: %d × %s", load.refused[kind], kind)
	}
	t.Logf("seed %d: %d kills %v in %v; %d commands acknowledged %v; %d records, %d streams, %d turns, %d commits lost their race; verify: %d lines",
		chosen, kills, in.killed, took.Round(time.Second), load.acknowledged(), load.acked, log.records, len(log.versions), len(log.turns), log.losers, strings.Count(clean, "\n"))
	if load.acknowledged() < wanted {
		t.Errorf("only %d commands were acknowledged", load.acknowledged())
	}
}
