package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

var inSpanish = map[string]string{"Accept-Language": "es"}

func TestARefusalSaysWhatIsWrongInBothLanguages(t *testing.T) {
	w := newWorld(t)
	key, chat, models := w.key(adminScopes), "/api/v2/agent/agt_1/chat", "/openai/v1/chat/completions"
	for _, c := range []struct {
		in               request
		status           int
		english, spanish string
	}{
		{request{method: "POST", path: chat, body: `["a"]`}, 400, "The body must be of type object.", "El cuerpo debe ser de tipo object."},
		{
			request{method: "POST", path: chat, body: `{"message":"a","query":"b"}`}, 400,
			"The body must have exactly one of: message, query.", "El cuerpo debe tener exactamente uno de: message, query.",
		},
		{
			request{method: "POST", path: chat, body: `{"message":"a","conversation_id":"b"}`}, 400,
			`There is no field "conversation_id" here. The fields are: conversationId, message, metadata, onBusy, onDisconnect, query, streaming.`,
			`No existe el campo "conversation_id" aquí. Los campos son: conversationId, message, metadata, onBusy, onDisconnect, query, streaming.`,
		},
		{
			request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m","rateLimit":{"perHour":1}}`}, 400,
			`There is no field "rateLimit.perHour" here. The fields are: perDay, perMinute.`, `No existe el campo "rateLimit.perHour" aquí. Los campos son: perDay, perMinute.`,
		},
		{
			request{method: "POST", path: models, body: `{"model":"agt_1","Stream":true,"messages":[{"role":"user","content":"a"}]}`}, 400,
			`There is no field "Stream" here: it is written "stream".`, `No existe el campo "Stream" aquí: se escribe "stream".`,
		},
		{
			request{method: "POST", path: chat, body: `{"query":"a","conversationId":"no spaces"}`}, 400,
			"conversationId must have 1 to 128 characters out of A-Z, a-z, 0-9 and . _ : -.", "conversationId debe tener de 1 a 128 caracteres de A-Z, a-z, 0-9 y . _ : -.",
		},
		{request{method: "POST", path: "/api/keys", body: `{"name":"","scopes":["chat"]}`}, 400, "name must not be empty.", "name no puede estar vacío."},
		{request{method: "POST", path: "/api/keys", body: `{"name":"a","scopes":[]}`}, 400, "scopes must not be empty.", "scopes no puede estar vacío."},
		{
			request{method: "POST", path: "/api/keys", body: `{"name":"a","scopes":["chat"],"expiresAt":"tomorrow"}`}, 400,
			"expiresAt must be a time such as 2026-03-14T15:09:26Z (RFC 3339).", "expiresAt debe ser una fecha y hora como 2026-03-14T15:09:26Z (RFC 3339).",
		},
		{
			request{method: "POST", path: "/api/keys/key_1/rotate", body: `{"graceSeconds":2592001}`}, 400,
			"graceSeconds must be at most 2592000.", "graceSeconds debe ser como máximo 2592000.",
		},
		{request{method: "GET", path: "/api/keys?limit=ten"}, 400, "limit must be of type integer.", "limit debe ser de tipo integer."},
		{request{method: "GET", path: "/api/keys?limit=1&limit=2"}, 400, "limit is there twice.", "limit está dos veces."},
		{
			request{method: "PATCH", path: "/api/accounts/acc_2", body: `{"limits":{"perDay":1e3}}`}, 400,
			"limits.perDay must be an integer in plain digits.", "limits.perDay debe ser un número entero escrito solo con cifras.",
		},
		{
			request{method: "GET", path: "/api/keys?page=2"}, 400,
			`There is no parameter "page" here. The parameters are: cursor, limit.`, `No existe el parámetro "page" aquí. Los parámetros son: cursor, limit.`,
		},
		{request{method: "GET", path: "/api/me?verbose=1"}, 400, `There is no parameter "verbose": this route has none.`, `No existe el parámetro "verbose": esta ruta no tiene ninguno.`},
		{
			request{method: "POST", path: chat, body: `{"query":"a"}`, header: map[string]string{"Content-Type": "application/json; charset=latin1"}}, 415,
			"The body must be in UTF-8.", "El cuerpo debe estar en UTF-8.",
		},
		{
			request{method: "POST", path: chat, body: `{"query":"a"}`, header: map[string]string{"Content-Encoding": "gzip"}}, 415,
			"The body must not be compressed.", "El cuerpo no debe estar comprimido.",
		},
		{
			request{method: "POST", path: models, body: `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}]}`}, 404,
			"There is no agent with this slug or id. model names an agent here; GET /openai/v1/models lists them.",
			"No existe un agente con este slug o id. Aquí model nombra un agente; GET /openai/v1/models los lista.",
		},
		{
			request{method: "GET", path: "/api/me", key: w.key(adminScopes, func(c *projections.Caller) { c.IPAllow = []string{"203.0.113.0/24"} })}, 403,
			"The key may not be used from 192.0.2.1.", "La clave no puede usarse desde 192.0.2.1.",
		},
		{
			request{method: "GET", path: "/api/keys", key: w.key([]apikey.Scope{apikey.Chat})}, 403,
			"The key lacks the scope keys:read, which this needs.", "A la clave le falta el permiso keys:read, que esto necesita.",
		},
		{
			request{method: "GET", path: "/api/me", key: "sk-proj-1"}, 401,
			"This is not a key of ours: its form or its checksum is wrong.", "Esta clave no es nuestra: su forma o su suma de verificación no son correctas.",
		},
	} {
		if c.in.key == "" {
			c.in.key = key
		}
		english := w.do(c.in)
		header := map[string]string{"Accept-Language": "es"}
		for name, value := range c.in.header {
			header[name] = value
		}
		c.in.header = header
		spanish := w.do(c.in)
		if got := messageOf(t, english); english.Code != c.status || got != c.english {
			t.Errorf("%s %s %s: %d %q", c.in.method, c.in.path, c.in.body, english.Code, got)
		}
		if got := messageOf(t, spanish); spanish.Code != c.status || got != c.spanish {
			t.Errorf("%s %s %s: %d %q", c.in.method, c.in.path, c.in.body, spanish.Code, got)
		}
	}
}

