// Package e2e drives the built binary as a process, through real HTTP, with a mock model behind it.
package e2e

// This file starts, watches and kills the processes.

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/kafkatest"
)

// binary is the built nido: NIDO_BINARY, or bin/nido at the top of the module.
func binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("NIDO_BINARY"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../bin/nido")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("bin/nido is not built: run `make build` first, or `make test`")
	}
	return path
}

// process is a running nido.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string // file that its output goes to
	base string // http://127.0.0.1:port, empty for engines
	gone chan struct{}
	err  error // of Wait, once gone
}

// launch starts a nido without waiting for anything. It is killed when the test ends.
func launch(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return launchBy(t, nil, env, args...)
}

// launchBy starts a nido by way of a program that becomes it.
func launchBy(t testing.TB, way []string, env []string, args ...string) *process {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "nido-*.log")
	if err != nil {
		t.Fatal(err)
	}
	command := slices.Concat(way, []string{binary(t)}, args)
	p := &process{t: t, cmd: exec.Command(command[0], command[1:]...), log: file.Name(), gone: make(chan struct{})}
	p.cmd.Env = append(withoutNido(os.Environ()), env...)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		alive := !p.isGone() // one that has ended by itself, or was refused, leaves nothing behind
		p.signal(syscall.SIGKILL)
		<-p.gone
		if alive {
			p.awaitChildren(args)
		}
		if t.Failed() {
			t.Logf("output of nido %s:\n%s", strings.Join(args, " "), p.tail())
		}
	})
	return p
}

// awaitChildren waits until the engines of a killed process have let go of its data directory, which the test is about to
// remove: they hold its lock until the last of them is dead.
func (p *process) awaitChildren(args []string) {
	at := slices.Index(args, "--data")
	if at < 0 {
		return
	}
	lock, err := os.Open(filepath.Join(args[at+1], "lock"))
	if err != nil {
		return // it never got so far as to start engines
	}
	defer lock.Close()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return
		}
	}
	p.t.Errorf("the engines in %s outlive their process", args[at+1])
}

// withoutNido drops our own variables: a node of the tests is configured by the test alone.
func withoutNido(env []string) []string {
	var kept []string
	for _, line := range env {
		if !strings.HasPrefix(line, "NIDO_") || strings.HasPrefix(line, "NIDO_ENGINES=") {
			kept = append(kept, line)
		}
	}
	return kept
}

// startDev starts `nido dev` on a data directory and waits until it serves.
func startDev(t testing.TB, dir string, env ...string) *process {
	t.Helper()
	listen := freeAddress(t)
	p := launch(t, env, "dev", "--data", dir, "--listen", listen)
	p.base = "http://" + listen
	p.awaitReady(time.Minute)
	return p
}

// startNode starts `nido serve` with some roles on running engines and waits until it serves.
func startNode(t testing.TB, engines []string, roles string, env ...string) *process {
	t.Helper()
	listen := freeAddress(t)
	p := launch(t, append(append([]string{"NIDO_LISTEN=" + listen}, engines...), env...), "serve", "--roles", roles)
	p.base = "http://" + listen
	p.awaitReady(30 * time.Second)
	return p
}

// startEngines starts `nido engines` and returns the variables that it prints.
func startEngines(t testing.TB, dir string) (*process, []string) {
	t.Helper()
	return startEnginesBy(t, nil, dir)
}

func startEnginesBy(t testing.TB, way []string, dir string) (*process, []string) {
	t.Helper()
	p := launchBy(t, way, nil, "engines", "--data", dir)
	var env []string
	await(t, time.Minute, "the engines' variables", func() bool {
		env = env[:0]
		file, err := os.Open(p.log)
		if err != nil {
			return false
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if assignment, ok := strings.CutPrefix(lines.Text(), "export "); ok {
				env = append(env, unquote(assignment))
			}
		}
		return len(env) >= 4 || p.isGone()
	})
	if p.isGone() {
		t.Fatalf("the engines ended: %v", p.err)
	}
	return p, env
}

// unquote undoes the shell quoting of an export line.
func unquote(assignment string) string {
	name, value, _ := strings.Cut(assignment, "=")
	return name + "=" + strings.Trim(strings.ReplaceAll(value, `'\''`, "'"), "'")
}

// freeAddress is one that nobody is given while the test has taken its listener away.
func freeAddress(t testing.TB) string {
	t.Helper()
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
}

func (p *process) awaitReady(limit time.Duration) {
	p.t.Helper()
	client := &http.Client{Timeout: 2 * time.Second}
	await(p.t, limit, "/readyz", func() bool {
		if p.isGone() {
			p.t.Fatalf("nido ended before it served: %v\n%s", p.err, p.tail())
		}
		response, err := client.Get(p.base + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

func (p *process) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *process) signal(signal syscall.Signal) {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %v: %v", signal, err)
	}
}

// stop sends a signal and waits for the end; it returns the exit code.
func (p *process) stop(signal syscall.Signal, limit time.Duration) int {
	p.t.Helper()
	p.signal(signal)
	select {
	case <-p.gone:
	case <-time.After(limit):
		p.t.Fatalf("nido did not end within %v of %v\n%s", limit, signal, p.tail())
	}
	return p.cmd.ProcessState.ExitCode()
}

// tail is the end of the process' output.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8000):])
}

// leastPatience is what a machine gets that has others to do, however soon a thing should happen.
const leastPatience = 15 * time.Second

// await polls for a condition; it is how these tests wait, never for a fixed time. The limit is that of a machine of one's
// own, and a busy one gets twice as long: what must not take longer is measured.
func await(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	limit = max(2*limit, leastPatience)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for %s", limit, what)
		case <-ticker.C:
		}
	}
}

// withinASecond holds what is promised against three attempts: on a machine that others use, one may wait for its turn.
func withinASecond(t testing.TB, what string, once func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 3 {
		last := once()
		if last <= time.Second {
			return
		}
		took = append(took, last)
	}
	t.Errorf("%s took %v", what, took)
}

// rootKey reads the administrator key that the first start wrote.
func rootKey(t testing.TB, dir string) string {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(dir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

// bootstrap opens the installation on external engines and returns the administrator key.
func bootstrap(t testing.TB, engines []string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.key")
	cmd := exec.Command(binary(t), "bootstrap", "--key-file", file)
	cmd.Env = append(withoutNido(os.Environ()), engines...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nido bootstrap: %v\n%s", err, output)
	}
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

func variable(t testing.TB, env []string, name string) string {
	t.Helper()
	for _, line := range env {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	t.Fatalf("the engines did not say %s", name)
	return ""
}
