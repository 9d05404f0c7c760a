package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

// cause makes the world such that a request meets a code.
type cause func(w *world) request

const aChat, aChatsPath = `{"query":"hola"}`, "/api/v2/agent/agt_1/chat"

func asking(method, path, body string, scopes ...apikey.Scope) cause {
	return func(w *world) request {
		if len(scopes) == 0 {
			scopes = adminScopes
		}
		return request{method: method, path: path, body: body, key: w.key(scopes)}
	}
}

// as is a chat with a key that something is wrong with.
func as(change func(*projections.Caller)) cause {
	return func(w *world) request {
		return request{method: "POST", path: aChatsPath, body: aChat, key: w.key(accountScopes, change)}
	}
}

// refusing is a write whose decision says no, or whose stores fail.
func refusing(err error) cause {
	return func(w *world) request {
		w.fail = err
		return request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: w.key(adminScopes)}
	}
}

// answering is a chat whose turn comes to an error.
func answering(err error) cause {
	return func(w *world) request {
		w.send = func(context.Context, commands.Turn) (commands.Reply, error) { return commands.Reply{}, err }
		return request{method: "POST", path: aChatsPath, body: aChat, key: w.key(accountScopes)}
	}
}

func providerSays(code string) cause {
	return answering(&commands.ModelError{Code: code, Retryable: entries[code].Retryable, Err: errors.New("said the provider")})
}

// underKey repeats a request's Idempotency-Key, of which the store knows something.
func underKey(kept keptAnswer) cause {
	return func(w *world) request {
		key := w.key(adminScopes)
		parsed, err := apikey.Parse(key)
		if err != nil {
			w.t.Fatal(err)
		}
		if kept.fingerprint == nil {
			r := withExchange(httptest.NewRequest(http.MethodPost, "/api/agents/agt_1/pause", nil), &exchange{})
			kept.fingerprint = fingerprint(r, nil)
		}
		w.kept["acc_1"+parsed.PublicID+"once"] = &kept
		return request{method: "POST", path: "/api/agents/agt_1/pause", key: key, header: map[string]string{idempotencyHeader: "once"}}
	}
}

var past = noon.Add(-time.Second)

