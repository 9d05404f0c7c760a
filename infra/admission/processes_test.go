package admission

// Many processes on one Postgres, each with an Admission of its own: this test's binary runs itself.

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/postgres"
)

// asHelper says that this process is one of the many: the URL, the calls and how many of them at once.
const asHelper = "NIDO_TEST_ADMISSION_HELPER"

func TestMain(m *testing.M) {
	if job := os.Getenv(asHelper); job != "" {
		if err := help(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// help makes calls with one key and writes a line for each that was admitted.
func help(job string) error {
	parts := strings.Split(job, " ")
	calls, err := strconv.Atoi(parts[1])
	if err != nil {
		return err
	}
	concurrent, err := strconv.Atoi(parts[2])
	if err != nil {
		return err
	}
	limit, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := postgres.Open(ctx, postgres.Config{URL: parts[0], MaxConns: 4})
	if err != nil {
		return err
	}
	defer pool.Close()
	node, request := New(pool), perKey("acc_many", "k", limit)
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil { // all begin at once
		return err
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	next := make(chan struct{}, calls)
	for range calls {
		next <- struct{}{}
	}
	close(next)
	for range concurrent {
		group.Go(func() {
			for range next {
				verdict, failed := node.Admit(ctx, request)
				mu.Lock()
				if failed != nil {
					err = failed
				}
				if verdict.Admitted {
					fmt.Println("admitted")
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	fmt.Println("round trips", node.calls.Load())
	return err
}

// helper is such a process, ready to begin.
type helper struct {
	cmd   *exec.Cmd
	begin func()
	lines *bufio.Scanner
}

func startHelper(t *testing.T, url string, calls, concurrent int, limit int64) helper {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(own)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d %d", asHelper, url, calls, concurrent, limit))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it is nearly always gone by then
	h := helper{cmd: cmd, lines: bufio.NewScanner(out), begin: func() {
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Error(err)
		}
	}}
	if !h.lines.Scan() || h.lines.Text() != "ready" {
		t.Fatal("the process did not get ready")
	}
	return h
}

func TestEightProcessesOf500CallsOnAKeyOf60AMinuteGet60(t *testing.T) {
	url := database(t)
	var helpers []helper
	for range 8 {
		helpers = append(helpers, startHelper(t, url, 500, 500, 60))
	}
	began := time.Now()
	for _, h := range helpers {
		h.begin()
	}
	admitted, trips := 0, 0
	for _, h := range helpers {
		for h.lines.Scan() {
			if h.lines.Text() == "admitted" {
				admitted++
			} else if count, ok := strings.CutPrefix(h.lines.Text(), "round trips "); ok {
				n, err := strconv.Atoi(count)
				if err != nil {
					t.Fatal(err)
				}
				trips += n
			}
		}
		if err := h.cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 4,000 in %v, %d round trips", admitted, time.Since(began), trips)
	if admitted != 60 {
		t.Errorf("%d were admitted", admitted)
	}
}

func TestAKilledNodeTakesAlongAtMostTheCallThatWasUnderWay(t *testing.T) {
	url := database(t)
	const limit, concurrent = 1_000_000, 16
	h := startHelper(t, url, 200_000, concurrent, limit)
	h.begin()
	answered := 0
	for h.lines.Scan() && h.lines.Text() == "admitted" {
		if answered++; answered == 500 {
			if err := h.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := h.cmd.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
	pool := open(t, url)
	alone := func() bool { // its last call may still be running
		var busy int
		const others = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%admit(%'`
		if err := pool.QueryRow(t.Context(), others).Scan(&busy); err != nil {
			t.Fatal(err)
		}
		return busy == 0
	}
	await(t, "the dead node's sessions to end", alone)
	standings, err := New(pool).Standing(t.Context(), perKey("acc_many", "k", limit))
	if err != nil {
		t.Fatal(err)
	}
	counted := limit - int(standings[0].Remaining)
	t.Logf("%d counted, %d answered", counted, answered)
	if counted < answered || counted > answered+concurrent {
		t.Errorf("%d counted, %d answered", counted, answered)
	}
}

// await polls for a condition.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-ticker.C:
		}
	}
}