// What a decision refuses is told in its own words in both languages, and as a sentence.
func TestADecisionsRefusalIsToldInBothLanguages(t *testing.T) {
	w := newWorld(t)
	in := request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: w.key(adminScopes)}
	for _, c := range []struct {
		refusal          *domain.Refusal
		english, spanish string
	}{
		{
			domain.RefuseField("slug", "slug_taken", "the slug %q is reserved", "el slug %q está reservado", "www"),
			`The slug "www" is reserved.`, `El slug "www" está reservado.`,
		},
		{domain.RefuseField("name", "invalid_request", "name must not be empty", "name no puede estar vacío"), "name must not be empty.", "name no puede estar vacío."},
		{domain.Refuse("conversation_busy", "ñ is the first", "última"), "Ñ is the first.", "Última."},
	} {
		w.fail, in.header = c.refusal, nil
		if got := messageOf(t, w.do(in)); got != c.english {
			t.Errorf("%q", got)
		}
		in.header = inSpanish
		if got := messageOf(t, w.do(in)); got != c.spanish {
			t.Errorf("%q", got)
		}
	}
}

func TestTwoKeysInOneRequestAreNone(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/api/me", "/api/v1/turns/turn_1/events"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "nido.test:8080"
		r.Header["Authorization"] = []string{"Bearer " + w.key(accountScopes), "Bearer " + w.key(accountScopes)}
		answer := httptest.NewRecorder()
		w.server.ServeHTTP(answer, r)
		if body := w.refused(answer, 400, "invalid_request"); body.Param == nil || *body.Param != "Authorization" || body.Message != "Authorization is there twice." {
			t.Errorf("%s: %+v", path, body)
		}
	}
}

func TestEveryPatternOfTheDocumentHasWords(t *testing.T) {
	found := regexp.MustCompile(`pattern: '([^']+)'`).FindAllStringSubmatch(string(document), -1)
	if len(found) < 5 {
		t.Fatalf("%v", found)
	}
	for _, match := range found {
		if words := patterns[match[1]]; words[0] == "" || words[1] == "" {
			t.Errorf("%s has none", match[1])
		}
	}
}

