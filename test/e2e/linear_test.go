package e2e

// This file records what many clients ask of few streams through two nodes, and hear, while nodes, projectors and
// engines are killed, and has a checker look for an order in which all of it makes sense.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// recorder writes the history down.
type recorder struct {
	t       *testing.T
	in      *killable
	began   time.Time
	stop    chan struct{}
	agents  []agentView
	mu      sync.Mutex
	history []porcupine.Operation
	secrets map[string]string // key id → key
	keys    []string          // ids of keys that are in use
	slugs   int               // rounds of creators that want the same slug
}

// call does one thing and records it. A look that was not answered says nothing; a command that was not has an unknown
// outcome, unless nobody was there to take it.
func (r *recorder) call(id int, c *client, in asked, method, path string, body any, hear func(answer) (told, bool)) (got answer, known bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 15*time.Second)
	defer cancel()
	from := time.Since(r.began).Nanoseconds()
	got, err := c.do(ctx, method, path, body)
	operation := porcupine.Operation{ClientId: id, Input: in, Call: from, Return: time.Since(r.began).Nanoseconds()}
	out, known := hear(got)
	looks := in.what == "get" || in.what == "use"
	switch {
	case err == nil && known:
		operation.Output = out
	case errors.Is(err, syscall.ECONNREFUSED), looks:
		return got, false
	case err == nil && got.status != http.StatusServiceUnavailable && got.status != http.StatusGatewayTimeout && got.code() != "conflict":
		r.t.Errorf("%s %s: %d %s", method, path, got.status, got.body)
	case err == nil && got.code() == "conflict":
		return got, false // others were always first
	default:
		operation.Output, operation.Return = told{unknown: true}, never
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, operation)
	if known && out.stands.version > 0 && !looks {
		look := operation
		look.Input, look.Metadata = asked{stream: in.stream, what: "get"}, in.name
		r.history = append(r.history, look)
	}
	return got, known
}

func (r *recorder) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// either is one of the nodes.
func (r *recorder) either(random *rand.Rand) *client { return r.in.clients[random.IntN(2)] }

