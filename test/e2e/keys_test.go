package e2e

// This file takes keys away and exchanges them while two nodes are being asked with them.

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

// nodes are two API nodes whose processes the test can stop.
type nodes struct {
	processes [2]*process
	clients   [2]*client
}

func startNodes(t *testing.T) nodes {
	t.Helper()
	_, engines := startEngines(t, t.TempDir())
	root := bootstrap(t, engines)
	startNode(t, engines, "projector,sweeper")
	var n nodes
	for i := range n.processes {
		n.processes[i] = startNode(t, engines, "api")
		n.clients[i] = newClient(t, n.processes[i].base, root)
	}
	return n
}

type keyView struct {
	ID, Key, Hint, Status             string
	RotatedAt, GraceUntil, LastUsedAt *time.Time
}

func (c *client) issueKey(scopes ...string) keyView {
	c.t.Helper()
	var key keyView
	c.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "web", "scopes": scopes}).into(c.t, &key)
	return key
}

// volley calls both nodes with one key from many goroutines until it is told to stop, and remembers what came of calls
// that started after the key had been taken away.
type volley struct {
	revoked  atomic.Bool // the revoke has answered
	before   atomic.Int64
	after    atomic.Int64
	accepted atomic.Int64 // of those that started after it
	broken   atomic.Int64 // calls without an answer
}

// fire makes so many calls at once per round, until calls after the revoke have been made often enough.
func (v *volley) fire(t *testing.T, n nodes, key, agentID string, concurrent int, enough int64) *sync.WaitGroup {
	t.Helper()
	var group sync.WaitGroup
	for i := range concurrent {
		own := n.clients[i%2].with(key)
		group.Go(func() {
			for v.after.Load() < enough {
				late := v.revoked.Load() // read before the call starts
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				var got answer
				var err error
				if i%4 < 2 {
					got, err = own.do(ctx, "GET", "/api/me", nil)
				} else {
					got, err = own.do(ctx, "POST", "/api/v2/agent/"+agentID+"/chat", chatBody("", "hola"))
				}
				cancel()
				switch {
				case err != nil:
					v.broken.Add(1)
				case !late:
					v.before.Add(1)
				default:
					v.after.Add(1)
					if got.status != http.StatusUnauthorized || got.code() != "revoked_api_key" {
						v.accepted.Add(1)
					}
				}
			}
		})
	}
	return &group
}

func (v *volley) report(t *testing.T) {
	t.Helper()
	t.Logf("%d calls before the revoke answered, %d that started after it, %d of them accepted, %d without an answer",
		v.before.Load(), v.after.Load(), v.accepted.Load(), v.broken.Load())
	if v.accepted.Load() != 0 || v.broken.Load() != 0 || v.before.Load() == 0 {
		t.Error("a key that was taken away still opened, or nothing was asked")
	}
}

func TestKeysAcrossNodes(t *testing.T) {
	t.Parallel()
	n := startNodes(t)
	agent := n.clients[0].createAgent("Ventas")

	t.Run("once a revoke has answered no node accepts the key", func(t *testing.T) {
		key := n.clients[0].issueKey("chat")
		var v volley
		group := v.fire(t, n, key.Key, agent.ID, 64, 1000)
		await(t, time.Minute, "calls on the way", func() bool { return v.before.Load() >= 300 })
		n.clients[0].must(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", map[string]any{"reason": "leaked"})
		v.revoked.Store(true)
		group.Wait()
		v.report(t)
	})

	t.Run("nor does a node that stood still meanwhile", func(t *testing.T) {
		key := n.clients[0].issueKey("chat")
		// A thousand calls start while the node stands still: it reads them when it goes on. Their answers may come from
		// connections that were made before.
		for i := range 16 {
			n.clients[1].with(key.Key).must(http.StatusOK, "GET", "/api/me", nil, "X-Request-Id", fmt.Sprint("warm ", i))
		}
		n.processes[1].signal(syscall.SIGSTOP)
		n.clients[0].must(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", map[string]any{"reason": "leaked"})
		var v volley
		v.revoked.Store(true)
		var started atomic.Int64
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				node := n.clients[1].with(key.Key)
				started.Add(1)
				var got answer
				var err error
				if i%2 == 0 {
					got, err = node.do(ctx, "GET", "/api/me", nil)
				} else {
					got, err = node.do(ctx, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"))
				}
				switch {
				case err != nil:
					v.broken.Add(1)
				case got.status != http.StatusUnauthorized:
					v.accepted.Add(1)
				}
				v.after.Add(1)
			})
		}
		await(t, time.Minute, "a thousand calls on the way", func() bool { return started.Load() == 1000 })
		n.processes[1].signal(syscall.SIGCONT)
		group.Wait()
		v.before.Add(16)
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
