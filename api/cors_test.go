package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestPagesOfOtherOriginsCallWhereTheyMay(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	preflight := func(origin string) http.Header {
		t.Helper()
		r := httptest.NewRequest(http.MethodOptions, "/api/v2/agent/agt_1/chat", nil)
		r.Host = "nido.test:8080"
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", http.MethodPost)
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type,idempotency-key,x-stainless-os")
		recorder := httptest.NewRecorder()
		w.server.ServeHTTP(recorder, r)
		return recorder.Header()
	}
	const shop = "https://shop.example"
	if header := preflight(shop); header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("nobody said so: %v", header)
	}
	w.server.cors = crossOrigin([]string{shop, "https://*.shop.example"})
	for origin, allowed := range map[string]bool{
		shop: true, "https://es.shop.example": true, "https://evil.example": false, "http://shop.example": false, "https://shop.example.evil.example": false, "null": false,
	} {
		header := preflight(origin)
		if got := header.Get("Access-Control-Allow-Origin") == origin; got != allowed || header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %v", origin, header)
		}
		if !allowed {
			continue
		}
		for _, name := range []string{"authorization", "idempotency-key", "x-stainless-os"} {
			if !strings.Contains(header.Get("Access-Control-Allow-Headers"), name) {
				t.Errorf("%s may not be sent: %v", name, header)
			}
		}
		if header.Get("Access-Control-Allow-Methods") == "" || header.Get("Access-Control-Allow-Credentials") != "" || header.Get("Access-Control-Max-Age") != "600" {
			t.Errorf("%s: %v", origin, header)
		}
	}
	for _, in := range []request{
		{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key},
		{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","streaming":true}`, key: key},
		{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`}, // and so do refusals, or a page could not read them
	} {
		in.header = map[string]string{"Origin": shop}
		answer := w.do(in)
		exposed := strings.Split(strings.ToLower(answer.Header().Get("Access-Control-Expose-Headers")), ", ")
		if answer.Header().Get("Access-Control-Allow-Origin") != shop || !slices.Contains(exposed, "ratelimit") || !slices.Contains(exposed, "retry-after-ms") ||
			!strings.Contains(strings.Join(answer.Header().Values("Vary"), ","), "Origin") {
			t.Errorf("%d: %v", answer.Code, answer.Header())
		}
	}
	for _, bad := range []string{"shop.example", "https://shop.example/", "https://*.*.example", "ftp://shop.example", "https://"} {
		if checkOrigins([]string{bad}) == nil {
			t.Errorf("%q passes for an origin", bad)
		}
	}
	if checkOrigins([]string{"*", shop}) == nil || checkOrigins([]string{"*"}) != nil || checkOrigins([]string{shop, "http://localhost:3000", "https://*.shop.example"}) != nil {
		t.Error("what is an origin is none, or the star does not stand alone")
	}
}
