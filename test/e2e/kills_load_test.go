package e2e

// This file is the applications of the fault tests: each worker uses what is its own and what all share, repeats what was
// not answered under the same Idempotency-Key, and remembers what was acknowledged.

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// opPatience is how long a worker waits for an answer before it comes back for it later.
	opPatience = 15 * time.Second
	// finishPatience is how long repetitions may take to be answered once nothing is killed any more: a dead node's
	// requests are taken over after 30 s.
	finishPatience = 2 * time.Minute
	sharedAgents   = 4
	ownTalks       = 4 // conversations of a worker
	mostLater      = 6 // orders of a worker that wait for an answer, before it begins nothing new
)

// order is something that a worker wants done, once.
type order struct {
	kind, method, path string
	body               any
	key                string // Idempotency-Key, or "": sent once, whatever comes of it
	text               string // that marks it: in the log, or as a message
	due                time.Time
	tries              int
	settled            func(got answer) // acknowledged, or refused for good
}

// load is what all workers know.
type load struct {
	t       *testing.T
	clients [2]*client
	shared  []agentView
	seed    uint64
	stop    chan struct{}
	wait    sync.WaitGroup

	mu      sync.Mutex
	acked   map[string]int      // commands, by kind
	refused map[string]int      // answers that ask to come back, and broken connections
	marks   map[string]string   // acknowledged marks and what they are about: an id
	tried   map[string]bool     // every mark that was ever sent
	replies map[string]chatView // acknowledged chats by their text
	keyed   map[string]string   // texts of chats that were sent under an Idempotency-Key
	talks   map[string]string   // conversation → agent
	changed map[string][]string // agent → what was acknowledged of pausing and resuming, in order
	revoked []string            // key ids
	leaked  []string            // keys that opened after they were revoked
}

func startLoad(t *testing.T, clients [2]*client, workers int, seed uint64) *load {
	t.Helper()
	l := &load{
		t: t, clients: clients, seed: seed, stop: make(chan struct{}), acked: map[string]int{}, refused: map[string]int{}, marks: map[string]string{},
		tried: map[string]bool{}, replies: map[string]chatView{}, keyed: map[string]string{}, talks: map[string]string{}, changed: map[string][]string{},
	}
	for i := range sharedAgents {
		l.shared = append(l.shared, clients[0].createAgent(fmt.Sprintf("Shared %d", i)))
	}
	for i := range workers {
		w := &loadWorker{load: l, number: i, random: rand.New(rand.NewPCG(seed, uint64(i)+1)), own: clients[i%2].createAgent(fmt.Sprintf("Own %d", i))}
		l.wait.Go(w.run)
	}
	return l
}

func (l *load) acknowledged() (sum int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, count := range l.acked {
		sum += count
	}
	return sum
}

// finish lets every worker bring to its end what it has begun.
func (l *load) finish() {
	close(l.stop)
	l.wait.Wait()
}

func (l *load) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// loadWorker works alone.
type loadWorker struct {
	*load
	number  int
	random  *rand.Rand
	own     agentView
	paused  bool
	halting bool // an order to pause or resume is under way
	busy    [ownTalks]bool
	opened  [ownTalks]bool // there has been an acknowledged message
	count   int
	later   []*order
}

func (w *loadWorker) run() {
	for !w.stopped() && !w.t.Failed() {
		if o := w.next(); o != nil {
			w.do(o)
			continue
		}
		<-time.After(20 * time.Millisecond)
	}
	for deadline := time.Now().Add(finishPatience); len(w.later) > 0 && !w.t.Failed(); {
		if time.Now().After(deadline) {
			for _, o := range w.later {
				w.t.Errorf("worker %d: %s %s %q was never answered in %d tries", w.number, o.kind, o.path, o.key, o.tries)
			}
			return
		}
		if o := w.pending(); o != nil {
			w.do(o)
			continue
		}
		<-time.After(100 * time.Millisecond)
	}
}

func (w *loadWorker) stopped() bool {
	select {
	case <-w.load.stop:
		return true
	default:
		return false
	}
}

// pending takes out what is due of what was not answered.
func (w *loadWorker) pending() *order {
	for i, o := range w.later {
		if time.Now().After(o.due) {
			w.later = append(w.later[:i], w.later[i+1:]...)
			return o
		}
	}
	return nil
}

