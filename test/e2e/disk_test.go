package e2e

// This file gives each engine a disk of its own, in memory and in a mount namespace, and fills it.

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// disks are file systems below a folder that only those see who enter by way.
type disks struct {
	t    *testing.T
	root string // through which the test reaches them
	way  []string
}

// mountDisks puts folders onto disks of their own, with what is in them. It needs root, or user namespaces.
func mountDisks(t *testing.T, dir string, megabytes map[string]int) disks {
	t.Helper()
	script := "set -e; mount --make-rprivate /"
	for name, size := range megabytes {
		folder := filepath.Join(dir, name)
		if err := errors.Join(os.Rename(folder, folder+".was"), os.Mkdir(folder, 0o700)); err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf("; mount -t tmpfs -o size=%[1]dm,mode=700 nido '%[2]s'; cp -a '%[2]s.was/.' '%[2]s'", size, folder)
	}
	holder := exec.Command("sh", "-c", script+"; echo mounted; exec cat") // lives for as long as its input is open
	holder.Stderr = os.Stderr
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var way []string
	if os.Geteuid() != 0 {
		holder.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		holder.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		holder.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		way = []string{"--user", "--preserve-credentials"}
	}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("a full disk is tested on one of the test's own, which takes root or user namespaces: %v", err)
	}
	t.Cleanup(func() {
		input.Close()
		holder.Wait()
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("a full disk is tested on one of the test's own, which takes root or user namespaces: %q, %v", line, err)
	}
	pid := strconv.Itoa(holder.Process.Pid)
	return disks{t: t, root: "/proc/" + pid + "/root", way: append([]string{"nsenter", "--target", pid, "--mount"}, append(way, "--")...)}
}

func (d disks) ballast(folder string) string { return filepath.Join(d.root, folder, "ballast") }

// fill leaves no byte.
func (d disks) fill(folder string) {
	d.t.Helper()
	file, err := os.Create(d.ballast(folder))
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	written := 0
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for part := make([]byte, size); ; {
			n, err := file.Write(part)
			written += n
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			if err != nil {
				d.t.Fatal(err)
			}
		}
	}
	d.t.Logf("filled the last %d KiB of %s", written>>10, filepath.Base(folder))
}

func (d disks) free(folder string) {
	d.t.Helper()
	if err := os.Remove(d.ballast(folder)); err != nil {
		d.t.Fatal(err)
	}
}

// pressing changes agents from several goroutines and notes what was acknowledged.
type pressing struct {
	in     *killable
	agents []agentView
	mu     sync.Mutex
	acked  map[string]bool
	codes  map[string]int
	number int
}

// press goes on until it is enough, or for too long. Every answer must be yes, or come again.
func (p *pressing) press(t *testing.T, limit time.Duration, enough func() bool) {
	t.Helper()
	p.mu.Lock()
	p.codes = map[string]int{}
	p.mu.Unlock()
	deadline := time.Now().Add(limit)
	inParallel(8, 8, func(i int) {
		for !enough() && time.Now().Before(deadline) && !t.Failed() {
			p.mu.Lock()
			p.number++
			mark := fmt.Sprintf("mark-%d-%d-", i, p.number)
			p.mu.Unlock()
			body := map[string]any{"instructions": mark + strings.Repeat("words ", 200)}
			got, err := p.in.clients[i%2].do(t.Context(), "PATCH", "/api/agents/"+p.agents[i].ID, body)
			if err != nil || got.status != http.StatusOK && (got.status != http.StatusServiceUnavailable || !retryable(got)) {
				t.Errorf("with a full disk: %d %s, %v", got.status, got.body, err)
			}
			p.mu.Lock()
			p.codes[fmt.Sprintf("%d %s", got.status, got.code())]++
			p.acked[mark] = got.status == http.StatusOK
			p.mu.Unlock()
		}
	})
	t.Logf("answers: %v", p.codes)
}

func retryable(got answer) bool { return strings.Contains(string(got.body), `"retryable":true`) }

func (p *pressing) refusals() (sum int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for code, count := range p.codes {
		if strings.HasPrefix(code, "503") {
			sum += count
		}
	}
	return sum
}

func (p *pressing) agreed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.codes["200 "]
}

