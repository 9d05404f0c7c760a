package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestATurnIsFollowedByAHundredAtOnce(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	var leave []func()
	for range maxFollowers {
		out, err := w.server.followers.enter("turn_1")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, out)
	}
	answer := w.do(request{method: "GET", path: "/api/v1/turns/turn_1/events", key: key})
	if body := w.refused(answer, 429, "too_many_followers"); !body.Retryable || answer.Header().Get("Retry-After") == "" {
		t.Errorf("%+v %v", body, answer.Header())
	}
	w.found["turn_2"] = w.found["turn_1"]
	if answer := w.do(request{method: "GET", path: "/api/v1/turns/turn_2/events", key: key}); answer.Code != 200 {
		t.Errorf("another turn: %d", answer.Code)
	}
	leave[0]()
	for range 2 { // whoever has been told leaves
		if answer := w.do(request{method: "GET", path: "/api/v1/turns/turn_1/events", key: key}); answer.Code != 200 {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
	}
	for _, out := range leave[1:] {
		out()
	}
	if len(w.server.followers.count) != 0 {
		t.Errorf("%v", w.server.followers.count)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewUnstartedServer(w.server)
	server.Config = NewServer("", w.server, Patience{})
	server.Start()
	defer server.Close()
	get := func(path string, size int) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Large", strings.Repeat("x", size))
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer
	}
	if got := get("/livez", 31<<10); got.StatusCode != http.StatusOK {
		t.Errorf("31 KiB: %d", got.StatusCode)
	}
	for path, size := range map[string]int{"/livez": 33 << 10, "/api/me": 200 << 10, "/api/agents?cursor=" + strings.Repeat("x", 32<<10): 1} {
		if got := get(path, size); got.StatusCode != http.StatusRequestHeaderFieldsTooLarge || got.Header.Get("X-Request-Id") == "" || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%d bytes: %d %v", size, got.StatusCode, got.Header)
		}
	}
	w.refused(w.do(request{method: "GET", path: "/api/me", header: map[string]string{"X-Large": strings.Repeat("x", 33<<10)}}), 431, "headers_too_large")
	if got := get("/livez", 300<<10); got.StatusCode != http.StatusRequestHeaderFieldsTooLarge || got.Header.Get("X-Request-Id") != "" {
		t.Errorf("what net/http refuses itself: %d %v", got.StatusCode, got.Header)
	}
}
