//go:build linux

package main

// This file is what is measured: the references, and Nido as it runs in production, one role to a process, on the
// engines of the environment.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// bench holds the processes that rows share; each is started by the first row that needs it.
type bench struct {
	settings
	results results
	dir     string
	refs    map[string]*process
	cluster *cluster
	count   int // of jobs, for names
}

func (b *bench) close() {
	b.stopCluster()
	for _, p := range b.refs {
		p.stop()
	}
	if b.dir != "" && b.dir != b.keep {
		_ = os.RemoveAll(b.dir) // a directory for temporary files
	}
}

// say tells how far we are.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// reference starts one of our own roles, once. what tells apart those of one role.
func (b *bench) reference(ctx context.Context, what, role string, args ...string) (*process, error) {
	if p := b.refs[what]; p != nil {
		return p, nil
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{roleFlag, role, "-listen", addr}, args...)...)
	cmd.Stderr = os.Stderr
	p, err := launch(ctx, what, "/livez", cmd, addr)
	if err != nil {
		return nil, err
	}
	if b.refs == nil {
		b.refs = map[string]*process{}
	}
	b.refs[what] = p
	return p, nil
}

// upstreams are the mock provider at once and after 60 ms, one that speaks 20 tokens 10 ms apart, one that says one a
// second for hours, and a proxy before each.
type upstreams struct{ direct, proxy, slowDirect, slowProxy, spoken, spokenProxy, held, heldProxy *process }

func (b *bench) upstreams(ctx context.Context) (u upstreams, err error) {
	if u.direct, err = b.reference(ctx, "direct", "direct"); err != nil {
		return u, err
	}
	if u.slowDirect, err = b.reference(ctx, "direct 60 ms", "direct", "-delay", "60ms"); err != nil {
		return u, err
	}
	if u.proxy, err = b.reference(ctx, "proxy", "proxy", "-upstream", u.direct.addr); err != nil {
		return u, err
	}
	if u.slowProxy, err = b.reference(ctx, "proxy 60 ms", "proxy", "-upstream", u.slowDirect.addr); err != nil {
		return u, err
	}
	if u.spoken, err = b.reference(ctx, "direct spoken", "direct", "-between", "10ms"); err != nil {
		return u, err
	}
	if u.spokenProxy, err = b.reference(ctx, "proxy spoken", "proxy", "-upstream", u.spoken.addr); err != nil {
		return u, err
	}
	if u.held, err = b.reference(ctx, "direct held", "direct", "-between", "1s", "-tokens", "3600"); err != nil {
		return u, err
	}
	u.heldProxy, err = b.reference(ctx, "proxy held", "proxy", "-upstream", u.held.addr)
	return u, err
}

// cluster is an API node and, in another process, the projectors.
type cluster struct {
	nido           string // the build that it runs
	api, projector *process
	key            string // the administrator's
	fast, slow     string // agents behind the two mock providers
}

// builds are those that are measured in turn.
func (b *bench) builds() []string {
	if b.against == "" {
		return []string{b.nido}
	}
	return []string{b.nido, b.against}
}

// called tells the figures of one build from those of the other.
func (b *bench) called(build string) string {
	if build == b.against {
		return "before"
	}
	return "nido"
}

// compared is the cluster, and what its rows are compared with.
func (b *bench) compared(ctx context.Context) (c *cluster, up upstreams, err error) {
	if c, err = b.nodes(ctx); err == nil {
		up, err = b.upstreams(ctx)
	}
	return c, up, err
}

// reachPostgres looks past the nodes.
func reachPostgres(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, os.Getenv("NIDO_POSTGRES_URL"))
	if err != nil {
		return nil, fmt.Errorf("reach Postgres: %w", err)
	}
	return conn, nil
}

// nodes starts the cluster of the build under test, once.
func (b *bench) nodes(ctx context.Context) (*cluster, error) { return b.nodesOf(ctx, b.nido) }

func (b *bench) nodesOf(ctx context.Context, build string) (*cluster, error) {
	if b.cluster != nil && b.cluster.nido == build {
		return b.cluster, nil
	}
	b.stopCluster()
	up, err := b.upstreams(ctx)
	if err != nil {
		return nil, err
	}
	if b.dir = cmp.Or(b.dir, b.keep); b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "nido-bench-"); err != nil {
			return nil, err
		}
	}
	c := &cluster{nido: build}
	b.cluster = c // so that close ends whatever has been started
	if c.key, err = b.rootKey(ctx); err != nil {
		return nil, err
	}
	if c.projector, err = b.node(ctx, build, "projector", "--roles", "projector,sweeper"); err != nil {
		return nil, err
	}
	providers, err := b.providers(up)
	if err != nil {
		return nil, err
	}
	args := []string{"--roles", "api", "--providers", providers}
	if build == b.nido {
		args = b.profiled(args...)
	}
	if c.api, err = b.node(ctx, build, "api", args...); err != nil {
		return nil, err
	}
	if err := c.api.await(ctx, "/readyz", time.Minute); err != nil {
		return nil, fmt.Errorf("the API node is not ready: %w", err)
	}
	if c.fast, err = c.createAgent(ctx, "fast"); err != nil {
		return nil, err
	}
	c.slow, err = c.createAgent(ctx, "slow")
	return c, err
}

