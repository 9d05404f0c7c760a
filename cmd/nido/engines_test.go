// Below the story: the built command as a process, its signals and its exit status.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/engines"
)

// mainVariable makes a second process of the test binary be nido itself.
const mainVariable = "NIDO_TEST_MAIN"

func TestMain(m *testing.M) {
	engines.RunChild()
	if os.Getenv(mainVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// nido is the command as a process of its own, ended by force after a minute.
func nido(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	command.Env = append(os.Environ(), mainVariable+"=1")
	command.WaitDelay = time.Minute
	var complaints bytes.Buffer
	command.Stderr = &complaints
	return command, &complaints
}

func TestACommandBesideTheEnginesGetsTheirAddressesAndItsExitStatusIsOurs(t *testing.T) {
	command, complaints := nido(t, "engines", "--data", filepath.Join(t.TempDir(), "año"), "--", "sh", "-c",
		`for v in "$NIDO_KAFKA_BROKERS" "$NIDO_POSTGRES_URL" "$NIDO_CLICKHOUSE_URL" "$NIDO_MASTER_KEY"; do test -n "$v" || exit 1; done; exit 7`)
	err := command.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 7 {
		t.Fatalf("got %v\n%s", err, complaints)
	}
	if !strings.Contains(complaints.String(), "engines stopped") {
		t.Errorf("the engines were not stopped:\n%s", complaints)
	}
}

func TestTheAddressesArePrintedAndAnySignalEndsTheEnginesInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		command, complaints := nido(t, "engines", "--data", dir)
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for _, name := range []string{"NIDO_KAFKA_BROKERS", "NIDO_POSTGRES_URL", "NIDO_CLICKHOUSE_URL", "NIDO_MASTER_KEY"} {
			if !lines.Scan() || !strings.HasPrefix(lines.Text(), "export "+name+"='") {
				t.Fatalf("%q is not the export of %s\n%s", lines.Text(), name, complaints)
			}
		}
		if err := command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err != nil {
			t.Errorf("after %v: %v\n%s", signal, err, complaints)
		}
		if !strings.Contains(complaints.String(), "engines stopped") {
			t.Errorf("the engines were not stopped after %v:\n%s", signal, complaints)
		}
	}
}

func TestASignalDuringTheStartLeavesADirectoryThatCanBeStarted(t *testing.T) {
	dir := t.TempDir()
	command, complaints := nido(t, "engines", "--data", dir)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	deadline, tick := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for begun := false; !begun; {
		select {
		case <-deadline:
			t.Fatalf("initdb never began\n%s", complaints)
		case <-tick.C:
			_, err := os.Stat(filepath.Join(dir, "postgres", "data.new"))
			begun = err == nil
		}
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil {
		t.Error("an interrupted start was reported as success")
	}
	if output, complaints := nido(t, "engines", "--data", dir, "--", "true"); output.Run() != nil {
		t.Errorf("the next start: %s", complaints)
	}
}

func TestEnginesThatDieEndTheCommandBesideThem(t *testing.T) {
	// The command asks Postgres to end, by the number in its pid file, and would otherwise run for a minute.
	dir := t.TempDir()
	command, complaints := nido(t, "engines", "--data", dir, "--", "sh", "-c",
		`kill -9 "$(head -n 1 "$0/postgres/data/postmaster.pid")" && exec sleep 60`, dir)
	began := time.Now()
	if err := command.Run(); err == nil {
		t.Error("a dead engine was reported as success")
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(complaints.String(), "postgres ended by itself") {
		t.Errorf("nobody says why:\n%s", complaints)
	}
}
