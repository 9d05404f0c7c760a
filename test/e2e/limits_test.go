package e2e

// This file sends more than a plan allows, through two nodes.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
		got, err := node.untilLetIn("POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola"))
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
	tellsOfReachedLimits(t, c)
	refusalsCostNothing(t, c)
}

// tellsOfReachedLimits sends a day's messages through both nodes at once, and looks into the log.
func tellsOfReachedLimits(t *testing.T, c cluster) {
	t.Helper()
	account, here := c.a.customer("enterprise")
	nodes := []*client{here, here.on(c.b)}
	agent := here.createAgent("Diario")
	told := func() (percents []string) {
		for _, event := range logged(t, c.engines, "--stream", "account-"+account, "--type", "limit.reached") {
			var reached struct{ Percent, Limit int }
			if err := json.Unmarshal(event.Data, &reached); err != nil {
				t.Fatal(err)
			}
			if event.Outcome == "accepted" { // of nodes that decide the same, one wins
				percents = append(percents, fmt.Sprint(reached.Percent, " of ", reached.Limit))
			}
		}
		return percents
	}
	c.a.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"limits": map[string]any{"perDay": 20}})
	send := func(count int) {
		inParallel(16, count, func(i int) {
			if _, err := nodes[i%2].untilLetIn("POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody("", "hola")); err != nil {
				t.Error(err)
			}
		})
	}
	send(40)
	await(t, 10*time.Second, "both thresholds in the log", func() bool { return len(told()) >= 2 })
	c.a.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"limits": map[string]any{"perDay": 30}})
	send(40)
	await(t, 10*time.Second, "those of the larger limit too", func() bool { return len(told()) >= 4 })
	c.a.must(http.StatusOK, "PATCH", "/api/accounts/"+account, map[string]any{"limits": map[string]any{"perDay": 10}})
	send(10)
	if got := told(); !slices.Equal(got, []string{"80 of 20", "100 of 20", "80 of 30", "100 of 30"}) {
		t.Errorf("the log tells of %v", got)
	}
}

// refusalsCostNothing sends what is refused at the door, and what is one too many.
func refusalsCostNothing(t *testing.T, c cluster) {
	t.Helper()
	_, own := c.a.customer("free") // 10 a minute
	agent := own.createAgent("Cuidado")
	weak, gone := own.issueKey("logs:read"), own.issueKey("chat")
	own.must(http.StatusNoContent, "DELETE", "/api/keys/"+gone.ID, nil)
	path := "/api/v2/agent/" + agent.ID + "/chat"
	left := func() int {
		t.Helper()
		var me struct{ Remaining struct{ PerDay int } }
		own.must(http.StatusOK, "GET", "/api/me", nil).into(t, &me)
		return me.Remaining.PerDay
	}
	for range 15 {
		own.with(weak.Key).must(http.StatusForbidden, "POST", path, chatBody("", "hola"))
		own.with(gone.Key).must(http.StatusUnauthorized, "POST", path, chatBody("", "hola"))
		own.must(http.StatusBadRequest, "POST", path, map[string]any{"query": ""})
	}
	for range 10 {
		own.chat(agent.ID, "", "hola")
	}
	for range 15 {
		own.must(http.StatusTooManyRequests, "POST", path, chatBody("", "hola"))
	}
	if got := left(); got != 990 {
		t.Errorf("%d of 1,000 are left after ten messages", got)
	}
}