// check holds the acknowledgements against the log.
func (p *pressing) check(t *testing.T) {
	t.Helper()
	log := judge(t, p.in.env)
	for mark, acknowledged := range p.acked {
		if times := log.marks[mark]; times > 1 || acknowledged && times != 1 {
			t.Errorf("%s: acknowledged %v, %d times in the log", mark, acknowledged, times)
		}
	}
	checkTables(t, p.in.env, log)
}

func TestADiskThatIsFull(t *testing.T) {
	t.Parallel()
	in := &killable{t: t, dir: t.TempDir(), killed: map[string]int{}}
	engines, _ := startEngines(t, in.dir)
	if code := engines.stop(syscall.SIGTERM, time.Minute); code != 0 {
		t.Fatalf("the engines ended with %d", code)
	}
	own := mountDisks(t, in.dir, map[string]int{"kafka": 48, "postgres": 192, "clickhouse": 128})
	in.way = own.way
	in.start()
	root := in.clients[0]
	p := &pressing{in: in, acked: map[string]bool{}}
	for i := range 8 {
		p.agents = append(p.agents, root.createAgent(fmt.Sprintf("Pressing %d", i)))
	}
	p.press(t, time.Minute, func() bool { return p.agreed() >= 100 })
	recovered := func() {
		t.Helper()
		for _, node := range in.nodes {
			node.awaitReady(time.Minute)
		}
		p.press(t, time.Minute, func() bool { return p.agreed() >= 100 })
		if p.agreed() < 100 {
			t.Error("it does not go on where there is room again")
		}
		p.check(t)
	}

	t.Run("the log's: commands are refused, looks go on, nothing is torn", func(t *testing.T) {
		folder := filepath.Join(in.dir, "kafka")
		own.fill(folder)
		for i := range 5 {
			withinASecond(t, "the refusal of a command", func() time.Duration {
				began := time.Now()
				got, err := in.clients[i%2].do(t.Context(), "POST", "/api/keys", map[string]any{"name": "k", "scopes": []string{"chat"}})
				if err != nil || got.status != http.StatusServiceUnavailable || !retryable(got) {
					t.Errorf("a command: %d %s, %v", got.status, got.body, err)
				}
				return time.Since(began)
			})
			in.clients[i%2].must(http.StatusOK, "GET", "/api/agents/"+p.agents[0].ID, nil)
		}
		p.press(t, 3*time.Second, func() bool { return false })
		if p.agreed() > 0 || !strings.Contains(in.engines.output(), "its disk is full") {
			t.Error("records were taken, or nobody was told")
		}
		own.free(folder)
		recovered()
		in.stopEngines()
		in.startEngines() // reads what is on the disk
		p.check(t)
	})

	t.Run("ClickHouse's: nobody notices but logs and statistics", func(t *testing.T) {
		folder := filepath.Join(in.dir, "clickhouse")
		own.fill(folder)
		for i := range 40 {
			in.clients[i%2].chat(p.agents[i%8].ID, fmt.Sprintf("full-%d", i), strings.Repeat("words ", 100))
		}
		await(t, 20*time.Second, "the projector to wait", func() bool {
			return strings.Contains(string(readyzOf(t, in.nodes[2]).body)+string(readyzOf(t, in.nodes[3]).body), `"clickhouse projector":"waits for its store"`)
		})
		in.nodes[0].awaitReady(20 * time.Second)
		own.free(folder)
		await(t, time.Minute, "the statistics to be complete", func() bool { return installation{root: root}.statistics() == 80 })
	})

	t.Run("Postgres': what cannot be folded is not acknowledged", func(t *testing.T) {
		folder := filepath.Join(in.dir, "postgres")
		own.fill(folder)
		p.press(t, time.Minute, func() bool { return p.refusals() >= 8 })
		if p.refusals() < 8 {
			t.Error("the disk is not full")
		}
		own.free(folder)
		await(t, time.Minute, "a command to be taken, or the engines' end", func() bool {
			got, err := in.clients[0].do(t.Context(), "PATCH", "/api/agents/"+p.agents[0].ID, map[string]any{"instructions": "x"})
			return in.engines.isGone() || err == nil && got.status == http.StatusOK
		})
		if in.engines.isGone() { // Postgres may end where it cannot write ahead
			t.Logf("the engines ended: %s", strings.TrimSpace(lastLines(in.engines.output(), 3)))
			in.startEngines()
		}
		recovered()
	})
	mustOperate(t, in.env, "verify")
}

// output is all that a process has said.
func (p *process) output() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
