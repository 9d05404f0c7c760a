package e2e

// This file gives a model several providers, and takes them away.

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/nidohq/nido/infra/model/modeltest"
)

func TestAModelHasSeveralProviders(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	var calls atomic.Int32
	first := modeltest.New(modeltest.Options{Reply: func(asked modeltest.Request) modeltest.Reply {
		calls.Add(1)
		switch {
		case asked.Model == "limited":
			return modeltest.Reply{Status: http.StatusTooManyRequests, RetryAfter: "30"}
		case down.Load():
			return modeltest.Reply{Status: http.StatusInternalServerError}
		}
		return modeltest.Words("from the first")
	}})
	t.Cleanup(first.Close)
	second := modeltest.New(modeltest.Options{Reply: func(modeltest.Request) modeltest.Reply { return modeltest.Words("from the second") }})
	t.Cleanup(second.Close)
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "providers.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"providers": [
		{"name": "first", "kind": "openai", "baseUrl": %q, "models": ["limited"], "retries": 0, "breaker": {"failures": 2, "openFor": "1h"}},
		{"name": "second", "kind": "openai", "baseUrl": %q}
	], "models": {"gpt-4o-mini": [{"provider": "first", "model": "big"}, {"provider": "second", "model": "small"}]}}`, first.OpenAI(), second.OpenAI()), 0o600); err != nil {
		t.Fatal(err)
	}
	operators := freeAddress(t)
	node := startDev(t, dir, "NIDO_PROVIDERS="+file, "NIDO_OPERATOR_LISTEN="+operators)
	root := newClient(t, node.base, rootKey(t, dir))
	agent := root.createAgent("Ventas")

	if reply := root.chat(agent.ID, "", "hola"); reply.Response != "from the first" || reply.Model != "big" {
		t.Errorf("%+v", reply)
	}
	limited := root.createAgent("Limitada")
	root.must(http.StatusOK, "PATCH", "/api/agents/"+limited.ID, map[string]any{"model": "limited"})
	refused := root.must(http.StatusServiceUnavailable, "POST", "/api/v2/agent/"+limited.ID+"/chat", chatBody("", "hola"))
	if refused.code() != "upstream_rate_limited" || refused.header.Get("Retry-After") != "30" || !strings.Contains(string(refused.body), `"retryAfterMs":30000`) {
		t.Errorf("%v %s", refused.header, refused.body)
	}
	byName := openai.NewClient(option.WithBaseURL(node.base+"/openai/v1/"), option.WithAPIKey(root.key), option.WithHTTPClient(root.http), option.WithMaxRetries(0))
	_, err := byName.Chat.Completions.New(t.Context(), asking(limited.Slug, openai.UserMessage("hola")))
	if failed, ok := errors.AsType[*openai.Error](err); !ok || failed.Code != "upstream_rate_limited" || failed.Response.Header.Get("Retry-After-Ms") != "30000" {
		t.Errorf("%v", err)
	}

	calls.Store(0)
	down.Store(true)
	for range 4 {
		if reply := root.chat(agent.ID, "", "hola"); reply.Response != "from the second" || reply.Model != "small" {
			t.Errorf("%+v", reply)
		}
	}
	if asked := calls.Load(); asked != 2 {
		t.Errorf("the first one was asked %d times: it is to be left alone behind two failures", asked)
	}

	// The breaker is the provider's, and not a model's.
	refused = root.must(http.StatusServiceUnavailable, "POST", "/api/v2/agent/"+limited.ID+"/chat", chatBody("", "hola"))
	if refused.code() != "upstream_unavailable" || refused.header.Get("Retry-After") == "" {
		t.Errorf("%s", refused.body)
	}
	metrics := newClient(t, "http://"+operators, "").must(http.StatusOK, "GET", "/metrics", nil)
	for _, line := range []string{
		`nido_upstream_breaker_state{provider="first",state="open"} 1`, `nido_upstream_breaker_state{provider="second",state="closed"} 1`,
		`nido_upstream_calls_total{outcome="upstream_error",provider="first"} 2`, `nido_upstream_calls_total{outcome="ok",provider="second"} 4`,
	} {
		if !strings.Contains(string(metrics.body), line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
}