// causes has one for every code. What other packages refuse with is refused here by what stands for them in these tests; that
// they do is theirs to test.
var causes = map[string]cause{
	"invalid_request":   asking("POST", "/api/agents", `{"name":"a"}`),
	"missing_api_key":   func(*world) request { return request{method: "POST", path: aChatsPath, body: aChat} },
	"invalid_api_key":   func(*world) request { return request{method: "POST", path: aChatsPath, body: aChat, key: "ha_live_x"} },
	"revoked_api_key":   as(func(c *projections.Caller) { c.RevokedAt = &past }),
	"expired_api_key":   as(func(c *projections.Caller) { c.ExpiresAt = &past }),
	"missing_scope":     asking("POST", aChatsPath, aChat, apikey.LogsRead),
	"agent_not_allowed": as(func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} }),
	"ip_not_allowed":    as(func(c *projections.Caller) { c.IPAllow = []string{"203.0.113.0/24"} }),
	"account_suspended": as(func(c *projections.Caller) { c.Suspended = true }),
	"grant_exceeded":    refusing(domain.RefuseField("scopes", "grant_exceeded", "a key cannot hand out more than it has itself: admin", "una clave no puede otorgar más de lo que tiene: admin")),
	"not_found":         asking("GET", "/nowhere", ""),
	"host_not_found": func(w *world) request {
		return request{method: "POST", path: "/api/v1/chat", host: "nadie.nido.test", body: `{"message":"hola"}`, key: w.key(accountScopes)}
	},
	"agent_not_found":        asking("GET", "/api/agents/agt_none", ""),
	"version_not_found":      asking("GET", "/api/agents/agt_1/versions/7", ""),
	"account_not_found":      asking("GET", "/api/accounts/acc_none", ""),
	"key_not_found":          asking("GET", "/api/keys/key_none", ""),
	"conversation_not_found": asking("GET", "/api/conversations/none?agentId=agt_1", ""),
	"turn_not_found":         asking("GET", "/api/v1/turns/turn_none/events", ""),
	"log_not_found":          asking("GET", "/api/logs/req_none", ""),
	"erasure_not_found":      asking("GET", "/api/erasures/era_none", ""),
	"method_not_allowed":     asking("PUT", "/api/agents", ""),
	"agent_paused": func(w *world) request {
		agent := w.agents["agt_1"]
		agent.Status = "paused"
		w.agents["agt_1"] = agent
		return as(func(*projections.Caller) {})(w)
	},
	"slug_taken":             refusing(domain.RefuseField("slug", "slug_taken", "the slug is taken", "el slug ya está en uso")),
	"key_revoked":            refusing(domain.RefuseField("id", "key_revoked", "a revoked key cannot be rotated; issue another", "una clave revocada no se puede rotar; hay que emitir otra")),
	"account_exists":         refusing(domain.Refuse("account_exists", "this account has been opened already", "esta cuenta ya fue abierta")),
	"account_erased":         refusing(domain.Refuse("account_erased", "the account has been erased", "la cuenta fue borrada")),
	"conversation_erased":    answering(domain.Refuse("conversation_erased", "the conversation has been erased", "la conversación fue borrada")),
	"conversation_busy":      answering(domain.Refuse("conversation_busy", "the agent is still answering", "el agente todavía responde")),
	"turn_closed":            answering(domain.Refuse("turn_closed", "this turn has ended already", "este turno ya terminó")),
	"conflict":               refusing(commands.ErrConflict),
	"idempotency_in_flight":  underKey(keptAnswer{inFlight: true}),
	"idempotency_key_reused": underKey(keptAnswer{fingerprint: []byte("another request's"), inFlight: true}),
	"payload_too_large":      asking("POST", "/api/agents", `{"name":"`+strings.Repeat("x", maxBodyBytes)+`","model":"m"}`),
	"unsupported_media_type": func(w *world) request {
		return request{method: "POST", path: "/api/agents", body: `<agent/>`, key: w.key(adminScopes), header: map[string]string{"Content-Type": "text/xml"}}
	},
	"rate_limited": func(w *world) request {
		w.verdict = func(request quota.Request) quota.Verdict {
			rule := request.Rules[0]
			return quota.Verdict{Standings: []quota.Standing{{Rule: rule, Reset: time.Second}}, Blocking: rule, RetryAfter: time.Second}
		}
		return as(func(*projections.Caller) {})(w)
	},
	"too_many_followers": func(w *world) request {
		w.server.followers.count = map[string]int{"turn_1": maxFollowers}
		return request{method: "GET", path: "/api/v1/turns/turn_1/events", key: w.key(accountScopes)}
	},
	"headers_too_large": func(*world) request {
		return request{method: "GET", path: "/api/me", header: map[string]string{"X-Large": strings.Repeat("x", maxHeaderBytes)}}
	},
	"internal_error":        refusing(errors.New("nobody knows this one")),
	"upstream_error":        providerSays("upstream_error"),
	"upstream_rejected":     providerSays("upstream_rejected"),
	"model_not_found":       providerSays("model_not_found"),
	"interrupted":           providerSays("interrupted"),
	"upstream_rate_limited": providerSays("upstream_rate_limited"),
	"upstream_busy":         providerSays("upstream_busy"),
	"upstream_unavailable":  providerSays("upstream_unavailable"),
	"upstream_timeout":      providerSays("upstream_timeout"),
	"overloaded":            refusing(&Problem{Code: "overloaded", cause: errCrowded}),
	"unavailable":           refusing(commands.ErrUnavailable),
	"unknown_outcome":       refusing(commands.ErrUnknownOutcome),
	"analytics_unavailable": func(w *world) request {
		w.fail = errors.New("clickhouse is away")
		return request{method: "GET", path: "/api/stats/conversations", key: w.key(adminScopes)}
	},
	"timeout": func(w *world) request {
		w.server.config.RouteTimeout = time.Nanosecond
		w.fail = context.DeadlineExceeded
		return request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: w.key(adminScopes)}
	},
}