func TestWhoAsksTheWrongHostIsToldTheRightOne(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ method, host, path, english, spanish string }{
		{
			"POST", "", "/api/v1/chat",
			"This route is served on an agent's own host only; the agent's endpoint names it. Here, chat by /api/v2/agent/{agentId}/chat.",
			"Esta ruta existe solo en el host propio de un agente; su endpoint lo nombra. Aquí se conversa por /api/v2/agent/{agentId}/chat.",
		},
		{
			"GET", "", "/api/v1/chat", // by another method, too
			"This route is served on an agent's own host only; the agent's endpoint names it. Here, chat by /api/v2/agent/{agentId}/chat.",
			"Esta ruta existe solo en el host propio de un agente; su endpoint lo nombra. Aquí se conversa por /api/v2/agent/{agentId}/chat.",
		},
		{
			"POST", "", "/v1/chat/completions",
			"There is no such route here. OpenAI's clients have the base URL http://nido.test:8080/openai/v1, or /v1 on an agent's own host.",
			"No existe esa ruta aquí. Para OpenAI la URL base es http://nido.test:8080/openai/v1, o /v1 en el host propio de un agente.",
		},
		{
			"GET", "ventas.nido.test", "/api/agents",
			"This route is not served on an agent's host, but at http://nido.test:8080.", "Esta ruta no existe en el host de un agente, sino en http://nido.test:8080.",
		},
		{"GET", "", "/api/nothing", "There is no such route.", "No existe esa ruta."},
		{"GET", "ventas.nido.test", "/api/nothing", "There is no such route.", "No existe esa ruta."},
	} {
		in := request{method: c.method, path: c.path, host: c.host}
		if body := w.refused(w.do(in), 404, "not_found"); body.Message != c.english {
			t.Errorf("%s %s%s: %q", c.method, c.host, c.path, body.Message)
		}
		in.header = inSpanish
		if body := w.refused(w.do(in), 404, "not_found"); body.Message != c.spanish {
			t.Errorf("%s %s%s: %q", c.method, c.host, c.path, body.Message)
		}
	}
}

// OpenAI's clients sleep, inside the call, for as long as Retry-After-Ms says: a minute is what they are there for, the
// seventeen hours until midnight are a call that hangs.
func TestOpenAIsClientsAreNotSentToSleepUntilMidnight(t *testing.T) {
	w := newWorld(t)
	for wait, again := range map[time.Duration]string{61 * time.Second: "true", 17 * time.Hour: "false"} {
		w.verdict = func(request quota.Request) quota.Verdict {
			return quota.Verdict{Standings: []quota.Standing{{Rule: request.Rules[0], Reset: wait}}, Blocking: request.Rules[0], RetryAfter: wait}
		}
		answer := w.do(request{method: "POST", path: "/openai/v1/chat/completions", body: `{"model":"agt_1","messages":[{"role":"user","content":"a"}]}`, key: w.key(accountScopes)})
		if body := w.refused(answer, 429, "rate_limited"); !body.Retryable || answer.Header().Get("X-Should-Retry") != again || answer.Header().Get("Retry-After") == "" {
			t.Errorf("%v: %v %+v", wait, answer.Header(), body)
		}
	}
}

func messageOf(t *testing.T, answer *httptest.ResponseRecorder) string {
	t.Helper()
	var envelope ErrorEnvelope
	if err := json.Unmarshal(answer.Body.Bytes(), &envelope); err != nil {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	return envelope.Error.Message
}

// The document has no such schema yet; one that comes must not be told of in another one's words.
func TestLowerBoundsAreToldInTheirOwnWords(t *testing.T) {
	for field, wanted := range map[string]struct {
		schema openapi3.Schema
		words  string
	}{
		"minLength":     {openapi3.Schema{MinLength: 2}, "must have at least 2 characters"},
		"minItems":      {openapi3.Schema{MinItems: 3}, "must have at least 3 items"},
		"minProperties": {openapi3.Schema{MinProps: 4}, "must name at least 4 fields"},
	} {
		if english, _ := describe(&openapi3.SchemaError{SchemaField: field, Schema: &wanted.schema}); english != wanted.words {
			t.Errorf("%s: %s", field, english)
		}
	}
}
