package e2e

// This file sends more than a plan allows, through two nodes.

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// customer opens an account on a plan and returns its id and a client with its first key.
func (c *client) customer(plan string) (id string, own *client) {
	c.t.Helper()
	var opened struct {
		ID  string
		Key struct{ Key string }
	}
	c.must(http.StatusCreated, "POST", "/api/accounts", map[string]any{"name": "Panadería Sol", "plan": plan}).into(c.t, &opened)
	return opened.ID, c.with(opened.Key.Key)
}

// on is the same client at another node.
func (c *client) on(node *client) *client {
	other := *c
	other.base, other.http = node.base, node.http
	return &other
}

func TestLimitsHoldAcrossNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	account, here := c.a.customer("starter") // 60 a minute
	there := here.on(c.b)
	agent := here.createAgent("Limitado")

	var mu sync.Mutex
	statuses := map[int]int{}
	inParallel(128, 500, func(i int) {
		node := []*client{here, there}[i%2]
		got, err := node.do(t.Context(), "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"))
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		statuses[got.status]++
		wait, err := strconv.Atoi(got.header.Get("Retry-After"))
		if got.status == http.StatusTooManyRequests && (err != nil || wait < 1 || wait > 61 || got.code() != "rate_limited") {
			t.Errorf("Retry-After %q: %s", got.header.Get("Retry-After"), got.body)
		}
		if !strings.Contains(got.header.Get("RateLimit-Policy"), `"key";q=60;w=60`) {
			t.Errorf("RateLimit-Policy: %s", got.header.Get("RateLimit-Policy"))
		}
	})
	if statuses[http.StatusOK] != 60 || statuses[http.StatusTooManyRequests] != 440 {
		t.Errorf("of 500 calls on a key of 60 a minute came out %v", statuses)
	}

	left := func(node *client) (perMinute, perDay int) {
		t.Helper()
		var me struct {
			Remaining struct{ PerMinute, PerDay int }
		}
		node.must(http.StatusOK, "GET", "/api/me", nil).into(t, &me)
		return me.Remaining.PerMinute, me.Remaining.PerDay
	}
	if perMinute, perDay := left(there); perMinute != 0 || perDay != 10_000-60 {
		t.Errorf("the other node says that %d and %d are left", perMinute, perDay)
	}

	for round := range 3 {
		c.a.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"plan": "pro"})
		there.chat(agent.ID, "", "hola")
		c.b.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"plan": "starter"})
		for _, node := range []*client{here, there} {
			got := node.must(http.StatusTooManyRequests, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"))
			if got.header.Get("X-RateLimit-Remaining") != "0" || got.header.Get("X-RateLimit-Limit") != "60" {
				t.Errorf("round %d: %v", round, got.header)
			}
		}
	}
	if _, perDay := left(here); perDay != 10_000-63 {
		t.Errorf("%d are left of the day after 63 messages and hundreds of refusals", perDay)
	}

	narrow := here.createAgent("Angosto")
	c.a.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"plan": "enterprise"})
	here.must(http.StatusOK, "PATCH", "/api/agents/"+narrow.ID, map[string]any{"rateLimit": map[string]any{"perDay": 2}})
	for i := range 2 {
		there.chat(narrow.ID, "", fmt.Sprintf("hola %d", i))
	}
	refused := here.must(http.StatusTooManyRequests, "POST", "/api/v2/agent/"+narrow.ID+"/chat", chatBody("", "hola"))
	if refused.header.Get("RateLimit-Policy") != `"agent-day";q=2;w=86400` {
		t.Errorf("%v", refused.header)
	}
	here.chat(agent.ID, "", "hola") // another agent, on a plan without limits
}