// recover waits until a look is answered again: calls of unknown outcome are what a checker cannot have many of.
func (r *recorder) recover(c *client) {
	for !r.stopped() {
		got, err := c.do(context.WithoutCancel(r.t.Context()), "GET", "/api/me", nil)
		if err == nil && got.status == http.StatusOK {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// hearAgent reads an agent as it stands.
func (r *recorder) hearAgent(got answer) (told, bool) {
	if got.status != http.StatusOK && got.status != http.StatusCreated {
		return told{}, false
	}
	var agent agentView
	got.into(r.t, &agent)
	return told{stands: standing{version: agent.Version, name: agent.Name, over: agent.Status == "paused"}}, true
}

// agentClient renames and reads agents, and, if it may, pauses and resumes them.
func (r *recorder) agentClient(id int, random *rand.Rand, pauses bool) {
	for i := 0; !r.stopped(); i++ {
		agent, c := r.agents[random.IntN(len(r.agents))].ID, r.either(random)
		path, known := "/api/agents/"+agent, true
		switch dice := random.IntN(10); {
		case dice < 5:
			r.call(id, c, asked{stream: agent, what: "get"}, "GET", path, nil, r.hearAgent)
		case pauses:
			what := []string{"pause", "resume"}[random.IntN(2)]
			_, known = r.call(id, c, asked{stream: agent, what: what}, "POST", path+"/"+what, nil, r.hearAgent)
		default:
			name := fmt.Sprintf("name %d.%d", id, i)
			_, known = r.call(id, c, asked{stream: agent, what: "rename", name: name}, "PATCH", path, map[string]any{"name": name}, r.hearAgent)
		}
		if !known {
			r.recover(c)
		}
	}
}

// keyClient uses keys that others revoke, and revokes some.
func (r *recorder) keyClient(id int, random *rand.Rand) {
	for !r.stopped() {
		c := r.either(random)
		r.mu.Lock()
		key := r.keys[random.IntN(len(r.keys))]
		secret := r.secrets[key]
		r.mu.Unlock()
		if random.IntN(40) > 0 {
			r.call(id, c.with(secret), asked{stream: key, what: "use"}, "GET", "/api/me", nil, func(got answer) (told, bool) {
				return told{yes: got.status == http.StatusOK}, got.status == http.StatusOK || got.code() == "revoked_api_key"
			})
			continue
		}
		_, known := r.call(id, c, asked{stream: key, what: "revoke"}, "POST", "/api/keys/"+key+"/revoke", nil, func(got answer) (told, bool) {
			return told{}, got.status == http.StatusOK
		})
		if !known {
			r.recover(c)
			continue
		}
		r.mu.Lock()
		r.keys = slices.DeleteFunc(r.keys, func(other string) bool { return other == key && len(r.keys) > 1 })
		few := len(r.keys) < 3
		r.mu.Unlock()
		if few {
			r.issue(id, c)
		}
	}
}

// issue makes another key to be used and revoked.
func (r *recorder) issue(id int, c *client) {
	from := time.Since(r.began).Nanoseconds()
	got, err := c.do(context.WithoutCancel(r.t.Context()), "POST", "/api/keys", map[string]any{"name": "k", "scopes": []string{"chat"}})
	if err != nil || got.status != http.StatusCreated {
		return // nobody knows its id
	}
	var key keyView
	got.into(r.t, &key)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[key.ID], r.keys = key.Key, append(r.keys, key.ID)
	r.history = append(r.history, porcupine.Operation{
		ClientId: id, Input: asked{stream: key.ID, what: "issue"}, Call: from, Output: told{}, Return: time.Since(r.began).Nanoseconds(),
	})
}

// slugClient wants the same slugs as the others.
func (r *recorder) slugClient(id int, random *rand.Rand) {
	for !r.stopped() {
		c := r.either(random)
		r.mu.Lock()
		slug := fmt.Sprintf("round-%d", r.slugs/6)
		r.slugs++
		r.mu.Unlock()
		_, known := r.call(id, c, asked{stream: slug, what: "claim"}, "POST", "/api/agents", map[string]any{"name": slug, "slug": slug, "model": "echo"}, func(got answer) (told, bool) {
			return told{yes: got.status == http.StatusCreated}, got.status == http.StatusCreated || got.code() == "slug_taken"
		})
		if !known {
			r.recover(c)
		}
	}
}

// settle finds out from the agents' histories which version each rename has made. Of unknown outcome, those that have made
// none are dropped: had anybody seen one in between, the history would have it.
func (r *recorder) settle() {
	names := map[string]int{}
	for _, agent := range r.agents {
		for cursor := ""; ; {
			var page struct {
				Data []struct {
					Version int
					Name    string
				}
				NextCursor *string
			}
			r.in.clients[0].must(http.StatusOK, "GET", "/api/agents/"+agent.ID+"/versions?limit=100"+cursor, nil).into(r.t, &page)
			for _, version := range page.Data {
				names[agent.ID+" "+version.Name] = version.Version
			}
			if page.NextCursor == nil {
				break
			}
			cursor = "&cursor=" + *page.NextCursor
		}
	}
	r.history = slices.DeleteFunc(r.history, func(operation porcupine.Operation) bool {
		in := operation.Input.(asked)
		return in.what == "rename" && operation.Output.(told).unknown && names[in.stream+" "+in.name] == 0
	})
	for i, operation := range r.history {
		in := operation.Input.(asked)
		switch own, isOwn := operation.Metadata.(string); {
		case in.what == "rename":
			in.version = names[in.stream+" "+in.name]
			r.history[i].Input = in
		case isOwn && operation.Output.(told).stands.version < names[in.stream+" "+own]:
			r.t.Errorf("what answered the rename to %q was older than it: %+v", own, operation.Output)
		}
	}
}

func TestFewStreamsUnderManyClientsAreLinearizableWhileNodesAreKilled(t *testing.T) {
	t.Parallel()
	victims := []string{"api 0", "projector 0", "engines", "api 1"}
	between := 1500 * time.Millisecond
	if *full {
		victims = append(victims, "projector 1", "postgres", "api 0", "engines", "api 1", "projector 0")
		between = 3 * time.Second
	}
	chosen := chosenSeed(t)
	random := rand.New(rand.NewPCG(chosen, 0))
	random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	in := startKillable(t)
	r := &recorder{t: t, in: in, began: time.Now(), stop: make(chan struct{}), secrets: map[string]string{}}
	for i := range 3 {
		name := fmt.Sprintf("Agent %d", i)
		from := time.Since(r.began).Nanoseconds()
		agent := in.clients[0].createAgent(name)
		r.agents = append(r.agents, agent)
		r.history = append(r.history, porcupine.Operation{Input: asked{stream: agent.ID, what: "create", name: name}, Call: from,
			Output: told{}, Return: time.Since(r.began).Nanoseconds()})
		r.issue(0, in.clients[0])
	}
	var clients sync.WaitGroup
	for id := range 16 {
		own := rand.New(rand.NewPCG(chosen, uint64(id)+1))
		clients.Go(func() {
			switch {
			case id < 8:
				r.agentClient(id, own, id < 2)
			case id < 12:
				r.keyClient(id, own)
			default:
				r.slugClient(id, own)
			}
		})
	}
	pause := time.NewTicker(between)
	defer pause.Stop()
	for _, victim := range victims {
		<-pause.C
		in.kill(victim)
	}
	<-pause.C
	close(r.stop)
	clients.Wait()
	r.settle()
	r.judge(chosen)
}

// judge wants an order for what was recorded, and none for the same history with one answer falsified.
func (r *recorder) judge(chosen uint64) {
	t := r.t
	t.Helper()
	unknown, kinds := 0, map[string]int{}
	for _, operation := range r.history {
		kinds[operation.Input.(asked).what]++
		if operation.Output.(told).unknown {
			unknown++
		}
	}
	began := time.Now()
	result, info := porcupine.CheckOperationsVerbose(streams(), r.history, linearTimeout)
	t.Logf("seed %d: %d operations %v, %d of them of unknown outcome, kills %v: %s, found in %v", chosen, len(r.history), kinds, unknown, r.in.killed, result, time.Since(began).Round(time.Millisecond))
	if result != porcupine.Ok {
		for _, part := range streams().Partition(r.history) {
			if porcupine.CheckOperationsTimeout(streams(), part, linearTimeout) != porcupine.Ok {
				t.Logf("%s\n%s", part[0].Input.(asked).stream, readable(part))
			}
		}
		if file := t.ArtifactDir() + "/history.html"; porcupine.VisualizePath(streams(), info, file) == nil {
			t.Logf("the history: %s", file)
		}
		t.Errorf("no order of what was asked explains what was heard: %s", result)
	}
	if len(r.history) < 500 {
		t.Errorf("only %d operations were recorded", len(r.history))
	}
	for _, falsify := range []struct {
		what string
		lie  func(*told)
	}{
		{"get", func(out *told) { out.stands.version-- }},
		{"use", func(out *told) { out.yes = !out.yes }},
		{"claim", func(out *told) { out.yes = true }}, // although somebody else has it
	} {
		broken := slices.Clone(r.history)
		i := len(broken) - 1
		for ; i >= 0; i-- {
			in, out := broken[i].Input.(asked), broken[i].Output.(told)
			lie := out
			falsify.lie(&lie)
			if in.what == falsify.what && !out.unknown && lie != out && alone(broken, i) {
				broken[i].Output = lie
				break
			}
		}
		if i < 0 {
			t.Errorf("there is no %s to falsify", falsify.what)
			continue
		}
		if result := porcupine.CheckOperationsTimeout(streams(), broken, linearTimeout); result != porcupine.Illegal {
			t.Errorf("with the last %s falsified the checker says %s: %+v", falsify.what, result, broken[i])
		}
	}
}

// readable is a history to read.
func readable(history []porcupine.Operation) string {
	var text strings.Builder
	for _, operation := range slices.SortedFunc(slices.Values(history), func(a, b porcupine.Operation) int { return int(a.Call - b.Call) }) {
		until := time.Duration(operation.Return).Round(time.Microsecond).String()
		if operation.Return == never {
			until = "?"
		}
		fmt.Fprintf(&text, "client %d, %v–%s: %+v → %+v\n", operation.ClientId, time.Duration(operation.Call).Round(time.Microsecond), until, operation.Input, operation.Output)
	}
	return text.String()
}

// alone reports whether an operation's answer is determined: no command on its stream ran at the same time, or, of a slug,
// somebody had been given it before.
func alone(history []porcupine.Operation, at int) bool {
	own := history[at]
	earlier := false
	for i, other := range history {
		in, out := other.Input.(asked), other.Output.(told)
		if i == at || in.stream != own.Input.(asked).stream || in.what == "get" || in.what == "use" {
			continue
		}
		if in.what != "claim" && other.Call <= own.Return && other.Return >= own.Call {
			return false
		}
		earlier = earlier || other.Return < own.Call && (in.what != "claim" || out.yes)
	}
	return earlier
}
