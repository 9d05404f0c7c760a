package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

// sample is a call that every operation understands.
func sample(op *operation, key string) request {
	ids := map[string]string{"agents": "agt_1", "keys": "key_abcdefghijkl", "accounts": "acc_2", "conversations": "conv-123", "erasures": "era_1"}
	path := strings.ReplaceAll(op.route, "{id}", ids[strings.Split(op.route, "/")[min(2, strings.Count(op.route, "/"))]])
	path = strings.NewReplacer("{agentId}", "agt_1", "{version}", "1", "{requestId}", "req_1", "{turnId}", "turn_1", "{model}", "ventas").Replace(path)
	in := request{method: op.method, path: path, key: key}
	if !op.onManagement {
		in.host = "ventas.nido.test:8080"
	}
	in.body = map[string]string{
		"createAgent": `{"name":"Agente de Ventas","instructions":"Sos un asistente de ventas amable...","model":"gpt-4o-mini"}`, "configureAgent": `{"name":"Otro","temperature":null}`,
		"openAccount": `{"name":"Sol","plan":"pro"}`, "changeAccount": `{"plan":"free"}`, "issueKey": `{"name":"web","scopes":["chat"]}`,
		"describeKey": `{"name":"otra web"}`,
		"chatOnHost":  `{"message":"Hello!"}`, "chatStreamOnHost": `{"message":"Hello!"}`,
		"chatCompletionOnHost": `{"messages":[{"role":"user","content":"Hello!"}],"tools":[]}`,
		"chatCompletion":       `{"model":"ventas","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hello!"}]}]}`,
		"chatByID":             `{"query":"¿Cuáles son los horarios de atención?","conversationId":"conv-123","streaming":false}`,
	}[op.id]
	return in
}

func TestEveryOperationOfTheDocumentAnswersAsItSays(t *testing.T) {
	w := newWorld(t)
	for name, op := range w.ops {
		t.Run(name, func(t *testing.T) {
			w.t = t
			if op.scope == "" && !op.open && op.id != "getMe" {
				t.Error("it needs no scope")
			}
			if answer := w.do(sample(op, w.key(adminScopes))); answer.Code >= 300 {
				t.Errorf("it answers %d %s", answer.Code, answer.Body)
			}
			if op.open {
				return
			}
			answer := w.do(sample(op, ""))
			w.refused(answer, http.StatusUnauthorized, "missing_api_key")
			if answer.Header().Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			if op.scope == "" {
				return
			}
			refusal := w.refused(w.do(sample(op, w.key([]apikey.Scope{apikey.WebhooksRead}))), http.StatusForbidden, "missing_scope")
			if refusal.Details["scope"] != string(op.scope) {
				t.Errorf("403 names the scope %v", refusal.Details)
			}
		})
	}
}

func TestUnknownRoutesAndMethodsGetTheEnvelope(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	w.refused(w.do(request{method: "GET", path: "/nowhere", key: key}), 404, "not_found")
	w.refused(w.do(request{method: "GET", path: "//api//agents", key: key}), 404, "not_found")
	w.refused(w.do(request{method: "POST", path: "/api/v1/chat", key: key, body: `{"message":"x"}`}), 404, "not_found")
	w.refused(w.do(request{method: "GET", path: "/api/agents", host: "ventas.nido.test", key: key}), 404, "not_found")
	w.refused(w.do(request{method: "GET", path: "/api/me", host: "a.b.nido.test", key: key}), 404, "host_not_found")
	w.refused(w.do(request{method: "POST", path: "/api/v1/chat", host: "nobody.nido.test", key: key, body: `{"message":"x"}`}), 404, "host_not_found")
	w.refused(w.do(request{method: "GET", path: "/api/agents/%00", key: key}), 404, "not_found")

	answer := w.do(request{method: "PUT", path: "/api/agents", key: key})
	w.refused(answer, 405, "method_not_allowed")
	if allow := answer.Header().Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("Allow is %q", allow)
	}
	for _, host := range []string{"127.0.0.1:8080", "[::1]:8080", "nido.test", "NIDO.test.", "api.nido.test", "anything.example"} {
		if answer := w.do(request{method: "GET", path: "/api/me", host: host, key: key}); answer.Code != 200 {
			t.Errorf("the management API on %s answers %d", host, answer.Code)
		}
	}
}

