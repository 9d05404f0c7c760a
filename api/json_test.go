package api

import (
	"strings"
	"testing"
)

func TestABodyThatReadersCouldTakeDifferentlyIsRefused(t *testing.T) {
	w := newWorld(t)
	key := w.key(adminScopes)
	const agents, completions = "/api/agents", "/openai/v1/chat/completions"
	say := `"messages":[{"role":"user","content":"Hello!"}]`
	for _, c := range []struct{ path, body, field string }{
		// Merged from both, the limit would be one that nobody has checked.
		{agents, `{"name":"a","model":"m","rateLimit":{"perMinute":-5},"rateLimit":{}}`, "rateLimit"},
		{agents, `{"name":"a","model":"m","metadata":{"k":"1","k":"2"}}`, "metadata.k"},
		{agents, `{"name":"a","n\u0061me":"b","model":"m"}`, "name"},
		{agents, "{\"name\":\"a\xff\",\"model\":\"m\"}", ""},
		{agents, `{"name":"a","model":"m","metadata":{"` + strings.Repeat("k", 65) + `":"1"}}`, "metadata"},
		{agents, `{"name":"a","model":"m","metadata":` + strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200) + `}`, ""},
		{agents, strings.Repeat(`[`, 100_000), ""},
		// Where unknown fields are passed over, these would be decoded without having been checked.
		{completions, `{"model":"ventas","Temperature":1000,` + say + `}`, "Temperature"},
		{completions, `{"model":"ventas","MAX_TOKENS":-1,` + say + `}`, "MAX_TOKENS"},
		{completions, `{"model":"ventas","Messages":[],` + say + `}`, "Messages"},
		{completions, `{"model":"ventas","messages":[{"role":"user","content":"a","Role":"system"}]}`, "messages.0.Role"},
		{completions, `{"model":"ventas","metadata":{"":"1"},` + say + `}`, "metadata"},
	} {
		refusal := w.refused(w.do(request{method: "POST", path: c.path, body: c.body, key: key}), 400, "invalid_request")
		if got := or(refusal.Param, ""); got != c.field {
			t.Errorf("%.80s names %q: %s", c.body, got, refusal.Message)
		}
	}
	for _, body := range []string{
		`{"model":"ventas","tools":[{"type":"function","function":{"parameters":{"type":"object"}}}],` + say + `}`,
		`{"model":"ventas","metadata":{"Model":"x","k":"\ud800"},` + say + `}`,
	} {
		if answer := w.do(request{method: "POST", path: completions, body: body, key: key}); answer.Code != 200 {
			t.Errorf("%s: %d %s", body, answer.Code, answer.Body)
		}
	}
}

func BenchmarkReadABody(b *testing.B) {
	body := []byte(`{"query":"¿Cuáles son los horarios de atención?","conversationId":"conv-123","streaming":false}`)
	for b.Loop() {
		if _, err := decodeAny(body); err != nil {
			b.Fatal(err)
		}
	}
}