// Those have a test of their own: one takes its time (TestABodyThatDoesNotArriveTimesOut), and nobody sees the other.
var apart = map[string]bool{"request_timeout": true, "request_cancelled": true}

func TestEveryCodeIsMetAsTheCatalogueSays(t *testing.T) {
	for _, entry := range catalogue {
		if apart[entry.Code] {
			continue
		}
		prepare, known := causes[entry.Code]
		if !known {
			t.Errorf("nothing here meets %s", entry.Code)
			continue
		}
		t.Run(entry.Code, func(t *testing.T) {
			w := newWorld(t)
			server := httptest.NewServer(w.server)
			defer server.Close()
			in := prepare(w)
			english := meet(t, server, in, nil)
			spanish := meet(t, server, in, map[string]string{"Accept-Language": "es-AR, en;q=0.5"})
			for _, got := range []met{english, spanish} {
				var body ErrorEnvelope
				if err := json.Unmarshal(got.body, &body); err != nil || got.status != entry.Status || body.Error.Code != entry.Code {
					t.Fatalf("%v: %d %s", err, got.status, got.body)
				}
				e := body.Error
				if e.Type != entry.Type || e.Retryable != entry.Retryable || !strings.HasSuffix(e.DocURL, "/errors#"+entry.Code) || e.RequestID != got.header.Get("X-Request-Id") || e.Message == "" {
					t.Errorf("%+v", e)
				}
				if entry.Retryable != (got.header.Get("Retry-After") != "") {
					t.Errorf("retryable %v, Retry-After %q", entry.Retryable, got.header.Get("Retry-After"))
				}
				if challenge := got.header.Get("WWW-Authenticate"); (entry.Status == http.StatusUnauthorized) != (challenge != "") {
					t.Errorf("%d challenges with %q", entry.Status, challenge)
				}
			}
			if message(t, english) == message(t, spanish) {
				t.Errorf("in both languages: %s", message(t, english))
			}
			got := meet(t, server, in, map[string]string{"Accept": "application/problem+json"})
			var details ProblemDetails
			if err := json.Unmarshal(got.body, &details); err != nil || got.status != entry.Status || got.header.Get("Content-Type") != "application/problem+json" ||
				details.Code != entry.Code || details.Status != entry.Status || details.Title != entry.English || details.Retryable != entry.Retryable || !strings.HasSuffix(details.Type, "#"+entry.Code) {
				t.Errorf("%v: %d %s", err, got.status, got.body)
			}
		})
	}
}

// met is what came over the wire.
type met struct {
	status int
	header http.Header
	body   []byte
}

func meet(t *testing.T, server *httptest.Server, in request, more map[string]string) met {
	t.Helper()
	address, err := url.Parse(server.URL + in.path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), in.method, address.String(), strings.NewReader(in.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = in.host
	if r.Host == "" {
		r.Host = "nido.test:8080"
	}
	if in.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if in.key != "" {
		r.Header.Set("Authorization", "Bearer "+in.key)
	}
	for _, headers := range []map[string]string{in.header, more} {
		for name, value := range headers {
			r.Header.Set(name, value)
		}
	}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return met{answer.StatusCode, answer.Header, body}
}

func message(t *testing.T, got met) string {
	t.Helper()
	var body ErrorEnvelope
	if err := json.Unmarshal(got.body, &body); err != nil {
		t.Fatal(err)
	}
	return body.Error.Message
}

func TestTheLogHasRequestsWhoseClientsWentAway(t *testing.T) {
	w := newWorld(t)
	in := answering(commands.ErrClientGone)(w)
	r := httptest.NewRequest(in.method, in.path, strings.NewReader(in.body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+in.key)
	w.server.ServeHTTP(httptest.NewRecorder(), r) // to whoever is not there any more
	if last := w.records[len(w.records)-1]; last.Status != 499 || last.ErrorCode != "request_cancelled" {
		t.Errorf("%+v", last)
	}
}