func TestBodiesAreBoundedAndJSON(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	large := `{"name":"` + strings.Repeat("x", maxBodyBytes) + `","model":"m"}`
	w.refused(w.do(request{method: "POST", path: "/api/agents", key: key, body: large}), 413, "payload_too_large")
	w.refused(w.do(request{method: "POST", path: "/api/agents", key: key, body: large, chunked: true}), 413, "payload_too_large")
	for _, header := range []map[string]string{
		{"Content-Type": "text/plain"}, {"Content-Type": ""}, {"Content-Type": "application/json; charset=latin1"}, {"Content-Encoding": "gzip"},
	} {
		w.refused(w.do(request{method: "POST", path: "/api/agents", key: key, body: `{}`, header: header}), 415, "unsupported_media_type")
	}
	for _, body := range []string{"", "  ", `{`, `{"name":"a","model":"m"} {}`, `nonsense`} {
		w.refused(w.do(request{method: "POST", path: "/api/agents", key: key, body: body}), 400, "invalid_request")
	}
}

func TestAnInvalidRequestNamesTheField(t *testing.T) {
	w := newWorld(t)
	key := w.key(adminScopes)
	chat, agents := "/api/v2/agent/agt_1/chat", "/api/agents"
	for _, c := range []struct{ method, path, body, field string }{
		{"POST", agents, `{"name":"a","model":"m","colour":"red"}`, "colour"},
		{"POST", agents, `{"name":"a","model":"m","Name":"b"}`, "Name"},
		{"POST", agents, `{"name":"a","model":"m","rateLimit":{"perHour":1}}`, "rateLimit.perHour"},
		{"POST", agents, `{"name":"a"}`, "model"},
		{"POST", agents, `{"name":1,"model":"m"}`, "name"},
		{"POST", agents, `{"name":"a","model":"m","temperature":3}`, "temperature"},
		{"POST", agents, `{"name":"a","model":"m","slug":"Not A Slug"}`, "slug"},
		{"POST", agents, `{"name":"a\u0000b","model":"m"}`, "name"},
		{"POST", agents, `{"name":"a","model":"m","metadata":{"k":1}}`, "metadata.k"},
		{"POST", "/api/keys", `{"name":"a","scopes":["everything"]}`, "scopes.0"},
		{"POST", "/api/keys", `{"name":"a","scopes":["chat"],"expiresAt":"tomorrow"}`, "expiresAt"},
		{"PATCH", "/api/accounts/acc_2", `{"limits":{"perDay":1.5}}`, "limits.perDay"},
		{"POST", chat, `{"message":"a","query":"b"}`, "message"},
		{"POST", chat, `{"conversationId":"c"}`, "message"},
		{"POST", chat, `{"query":"   "}`, "query"},
		{"POST", chat, `{"query":"a","streaming":"yes"}`, "streaming"},
		{"POST", chat, `{"query":"a","onDisconnect":"stay"}`, "onDisconnect"},
		{"GET", "/api/v1/turns/turn_1/events?from=3", "", "from"},
		{"POST", chat, `{"query":"a","conversationId":"no spaces"}`, "conversationId"},
		{"POST", chat, `{"query":"a","temperature":1}`, "temperature"},
		{"GET", "/api/agents?limit=1000", "", "limit"},
		{"GET", "/api/agents?limit=ten", "", "limit"},
		{"GET", "/api/conversations?agentID=agt_1", "", "agentID"},
		{"GET", "/api/conversations?status=closed", "", "status"},
		{"GET", "/api/conversations?from=yesterday", "", "from"},
		{"GET", "/api/conversations?from=2026-06-31T00:00:00Z", "", "from"},
		{"GET", "/api/stats/conversations?to=0000-01-01T00:00:00Z", "", "to"},
		{"GET", "/api/logs?from=9999-12-31T23:59:59-12:00", "", "from"},
		{"POST", "/api/keys", `{"name":"a","scopes":["chat"],"expiresAt":"2026-02-30T00:00:00Z"}`, "expiresAt"},
		{"GET", "/api/conversations/twice", "", "agentId"},
		{"GET", "/api/logs?status=teapot", "", "status"},
		{"GET", "/api/stats/conversations?tz=Mars/Olympus", "", "tz"},
		{"GET", "/api/stats/conversations?groupBy=agent,hour", "", "groupBy"},
		{"GET", "/api/agents?cursor=nonsense", "", "cursor"},
	} {
		answer := w.do(request{method: c.method, path: c.path, body: c.body, key: key})
		refusal := w.refused(answer, 400, "invalid_request")
		if refusal.Param == nil || *refusal.Param != c.field || refusal.Details["field"] != c.field {
			t.Errorf("%s %s %s names %v: %s", c.method, c.path, c.body, refusal.Details, refusal.Message)
		}
	}
}

