package model

// These tests hold the failures of providers to the API's terms.

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

func TestAStatusBecomesACode(t *testing.T) {
	for _, test := range []struct {
		name      string
		status    int
		body      string
		code      string
		retryable bool
	}{
		{"bad request", 400, "", upstreamRejected, false},
		{"wrong key", 401, "", upstreamRejected, false},
		{"forbidden", 403, "", upstreamRejected, false},
		{"unknown model", 404, "", modelNotFound, false},
		{"unknown model, a bare sentence", 404, `{"error":"model \"x\" not found"}`, modelNotFound, false},
		{"unknown model, said with another status", 403, `{"error":{"code":"model_not_found","type":"invalid_request_error"}}`, modelNotFound, false},
		{"wrong address", 404, `<html>nothing here</html>`, upstreamError, false},
		{"too long", 413, "", upstreamRejected, false},
		{"not understood", 422, `{"detail":[{"msg":"field required"}]}`, upstreamRejected, false},
		{"slow down", 429, "", upstreamRateLimited, true},
		{"no credit", 429, `{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}`, upstreamRateLimited, false},
		{"time-out over there", 408, "", upstreamTimeout, true},
		{"server error", 500, "", upstreamError, true},
		{"not implemented", 501, "", upstreamError, false},
		{"bad gateway, as a page", 502, "<html>" + strings.Repeat("x", 1<<20), upstreamError, true},
		{"unavailable", 503, "", upstreamError, true},
		{"gateway time-out", 504, "", upstreamTimeout, true},
		{"overloaded", 529, "", upstreamError, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, model string) {
				_, router := setup(t, scripted(modeltest.Reply{Status: test.status, Body: test.body}))
				fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
				if fault.Code != test.code || fault.Retryable != test.retryable || fault.Status != test.status {
					t.Errorf("got %+v", fault)
				}
			})
		})
	}
}

func TestNoErrorRepeatsThePromptTheReplyOrTheKey(t *testing.T) {
	leak := `{"error":{"message":"you said: my secret prompt, with sk-secret","type":"my secret prompt","code":"sk-secret"}}`
	for name, reply := range map[string]modeltest.Reply{
		"a status":           {Status: 400, Body: leak},
		"a status, no JSON":  {Status: 500, Body: "my secret prompt sk-secret"},
		"an event":           {Raw: "event: error\ndata: " + leak + "\n\n"},
		"an event, no JSON":  {Raw: "event: message_start\ndata: {\"type\": my secret prompt sk-secret\n\n"},
		"an error, no JSON":  {Raw: "event: error\ndata: my secret prompt sk-secret\n\n"},
		"nothing of a kind":  {Raw: "my secret prompt sk-secret"},
		"a cut in the reply": {Tokens: []string{"my secret prompt sk-secret"}, DropAfter: 1},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, model string) {
				_, router := setup(t, scripted(reply))
				fault := listen(t.Context(), router, ask(model, "my secret prompt")).fault(t)
				for _, secret := range []string{"secret", "prompt"} {
					if strings.Contains(fault.Error(), secret) {
						t.Errorf("the error says %q", fault)
					}
				}
			})
		})
	}
}

func TestAServerThatIsNotThereIsRetryable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL, c.AnthropicBaseURL = gone, gone })
		fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
		if fault.Code != upstreamError || !fault.Retryable || fault.Status != 0 || !strings.Contains(fault.Error(), "refused") {
			t.Errorf("got %+v", fault)
		}
	})
}

func TestTheWaitThatAProviderAsksForIsRead(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "2": 2 * time.Second, "0.5": 500 * time.Millisecond, "-1": 0, "soon": 0, "1e300": 1e6 * time.Second, "NaN": 0,
		"Fri, 01 May 2026 12:00:07 GMT": 7 * time.Second, "Fri, 01 May 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	both := http.Header{"Retry-After": {"9"}, "Retry-After-Ms": {"1500"}}
	if got := retryAfter(both, now); got != 1500*time.Millisecond {
		t.Errorf("got %v", got)
	}
}

func TestAHandshakeThatIsNotAnsweredIsATimeoutOfConnecting(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	address := "https://" + silent.Addr().String()
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, modeltest.Options{}, func(c *Config) {
			c.BaseURL, c.AnthropicBaseURL, c.ConnectTimeout = address, address, 50*time.Millisecond
		})
		fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
		if fault.Code != upstreamTimeout || fault.Timeout != connectTimeout || !fault.Retryable {
			t.Errorf("got %+v", fault)
		}
	})
}