// next is what is due again, or something new; nothing where too much is waiting.
func (w *loadWorker) next() *order {
	if o := w.pending(); o != nil || len(w.later) >= mostLater {
		return o
	}
	w.count++
	mark := fmt.Sprintf("mark-%d-%d-", w.number, w.count)
	switch dice := w.random.IntN(100); {
	case dice < 8:
		return w.create(mark)
	case dice < 30:
		return w.change(mark)
	case dice < 40:
		return w.issue(mark)
	case dice < 50 && !w.halting:
		return w.halt(mark)
	case dice < 56:
		if o := w.resolve(mark); o != nil {
			return o
		}
	}
	if o := w.chat(mark); o != nil {
		return o
	}
	return w.change(mark) // every conversation waits for an answer
}

func (w *loadWorker) create(mark string) *order {
	return &order{kind: "create", method: "POST", path: "/api/agents", key: mark, text: mark,
		body: map[string]any{"name": mark, "model": "echo"}, settled: func(got answer) {
			var made agentView
			if w.acked201("create", got, &made) {
				w.note(func() { w.marks[mark] = made.ID })
				w.look(made.ID)
			}
		}}
}

// look reads on the other node what this one has just acknowledged.
func (w *loadWorker) look(agentID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), opPatience)
	defer cancel()
	got, err := w.clients[w.random.IntN(2)].do(ctx, "GET", "/api/agents/"+agentID, nil)
	if err == nil && got.status != http.StatusOK && got.status != http.StatusServiceUnavailable && got.status != http.StatusGatewayTimeout {
		w.t.Errorf("agent %s was acknowledged; a look at it: %d %s", agentID, got.status, got.body)
	}
}

func (w *loadWorker) change(mark string) *order {
	agent := w.shared[w.random.IntN(sharedAgents)].ID
	return &order{kind: "change", method: "PATCH", path: "/api/agents/" + agent, key: mark, text: mark,
		body: map[string]any{"instructions": mark}, settled: func(got answer) {
			if w.acked200("change", got) {
				w.note(func() { w.marks[mark] = agent })
			}
		}}
}

// issue makes a key, and behind it comes its revocation.
func (w *loadWorker) issue(mark string) *order {
	return &order{kind: "issue", method: "POST", path: "/api/keys", key: mark, text: mark,
		body: map[string]any{"name": mark, "scopes": []string{"chat"}}, settled: func(got answer) {
			var key keyView
			if !w.acked201("issue", got, &key) {
				return
			}
			w.note(func() { w.marks[mark] = key.ID })
			w.later = append(w.later, &order{kind: "revoke", method: "POST", path: "/api/keys/" + key.ID + "/revoke", key: mark + "revoke",
				settled: func(got answer) {
					if w.acked200("revoke", got) {
						w.note(func() { w.revoked = append(w.revoked, key.ID) })
						w.tryRevoked(key)
					}
				}})
		}}
}

// tryRevoked wants the key refused from its revocation's answer on, wherever it is tried.
func (w *loadWorker) tryRevoked(key keyView) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), opPatience)
	defer cancel()
	for _, node := range w.clients {
		got, err := node.with(key.Key).do(ctx, "GET", "/api/me", nil)
		if err == nil && got.code() != "revoked_api_key" && got.status < 500 {
			w.note(func() { w.leaked = append(w.leaked, fmt.Sprintf("%s: %d %s", key.ID, got.status, got.body)) })
		}
	}
}

// halt pauses or resumes the worker's own agent.
func (w *loadWorker) halt(mark string) *order {
	w.halting = true
	what := map[bool]string{false: "pause", true: "resume"}[w.paused]
	return &order{kind: what, method: "POST", path: "/api/agents/" + w.own.ID + "/" + what, key: mark, settled: func(got answer) {
		w.halting = false
		if w.acked200(what, got) {
			w.paused = !w.paused
			w.note(func() { w.changed[w.own.ID] = append(w.changed[w.own.ID], "agent."+what+"d") })
			w.seePaused()
		}
	}}
}

// seePaused sends the agent a message that it must not answer while it is paused.
func (w *loadWorker) seePaused() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), opPatience)
	defer cancel()
	if !w.paused {
		return
	}
	got, err := w.clients[w.random.IntN(2)].do(ctx, "POST", chatPath(w.own.ID), chatBody("", "are you there?"))
	if err == nil && got.status < 500 && got.code() != "agent_paused" {
		w.t.Errorf("a paused agent answers %d %s", got.status, got.body)
	}
}

// talk names the worker's conversation; which of the shared agents it is with is always the same.
func (w *loadWorker) talk(i int) (conversation, agent string) {
	conversation, agent = fmt.Sprintf("talk-%d-%d", w.number, i), w.shared[i%sharedAgents].ID
	w.note(func() { w.talks[conversation] = agent })
	return conversation, agent
}