func TestAKeyWithAWrongChecksumIsRefusedWithoutALookUp(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	for _, wrong := range []string{key[:len(key)-1] + "!", "x" + key, "ha_live_short", strings.Replace(key, key[20:21], "-", 1)} {
		w.refused(w.do(request{method: "GET", path: "/api/me", key: wrong}), 401, "invalid_api_key")
		w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: wrong}), 401, "invalid_api_key")
	}
	if w.lookups != 0 {
		t.Errorf("%d look-ups", w.lookups)
	}
	stranger, err := apikey.Compose("live", make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(w.do(request{method: "GET", path: "/api/me", key: stranger.Reveal()}), 401, "invalid_api_key")
	// The right public id with another secret is no key.
	public := apikey.Key{PublicID: stranger.PublicID}.PublicID
	w.callers[public] = projections.Caller{PublicID: public, Hash: []byte("another key's"), Scopes: accountScopes, Account: "acc_1"}
	w.refused(w.do(request{method: "GET", path: "/api/me", key: stranger.Reveal()}), 401, "invalid_api_key")
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: stranger.Reveal()}), 401, "invalid_api_key")
}

func TestAKeyIsHeldToItsTerms(t *testing.T) {
	w := newWorld(t)
	before, after := noon.Add(-time.Second), noon.Add(time.Second)
	w.agents["agt_2"] = projections.Agent{ID: "agt_2", Account: "acc_1", Slug: "otro", Status: "paused"}
	w.agents["agt_3"] = projections.Agent{ID: "agt_3", Account: "acc_other", Slug: "ajeno", Status: "active"}
	for _, c := range []struct {
		change func(*projections.Caller)
		path   string
		status int
		code   string
	}{
		{func(c *projections.Caller) { c.RevokedAt = &before }, "", 401, "revoked_api_key"},
		{func(c *projections.Caller) { c.ExpiresAt = &noon }, "", 401, "expired_api_key"},
		{func(c *projections.Caller) { c.Suspended = true }, "", 403, "account_suspended"},
		{func(c *projections.Caller) { c.IPAllow = []string{"203.0.113.0/24"} }, "", 403, "ip_not_allowed"},
		{func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} }, "/api/agents/agt_1", 403, "agent_not_allowed"},
		{func(c *projections.Caller) {}, "/api/agents/agt_3", 404, "agent_not_found"},
	} {
		key := w.key(accountScopes, c.change)
		path := c.path
		if path == "" {
			path = "/api/agents/agt_1"
		}
		w.refused(w.do(request{method: "GET", path: path, key: key}), c.status, c.code)
		chat := "/api/v2/agent/" + strings.TrimPrefix(path, "/api/agents/") + "/chat"
		w.refused(w.do(request{method: "POST", path: chat, body: `{"query":"a"}`, key: key}), c.status, c.code)
	}
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_2/chat", body: `{"query":"a"}`, key: w.key(accountScopes)}), 409, "agent_paused")
	allowed := w.key(accountScopes, func(c *projections.Caller) {
		c.IPAllow, c.ExpiresAt = []string{"192.0.2.0/24"}, &after // httptest's own address
	})
	if answer := w.do(request{method: "GET", path: "/api/me", key: allowed}); answer.Code != 200 {
		t.Errorf("an allowed key gets %d %s", answer.Code, answer.Body)
	}
	bound := w.key(accountScopes, func(c *projections.Caller) { c.AgentIDs = []string{"agt_1", "agt_2"} })
	w.refused(w.do(request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: bound}), 403, "agent_not_allowed")
	w.refused(w.do(request{method: "GET", path: "/api/logs", key: bound}), 400, "invalid_request")
}

