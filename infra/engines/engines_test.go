//go:build linux && amd64 && !noengines

// Below the story: starts, stops and refusals of the real engines.

package engines

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// roleVariable makes a second process of the test binary play a part in a test.
const roleVariable = "NIDO_ENGINES_TEST_ROLE"

func TestMain(m *testing.M) {
	RunChild()
	switch os.Getenv(roleVariable) {
	case "writer":
		os.Exit(report(writeUntilKilled(os.Getenv("NIDO_ENGINES_TEST_DIR"))))
	case "visitor":
		os.Exit(report(visit(os.Getenv("NIDO_ENGINES_TEST_DIR"))))
	}
	os.Exit(m.Run())
}

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// oddDir is a new directory whose name has everything that breaks quoting.
func oddDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), `año's "datos" $HOME %d;`)
}

// testConfig is for tests: the packages may be named by the environment, and waiting for a lock is short.
func testConfig(dir string) Config {
	return Config{Dir: dir, Packages: os.Getenv("NIDO_ENGINES"), LockWait: 10 * time.Second}
}

func startEngines(t *testing.T, cfg Config) *Engines {
	t.Helper()
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	e, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(context.WithoutCancel(t.Context())); err != nil && e.Err() == nil {
			t.Error(err)
		}
	})
	return e
}

func stopEngines(t *testing.T, e *Engines) {
	t.Helper()
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-e.Done()
	if e.Err() != nil {
		t.Fatalf("an ordered stop was reported as a failure: %v", e.Err())
	}
}

// patience is how long anything may take that comes in the end. It is long: other tests may have the cores.
const patience = time.Minute

// eventually waits for a condition that another process makes true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("after %v still not: %s", patience, what)
		case <-tick.C:
		}
	}
}

// holders are the processes, this one excluded, that have the directory's lock open, by name.
func holders(t *testing.T, dir string) map[int]string {
	t.Helper()
	lock := filepath.Join(dir, "lock")
	found := map[int]string{}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fds := filepath.Join("/proc", process.Name(), "fd")
		open, err := os.ReadDir(fds)
		if err != nil { // it has ended meanwhile, or is not ours
			continue
		}
		for _, fd := range open {
			if target, err := os.Readlink(filepath.Join(fds, fd.Name())); err == nil && target == lock {
				name, _ := os.ReadFile(filepath.Join("/proc", process.Name(), "comm"))
				found[pid] = strings.TrimSpace(string(name))
			}
		}
	}
	return found
}

func TestEverythingSurvivesAnOrderedRestart(t *testing.T) {
	dir := oddDir(t)
	first := startEngines(t, testConfig(dir))
	if err := write(t.Context(), first, 0, 20, nil); err != nil {
		t.Fatal(err)
	}
	stopEngines(t, first)
	if left := holders(t, dir); len(left) > 0 {
		t.Fatalf("these still run after the stop: %v", left)
	}

	second := startEngines(t, testConfig(dir))
	wantAll(t, second, 20)
	if !slices.Equal(first.KafkaBrokers(), second.KafkaBrokers()) || first.PostgresURL() != second.PostgresURL() ||
		first.ClickHouseURL() != second.ClickHouseURL() {
		t.Errorf("the addresses changed although their ports were free: %v, then %v", first.KafkaBrokers(), second.KafkaBrokers())
	}
	if first.MasterKey() != second.MasterKey() || len(first.MasterKey()) != 44 {
		t.Error("the master key is not the same 32 bytes in base64")
	}
}

func TestASecondStartOnTheSameDirectoryIsRefused(t *testing.T) {
	dir := oddDir(t)
	startEngines(t, testConfig(dir))
	cfg := testConfig(dir)
	cfg.LockWait = 100 * time.Millisecond
	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{dir, fmt.Sprintf("process %d", os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message does not name %q: %v", want, err)
		}
	}
}

