package e2e

// This file takes keys away and exchanges them while three nodes are being asked with them.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// nodes are three API nodes and what folds for them; the test can stop their processes.
type nodes struct {
	projector *process
	processes [3]*process
	clients   [3]*client
}

func startNodes(t *testing.T) nodes {
	t.Helper()
	_, engines := startEngines(t, t.TempDir())
	root := bootstrap(t, engines)
	n := nodes{projector: startNode(t, engines, "projector,sweeper")}
	for i := range n.processes {
		n.processes[i] = startNode(t, engines, "api", []string{"NIDO_TRUSTED_PROXIES=", "NIDO_TRUSTED_PROXIES=127.0.0.1,10.0.0.0/8", "NIDO_TRUSTED_PROXIES="}[i])
		n.clients[i] = newClient(t, n.processes[i].base, root)
	}
	return n
}

type keyView struct {
	ID, Key, Hint, Status             string
	RotatedAt, GraceUntil, LastUsedAt *time.Time
	ExpiresAt                         *time.Time
}

func (c *client) issueKey(scopes ...string) keyView {
	c.t.Helper()
	var key keyView
	c.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "web", "scopes": scopes}).into(c.t, &key)
	return key
}

// insist is must for a command that is asked to come back where too much is asked at once.
func (c *client) insist(status int, method, path string, body any) {
	c.t.Helper()
	await(c.t, time.Minute, path, func() bool {
		got, err := c.do(c.t.Context(), method, path, body)
		if err != nil || got.status != status && got.status != http.StatusServiceUnavailable {
			c.t.Fatalf("%s %s: %v, status %d, not %d: %s", method, path, err, got.status, status, got.body)
		}
		return got.status == status
	})
}

// volley calls all nodes with one key from many goroutines while something is taken away, and remembers what came of the
// calls that started after that had answered.
type volley struct {
	code     string // what every call must get from then on
	chatOnly bool
	gone     atomic.Bool // the taking away has answered
	before   atomic.Int64
	after    atomic.Int64
	accepted atomic.Int64 // of those that started after it
	broken   atomic.Int64 // calls without an answer
	busy     atomic.Int64 // calls that were asked to come back
}

// fire begins the calls; they end when so many have started after the taking away.
func (v *volley) fire(n nodes, key, agentID string, concurrent int, enough int64) *sync.WaitGroup {
	var group sync.WaitGroup
	for i := range concurrent {
		own := n.clients[i%len(n.clients)].with(key)
		group.Go(func() {
			for v.after.Load() < enough {
				late := v.gone.Load() // read before the call starts
				v.note(late, own, agentID, v.chatOnly || i%4 < 2)
			}
		})
	}
	return &group
}

func (v *volley) note(late bool, own *client, agentID string, chats bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got answer
	var err error
	if chats {
		got, err = own.do(ctx, "POST", "/api/v2/agent/"+agentID+"/chat", chatBody("", "hola"))
	} else {
		got, err = own.do(ctx, "GET", "/api/me", nil)
	}
	switch {
	case err != nil:
		v.broken.Add(1)
	case got.status == http.StatusServiceUnavailable:
		v.busy.Add(1) // so many at once are more than a small machine takes
	case !late:
		v.before.Add(1)
	default:
		if got.code() != v.code {
			v.accepted.Add(1)
		}
		v.after.Add(1)
	}
}

func (v *volley) report(t *testing.T) {
	t.Helper()
	t.Logf("%d calls before it was gone, %d that started after that, %d of them accepted, %d without an answer, %d asked to come back",
		v.before.Load(), v.after.Load(), v.accepted.Load(), v.broken.Load(), v.busy.Load())
	// A connection that is older than its patience when a node wakes up is closed, with the call that has just begun on it.
	if v.accepted.Load() != 0 || v.broken.Load() > v.after.Load()/10 || v.before.Load() == 0 || v.after.Load() == 0 {
		t.Error("a key that was taken away still opened, or nothing was asked")
	}
}