func TestARequestThatHasUsedAllItsTimeHasTimedOut(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), noon)
	defer cancel()
	if p := explain(ctx, fmt.Errorf("read the agents: %w", context.DeadlineExceeded)); p.Code != "timeout" {
		t.Errorf("got %s", p.Code)
	}
}

func TestErrorsOfTheWriteSideBecomeTheirStatus(t *testing.T) {
	w := newWorld(t)
	key := w.key(adminScopes)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{domain.RefuseField("slug", "slug_taken", "the slug is taken", "el slug ya está en uso"), 409, "slug_taken"},
		{domain.Refuse("a_code_that_nobody_listed", "no", "no"), 500, "internal_error"},
		{commands.ErrConflict, 409, "conflict"},
		{errors.Join(errors.New("append"), commands.ErrUnknownOutcome), 503, "unknown_outcome"},
		{errors.Join(errors.New("load"), commands.ErrUnavailable, context.DeadlineExceeded), 503, "unavailable"},
		{context.DeadlineExceeded, 503, "unavailable"}, // a store's, since the request has time left
		{io.ErrUnexpectedEOF, 503, "unavailable"},
		{errors.New("the password is hunter2"), 500, "internal_error"},
	} {
		w.fail = c.err
		answer := w.do(request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: key})
		refusal := w.refused(answer, c.status, c.code)
		if told := answer.Header().Get("Retry-After"); refusal.Retryable != (told == "1") || refusal.Retryable != (refusal.RetryAfterMs != nil && *refusal.RetryAfterMs == 1000) {
			t.Errorf("%s: retryable %v, Retry-After %q, %s", c.code, refusal.Retryable, told, answer.Body)
		}
		if strings.Contains(answer.Body.String(), "hunter2") {
			t.Error("an unknown error's text reached the caller")
		}
	}
	if !strings.Contains(w.logged.String(), "hunter2") {
		t.Error("an unknown error's text is not in the log")
	}
	w.fail, w.panics = nil, true
	w.refused(w.do(request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: key}), 500, "internal_error")
	if !strings.Contains(w.logged.String(), "a mistake in our own tables") {
		t.Error("a panic's text is not in the log")
	}
	w.fail = errors.New("clickhouse is away")
	w.refused(w.do(request{method: "GET", path: "/api/logs", key: key}), 503, "analytics_unavailable")
	w.refused(w.do(request{method: "GET", path: "/api/stats/conversations", key: key}), 503, "analytics_unavailable")
}