func TestAPostgresThatEndsIsReported(t *testing.T) {
	dir := oddDir(t)
	e := startEngines(t, testConfig(dir))
	if err := syscall.Kill(childPid(t, "postgres"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Done():
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	if err := e.Err(); err == nil || !strings.Contains(err.Error(), "postgres ended by itself (signal: killed)") {
		t.Errorf("got %v", err)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "all children are gone", func() bool { return len(holders(t, dir)) == 0 })
	if err := write(t.Context(), startEngines(t, testConfig(dir)), 0, 1, nil); err != nil {
		t.Errorf("after the crash: %v", err)
	}
}

func TestAClickHouseThatEndsIsStartedAgain(t *testing.T) {
	dir := oddDir(t)
	cfg := testConfig(dir)
	cfg.Packages = movedPackages(t)
	e := startEngines(t, cfg)
	if err := write(t.Context(), e, 0, 1, nil); err != nil {
		t.Fatal(err)
	}
	options, err := clickhouse.ParseDSN(e.ClickHouseURL())
	if err != nil {
		t.Fatal(err)
	}
	answers := func() bool {
		conn, err := openClickHouse(e)
		if err != nil {
			return false
		}
		defer conn.Close()
		var count uint64
		return conn.QueryRow(t.Context(), `SELECT count() FROM numbers`).Scan(&count) == nil && count == 1
	}
	pid := childPid(t, "nido-clickhouse")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old one is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	eventually(t, "it answers again, at the same address, with what was written", answers)
	// A connection that is reset in the middle of its greeting is what the library does not survive.
	for range 8 {
		conn, err := net.Dial("tcp", options.Addr[0])
		if err != nil {
			break // it has ended already
		}
		if err := errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "it answers again", answers)
	// And where it cannot be started for the moment, that is tried once more.
	if err := os.Rename(cfg.Packages, cfg.Packages+" away"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(childPid(t, "nido-clickhouse"), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err) // where it was gone already, it ended of the resets
	}
	eventually(t, "two starts have failed", func() bool {
		log, err := os.ReadFile(filepath.Join(dir, "clickhouse.log"))
		return err == nil && strings.Count(string(log), "load "+cfg.Packages) >= 2
	})
	if err := os.Rename(cfg.Packages+" away", cfg.Packages); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it answers once more", answers)
	select {
	case <-e.Done():
		t.Errorf("the engines have ended: %v", e.Err())
	default:
	}
	stopEngines(t, e)
	eventually(t, "all children are gone", func() bool { return len(holders(t, dir)) == 0 })
}

// movedPackages is another name for the folder of the engines' packages.
func movedPackages(t *testing.T) string {
	t.Helper()
	found, err := locate(os.Getenv("NIDO_ENGINES"))
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "odd name ñ")
	if err := os.Symlink(filepath.Join(filepath.Dir(found.libchdb), "..", ".."), named); err != nil {
		t.Fatal(err)
	}
	return named
}

// childPid finds a child by its name among the processes that this one started. One that has just ended is waited for.
func childPid(t *testing.T, name string) (pid int) {
	t.Helper()
	eventually(t, "there is a child called "+name, func() bool {
		pid = findChild(t, name)
		return pid != 0
	})
	return pid
}

func findChild(t *testing.T, name string) int {
	t.Helper()
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		pids, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			command, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			if err != nil {
				continue
			}
			program, _, _ := strings.Cut(string(command), "\x00")
			if filepath.Base(program) == name {
				number, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				return number
			}
		}
	}
	return 0
}

func TestACancelledStartLeavesNothingRunning(t *testing.T) {
	dir := oddDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := Start(ctx, testConfig(dir))
		failed <- err
	}()
	eventually(t, "initdb has begun", func() bool {
		_, err := os.Stat(filepath.Join(dir, postgresFolder, "data.new"))
		return err == nil
	})
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	eventually(t, "all children are gone", func() bool { return len(holders(t, dir)) == 0 })
	if err := write(t.Context(), startEngines(t, testConfig(dir)), 0, 1, nil); err != nil {
		t.Errorf("the next start: %v", err)
	}
}

func TestClickHouseKeepsToItsMemory(t *testing.T) {
	cfg := testConfig(oddDir(t))
	cfg.ClickHouseMemoryBytes = 600 << 20
	click, err := openClickHouse(startEngines(t, cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer click.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const greedy = `SELECT length(groupArray(number)) FROM numbers(1000000000)`
	var n uint64
	err = click.QueryRow(ctx, greedy).Scan(&n)
	if exception, ok := errors.AsType[*clickhouse.Exception](err); !ok || exception.Code != 241 { // MEMORY_LIMIT_EXCEEDED
		t.Errorf("a query for gigabytes ended with %d, %v", n, err)
	}
	if err := click.Ping(ctx); err != nil {
		t.Errorf("after a refused query: %v", err)
	}
}