// parallelCalls are under way at the same time when a key is revoked, and as many start after it.
const parallelCalls = 1000

func TestKeysAcrossNodes(t *testing.T) {
	t.Parallel()
	n := startNodes(t)
	agent := n.clients[0].createAgent("Ventas")

	for sentence, test := range map[string]struct {
		code     string
		chatOnly bool
		enough   int64
		takeAway func(t *testing.T, root *client, account, agentID string, key keyView)
	}{
		"once a revoke has answered no node accepts the key": {"revoked_api_key", false, parallelCalls, func(_ *testing.T, root *client, _, _ string, key keyView) {
			root.insist(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", map[string]any{"reason": "leaked"})
		}},
		"nor where the projector lags": {"revoked_api_key", false, 300, func(t *testing.T, root *client, _, _ string, key keyView) {
			n.projector.signal(syscall.SIGSTOP)
			answered := make(chan error, 1)
			go func() {
				got, err := root.do(context.Background(), "DELETE", "/api/keys/"+key.ID, nil)
				if err == nil && got.status != http.StatusNoContent {
					err = fmt.Errorf("status %d: %s", got.status, got.body)
				}
				answered <- err
			}()
			select {
			case err := <-answered:
				t.Errorf("it answered before it was visible: %v", err)
			case <-time.After(time.Second):
			}
			n.projector.signal(syscall.SIGCONT)
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}},
		"nor the secret before, once a rotation without a grace has": {"expired_api_key", false, 300, func(_ *testing.T, root *client, _, _ string, key keyView) {
			root.insist(http.StatusOK, "POST", "/api/keys/"+key.ID+"/rotate", nil)
		}},
		"nor a key whose time has come": {"expired_api_key", false, 300, func(t *testing.T, _ *client, _, _ string, key keyView) {
			await(t, time.Minute, "the key's end", func() bool { return time.Now().After(*key.ExpiresAt) })
		}},
		"nor any key of an account, once its suspension has": {"account_suspended", false, 300, func(_ *testing.T, _ *client, account, _ string, _ keyView) {
			n.clients[0].insist(http.StatusOK, "POST", "/api/accounts/"+account+"/suspend", nil)
		}},
		"nor a message to an agent, once its pause has": {"agent_paused", true, 300, func(_ *testing.T, root *client, _, agentID string, _ keyView) {
			root.insist(http.StatusOK, "POST", "/api/agents/"+agentID+"/pause", nil)
		}},
	} {
		t.Run(sentence, func(t *testing.T) {
			account, root := n.clients[0].customer("enterprise")
			agent, key := root.createAgent("Ventas"), root.issueKey("chat")
			if test.code == "expired_api_key" && !strings.Contains(sentence, "rotation") {
				ends := map[string]any{"name": "web", "scopes": []string{"chat"}, "expiresAt": time.Now().Add(4 * time.Second)}
				root.must(http.StatusCreated, "POST", "/api/keys", ends).into(t, &key)
			}
			concurrent := 64
			if test.enough == parallelCalls {
				concurrent = parallelCalls
			}
			v := volley{code: test.code, chatOnly: test.chatOnly}
			group := v.fire(n, key.Key, agent.ID, concurrent, test.enough)
			await(t, time.Minute, "calls on the way", func() bool { return v.before.Load() >= 200 })
			test.takeAway(t, root, account, agent.ID, key)
			v.gone.Store(true)
			group.Wait()
			v.report(t)
		})
	}

	t.Run("nor does a node that stood still meanwhile", func(t *testing.T) {
		key := n.clients[0].issueKey("chat")
		v := volley{code: "revoked_api_key"}
		own := n.clients[1].with(key.Key)
		own.must(http.StatusOK, "GET", "/api/me", nil) // the node has seen the key, and connections to it are open
		v.before.Add(1)
		n.processes[1].signal(syscall.SIGSTOP)
		n.clients[0].must(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", map[string]any{"reason": "leaked"})
		var started atomic.Int64
		var group sync.WaitGroup
		for i := range 1000 { // it reads them when it goes on
			group.Go(func() {
				started.Add(1)
				v.note(true, own, agent.ID, i%2 == 0)
			})
		}
		await(t, time.Minute, "a thousand calls on the way", func() bool { return started.Load() == 1000 })
		n.processes[1].signal(syscall.SIGCONT)
		group.Wait()
		v.report(t)
	})

	t.Run("a rotated key works with both secrets, then with one", func(t *testing.T) {
		root := n.clients[0]
		first := root.issueKey("chat")
		opens := func(status int, key string) {
			t.Helper()
			for _, node := range n.clients {
				node.with(key).must(status, "GET", "/api/me", nil)
				node.with(key).must(status, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"))
			}
		}
		rotate := func(grace int, headers ...string) keyView {
			t.Helper()
			var shown keyView
			root.must(http.StatusOK, "POST", "/api/keys/"+first.ID+"/rotate", map[string]any{"graceSeconds": grace}, headers...).into(t, &shown)
			if shown.ID != first.ID || shown.RotatedAt == nil || !strings.HasSuffix(shown.Key, strings.TrimPrefix(shown.Hint, "ha_…")) {
				t.Fatalf("%+v", shown)
			}
			return shown
		}
		second := rotate(3600, "Idempotency-Key", "rotation-1")
		if again := rotate(3600, "Idempotency-Key", "rotation-1"); again.Key != second.Key {
			t.Error("the same rotation again shows another secret")
		}
		opens(http.StatusOK, first.Key)
		opens(http.StatusOK, second.Key)
		third := rotate(1)
		opens(http.StatusOK, third.Key)
		await(t, 10*time.Second, "the grace to end", func() bool {
			got, err := n.clients[1].with(first.Key).do(t.Context(), "GET", "/api/me", nil)
			return err == nil && got.code() == "expired_api_key"
		})
		opens(http.StatusUnauthorized, second.Key)
		opens(http.StatusOK, third.Key)
		fourth := rotate(0)
		opens(http.StatusUnauthorized, third.Key)
		opens(http.StatusOK, fourth.Key)

		weak := root.issueKey("keys:write")
		refused := root.with(weak.Key).must(http.StatusForbidden, "POST", "/api/keys/"+first.ID+"/rotate", nil)
		if refused.code() != "grant_exceeded" {
			t.Errorf("%s", refused.body)
		}
		root.must(http.StatusNoContent, "DELETE", "/api/keys/"+first.ID, nil)
		opens(http.StatusUnauthorized, fourth.Key)
	})

	t.Run("a key of some networks is held against whoever stands behind a proxy that is trusted", func(t *testing.T) {
		var key keyView
		n.clients[0].must(http.StatusCreated, "POST", "/api/keys", map[string]any{
			"name": "office", "scopes": []string{"chat", "logs:read", "keys:write"}, "ipAllow": []string{"203.0.113.0/24", "2001:db8::/32"},
		}).into(t, &key)
		direct, behind := n.clients[0].with(key.Key), n.clients[1].with(key.Key)
		for _, header := range [][]string{
			{}, {"X-Forwarded-For", "203.0.113.9"}, {"Forwarded", "for=203.0.113.9"},
		} {
			if got := direct.must(http.StatusForbidden, "GET", "/api/me", nil, header...); got.code() != "ip_not_allowed" {
				t.Errorf("%v: %s", header, got.body)
			}
		}
		for _, header := range [][]string{
			{"X-Forwarded-For", "198.51.100.1, 203.0.113.9, 10.3.4.5"}, {"Forwarded", `for=198.51.100.1, for="[2001:db8::9]:4711";proto=https`},
		} {
			behind.must(http.StatusOK, "GET", "/api/me", nil, header...)
			behind.must(http.StatusOK, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"), header...)
		}
		for _, header := range [][]string{
			{}, {"X-Forwarded-For", "203.0.113.9, 198.51.100.1"}, {"X-Forwarded-For", "203.0.113.9", "Forwarded", "for=198.51.100.1"}, {"X-Forwarded-For", "?"},
		} {
			behind.must(http.StatusForbidden, "GET", "/api/me", nil, header...)
			behind.must(http.StatusForbidden, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"), header...)
		}
		office := []string{"X-Forwarded-For", "203.0.113.9"}
		wider := map[string]any{"name": "anywhere", "scopes": []string{"chat"}}
		if got := behind.must(http.StatusForbidden, "POST", "/api/keys", wider, office...); got.code() != "grant_exceeded" {
			t.Errorf("%s", got.body)
		}
		wider["ipAllow"] = []string{"203.0.113.128/25"}
		behind.must(http.StatusCreated, "POST", "/api/keys", wider, office...)
		open := n.clients[0].issueKey("chat")
		if got := behind.must(http.StatusForbidden, "POST", "/api/keys/"+open.ID+"/rotate", nil, office...); got.code() != "grant_exceeded" {
			t.Errorf("%s", got.body)
		}
		await(t, 10*time.Second, "the client's address in the request log", func() bool {
			var page struct{ Data []struct{ RequestID string } }
			behind.must(http.StatusOK, "GET", "/api/logs?status=201&limit=1&keyId="+key.ID, nil, office...).into(t, &page)
			if len(page.Data) == 0 {
				return false
			}
			var line struct{ ClientIP string }
			behind.must(http.StatusOK, "GET", "/api/logs/"+page.Data[0].RequestID, nil, office...).into(t, &line)
			return line.ClientIP == "203.0.113.9"
		})
	})

	t.Run("a key has a name and metadata, is bound to agents that there are, and can be called otherwise", func(t *testing.T) {
		root := n.clients[0]
		var key struct {
			ID, Name string
			AgentIds []string
			Metadata map[string]string
		}
		_, stranger := root.customer("enterprise")
		foreign := stranger.createAgent("Ajeno")
		in := map[string]any{"name": "Sitio web", "scopes": []string{"chat"}, "agentIds": []string{agent.ID, foreign.ID}, "metadata": map[string]any{"team": "ventas"}}
		if got := root.must(http.StatusBadRequest, "POST", "/api/keys", in); got.code() != "invalid_request" || !strings.Contains(string(got.body), "agentIds") {
			t.Errorf("%s", got.body)
		}
		in["agentIds"] = []string{agent.ID}
		root.must(http.StatusCreated, "POST", "/api/keys", in).into(t, &key)
		root.must(http.StatusOK, "PATCH", "/api/keys/"+key.ID, map[string]any{"name": "Tienda"})
		root.must(http.StatusOK, "PATCH", "/api/keys/"+key.ID, map[string]any{"metadata": map[string]any{"team": "sur", "ñ": "1"}})
		n.clients[1].must(http.StatusOK, "GET", "/api/keys/"+key.ID, nil).into(t, &key)
		if key.Name != "Tienda" || len(key.AgentIds) != 1 || key.Metadata["team"] != "sur" || key.Metadata["ñ"] != "1" {
			t.Errorf("%+v", key)
		}
		stranger.must(http.StatusNotFound, "PATCH", "/api/keys/"+key.ID, map[string]any{"name": "mine"})
	})

	t.Run("a key says within a minute when it was last used", func(t *testing.T) {
		key := n.clients[0].issueKey("chat")
		used := time.Now()
		n.clients[1].with(key.Key).must(http.StatusOK, "GET", "/api/me", nil)
		await(t, time.Minute, "the key's last use", func() bool {
			var got keyView
			n.clients[0].must(http.StatusOK, "GET", "/api/keys/"+key.ID, nil).into(t, &got)
			return got.LastUsedAt != nil && got.LastUsedAt.After(used.Add(-time.Second)) && got.LastUsedAt.Before(time.Now())
		})
	})
}