// free is a conversation in which nothing is under way, or -1.
func (w *loadWorker) free() int {
	for _, i := range w.random.Perm(ownTalks) {
		if !w.busy[i] {
			return i
		}
	}
	return -1
}

func (w *loadWorker) resolve(mark string) *order {
	i := w.free()
	if i < 0 || !w.opened[i] {
		return nil
	}
	w.busy[i] = true
	conversation, agent := w.talk(i)
	what := []string{"resolve", "reopen"}[w.random.IntN(2)]
	return &order{kind: what, method: "POST", path: fmt.Sprintf("/api/conversations/%s/%s?agentId=%s", conversation, what, agent), key: mark,
		settled: func(got answer) {
			w.busy[i] = false
			w.acked200(what, got)
		}}
}

// chat sends a message: as JSON or as a stream, under an Idempotency-Key or not.
func (w *loadWorker) chat(mark string) *order {
	i := w.free()
	if i < 0 {
		return nil
	}
	w.busy[i] = true
	conversation, agent := w.talk(i)
	o := &order{kind: "chat", method: "POST", path: chatPath(agent), text: mark, body: chatBody(conversation, mark+" and what follows")}
	if w.random.IntN(3) == 0 {
		o.kind, o.body = "stream", map[string]any{"query": mark + " and what follows", "conversationId": conversation, "streaming": true}
	}
	if w.random.IntN(2) == 0 {
		o.key = mark
		w.note(func() { w.keyed[mark+" and what follows"] = mark })
	}
	o.settled = func(got answer) {
		w.busy[i] = false
		reply, ended := replyOf(got)
		if !ended {
			return // it came to nothing, or nobody knows
		}
		w.opened[i] = true
		w.note(func() {
			w.acked[o.kind]++
			w.replies[mark+" and what follows"] = reply
		})
	}
	return o
}

// replyOf reads the reply out of a JSON answer or a stream that has come to its good end.
func replyOf(got answer) (reply chatView, ended bool) {
	if got.status != http.StatusOK {
		return reply, false
	}
	body := string(got.body)
	if strings.HasPrefix(got.header.Get("Content-Type"), "text/event-stream") {
		_, rest, found := strings.Cut(body, "event: turn.completed\n")
		if !found {
			return reply, false
		}
		_, data, _ := strings.Cut(rest, "data: ")
		body, _, _ = strings.Cut(data, "\n")
	}
	return reply, json.Unmarshal([]byte(body), &reply) == nil
}

// do sends an order once. What has no certain answer is sent again later, if it may be.
func (w *loadWorker) do(o *order) {
	if o.text != "" {
		w.note(func() { w.tried[o.text] = true })
	}
	o.tries++
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), opPatience)
	defer cancel()
	var headers []string
	if o.key != "" {
		headers = []string{"Idempotency-Key", o.key}
	}
	got, err := w.clients[w.random.IntN(2)].do(ctx, o.method, o.path, o.body, headers...)
	again := ""
	switch {
	case err != nil:
		again = "no answer"
	case got.status == http.StatusServiceUnavailable, got.status == http.StatusGatewayTimeout:
		again = got.code()
	case got.status == http.StatusConflict && (got.code() == "idempotency_in_flight" || got.code() == "conflict" || got.code() == "conversation_busy"):
		again = got.code()
	case o.kind == "stream" && got.status == http.StatusOK && !strings.HasSuffix(string(got.body), "data: [DONE]\n\n"):
		again = "torn stream"
	}
	if again != "" {
		w.note(func() { w.refused[o.kind+" "+again]++ })
	}
	// A turn that another, unanswered message has left open is waited for in any case: its own order knows no more of it.
	if again != "" && (o.key != "" || again == "conversation_busy") {
		o.due = time.Now().Add(time.Duration(200+w.random.IntN(800)) * time.Millisecond)
		w.later = append(w.later, o)
		return
	}
	if again == "" && got.status >= 400 && !(got.status == http.StatusBadGateway && got.code() == "interrupted") {
		w.t.Errorf("%s %s: %d %s", o.method, o.path, got.status, got.body)
	}
	o.settled(got)
}

func (w *loadWorker) acked200(kind string, got answer) bool {
	if got.status != http.StatusOK {
		return false
	}
	w.note(func() { w.acked[kind]++ })
	return true
}

func (w *loadWorker) acked201(kind string, got answer, into any) bool {
	if got.status != http.StatusCreated || json.Unmarshal(got.body, into) != nil {
		return false
	}
	w.note(func() { w.acked[kind]++ })
	return true
}