func TestErrorsSpeakTheCallersLanguageAndFormat(t *testing.T) {
	w := newWorld(t)
	spanish := w.do(request{method: "GET", path: "/api/me", header: map[string]string{"Accept-Language": "fr, es-AR;q=0.9, en;q=0.5"}})
	if message := w.refused(spanish, 401, "missing_api_key").Message; message != entries["missing_api_key"].Spanish {
		t.Error(message)
	}
	english := w.do(request{method: "GET", path: "/api/me", header: map[string]string{"Accept-Language": "es;q=0, de"}})
	if message := w.refused(english, 401, "missing_api_key").Message; message != entries["missing_api_key"].English {
		t.Error(message)
	}
	for accept, media := range map[string]string{
		"application/problem+json":                               "application/problem+json",
		"Application/Problem+JSON; charset=utf-8":                "application/problem+json",
		"application/json, application/problem+json":             "application/problem+json",
		"application/json;q=0.5, application/problem+json;q=0.9": "application/problem+json",
		"application/json, application/problem+json;q=0.5":       "application/json",
		"application/problem+json;q=0":                           "application/json",
		"application/problem+jsonish":                            "application/json",
		"*/*":                                                    "application/json",
		"text/event-stream":                                      "application/json",
		"":                                                       "application/json",
	} {
		answer := w.do(request{method: "GET", path: "/api/me", header: map[string]string{"Accept": accept}})
		if answer.Code != 401 || answer.Header().Get("Content-Type") != media || !strings.Contains(answer.Body.String(), `"code":"missing_api_key"`) {
			t.Errorf("%q gets %v %s", accept, answer.Header(), answer.Body)
		}
	}
}

func TestReadinessSaysWhatIsDegraded(t *testing.T) {
	w := newWorld(t)
	if answer := w.do(request{method: "GET", path: "/readyz"}); answer.Code != 200 || !strings.Contains(answer.Body.String(), `"status":"degraded"`) ||
		!strings.Contains(answer.Body.String(), `"clickhouse":{"lagEvents":42,"lagSeconds":90.5}`) {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	w.ready = false
	if answer := w.do(request{method: "GET", path: "/readyz", host: "10.0.0.7:8080"}); answer.Code != 503 {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

func TestANodeThatIsNotOpenAnswersTheOpenRoutesOnly(t *testing.T) {
	w := newWorld(t)
	w.server.config.Open = func() bool { return false }
	if answer := w.do(request{method: "GET", path: "/livez"}); answer.Code != 200 {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	w.refused(w.do(request{method: "GET", path: "/api/me", key: w.key(accountScopes)}), 503, "unavailable")
	w.refused(w.do(request{method: "POST", path: "/api/v1/chat", host: "ventas.nido.test", body: `{"message":"x"}`, key: w.key(accountScopes)}), 503, "unavailable")
	if w.lookups != 0 {
		t.Errorf("%d look-ups", w.lookups)
	}
}

func TestHeadAnswersLikeGetWithoutABody(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(w.server)
	defer server.Close()
	answer, err := http.Head(server.URL + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || !regexp.MustCompile(`^req_[0-9a-v]{26}$`).MatchString(answer.Header.Get("X-Request-Id")) {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
}

// What a change does not name is not for the API to say: it may have changed since anybody looked.
func TestAnAccountsChangeNamesWhatTheRequestNames(t *testing.T) {
	w := newWorld(t)
	key := w.key(adminScopes)
	for _, body := range []string{`{"plan":"scale"}`, `{"limits":{"perMinute":7}}`, `{"limits":{}}`} {
		if answer := w.do(request{method: "PATCH", path: "/api/accounts/acc_2", body: body, key: key}); answer.Code != 200 {
			t.Errorf("%s: %d %s", body, answer.Code, answer.Body)
		}
	}
	if len(w.plans) != 3 || w.plans[0] != (account.ChangePlan{Plan: account.Scale}) || w.plans[1].Plan != "" || *w.plans[1].Custom != (account.Limits{PerMinute: 7}) ||
		w.plans[2].Plan != "" || *w.plans[2].Custom != (account.Limits{}) {
		t.Errorf("%+v", w.plans)
	}
}