// profiled adds what makes a node write a CPU profile, where one is wanted.
func (b *bench) profiled(args ...string) []string {
	if b.profile != "" {
		args = append(args, "--profile", b.profile)
	}
	return args
}

func (b *bench) stopCluster() {
	if b.cluster != nil {
		b.cluster.api.stop()
		b.cluster.projector.stop()
		b.cluster = nil
	}
}

// providers writes the file that sends one model to each mock.
func (b *bench) providers(up upstreams) (string, error) {
	type provider struct {
		Kind    string   `json:"kind"`
		BaseURL string   `json:"baseUrl,omitempty"`
		Models  []string `json:"models"`
	}
	content, err := json.Marshal(map[string]any{"providers": []provider{
		{"openai", "http://" + up.direct.addr + "/v1", []string{"fast"}},
		{"openai", "http://" + up.slowDirect.addr + "/v1", []string{"slow"}},
		{"openai", "http://" + up.spoken.addr + "/v1", []string{"spoken"}},
		{"openai", "http://" + up.held.addr + "/v1", []string{"held"}},
		{"echo", "", []string{"echo"}},
	}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.dir, "providers.json")
	return file, os.WriteFile(file, content, 0o600)
}

// node starts a node of some roles.
func (b *bench) node(ctx context.Context, build, name string, args ...string) (*process, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(build, append([]string{"serve", "--listen", addr}, args...)...)
	cmd.Stderr = b.logs()
	return launch(ctx, name, "/livez", cmd, addr)
}

func (b *bench) logs() io.Writer {
	if b.keepLogs {
		return os.Stderr
	}
	return nil
}

// rootKey opens the installation, once in the engines' life.
func (b *bench) rootKey(ctx context.Context) (string, error) {
	file := filepath.Join(b.dir, "root.key")
	if key, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(key)), nil
	}
	cmd := exec.CommandContext(ctx, b.nido, "bootstrap", "--key-file", file)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("bootstrap: %w\n%s", err, output)
	}
	key, err := os.ReadFile(file)
	return strings.TrimSpace(string(key)), err
}

func (c *cluster) createAgent(ctx context.Context, model string) (string, error) {
	var agent struct{ ID string }
	err := call(ctx, c.api.addr, c.key, http.MethodPost, "/api/agents", map[string]any{
		"name": "Bench " + model, "instructions": instructions, "model": model,
	}, &agent)
	return agent.ID, err
}

var client = &http.Client{Timeout: 30 * time.Second}

// call sends one request outside of every measurement.
func call(ctx context.Context, addr, key, method, path string, body, answer any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode > 299 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, response.StatusCode, text)
	}
	return json.Unmarshal(text, answer)
}

// What is said in every chat: an agent's instructions and a message, 500 bytes each.
var (
	instructions = strings.Repeat("Sos un asistente de ventas amable. ", 15)[:500]
	message      = strings.Repeat("Contame los horarios de la tienda. ", 15)[:500]
)

// upstreamBody is what the gateway would send for such a message; a client of the bare provider sends it itself.
func upstreamBody() string {
	return `{"model":"fast","messages":[{"role":"system","content":"` + instructions + `"},{"role":"user","content":"` + message + `"}]}`
}

// bare is a completion asked of the mock or of the proxy.
func (b *bench) bare(p *process) job {
	return job{Addr: p.addr, Method: http.MethodPost, Path: "/v1/chat/completions", Body: upstreamBody()}
}

// chat is a message to an agent in a conversation of its own.
func (b *bench) chat(c *cluster, agent string) job {
	return job{
		Addr: c.api.addr, Method: http.MethodPost, Path: "/api/v2/agent/" + agent + "/chat", Key: c.key,
		Body: `{"query":"` + message + `","streaming":false}`,
	}
}

// talk is a message in a conversation that goes on for five turns.
func (b *bench) talk(c *cluster, agent string) job {
	job := b.chat(c, agent)
	job.Body, job.Every = `{"query":"`+message+`","streaming":false,"conversationId":"{n}"}`, 5
	return job
}

// measure runs a job for a while.
func (b *bench) measure(ctx context.Context, job job, connections int) (measurement, error) {
	b.count++
	job.Name = fmt.Sprintf("b%x-%d", b.results.Began.Unix(), b.count)
	job.Connections, job.Span = connections, cmp.Or(job.Span, b.span)
	return generate(ctx, job)
}

// costed is measure with the CPU time that a process spent on it, in seconds per 10,000 requests.
func (b *bench) costed(ctx context.Context, p *process, job job, connections int) (m measurement, cost float64, err error) {
	before, err := p.quietCPU(ctx)
	if err != nil {
		return m, 0, err
	}
	if m, err = b.measure(ctx, job, connections); err != nil {
		return m, 0, fmt.Errorf("%s: %w", p.name, err)
	}
	after, err := p.quietCPU(ctx)
	return m, (after - before).Seconds() / float64(m.Done+m.Failed) * 10_000, err
}
