package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nidohq/nido/projections"
)

// asked is a request with an exchange, as every parser of the API has one.
func asked(account string) *http.Request {
	r := withExchange(httptest.NewRequest(http.MethodGet, "/api/agents?limit=3", nil), &exchange{})
	exchangeOf(r).caller.Account = account
	return r
}

// A cursor comes back from whoever has it: it is one of this list, or refused.
func FuzzCursor(f *testing.F) {
	place := projections.Cursor{ID: "agt_1"}
	ours, err := writeCursor(asked("acc_1"), &place)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{*ours, "", "bnVsbA", "e30", "eyJmIjpudWxsLCJwIjpudWxsfQ", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, err := readCursor[projections.Cursor](asked("acc_1"), &text)
		if err != nil {
			if p := explain(context.Background(), err); p.Code != "invalid_request" || p.Field != "cursor" {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if _, err := writeCursor(asked("acc_1"), found); err != nil {
			t.Errorf("%q names a place that cannot be written: %v", text, err)
		}
		if _, err := readCursor[projections.Cursor](asked("acc_2"), &text); err == nil {
			t.Errorf("%q opens another account's list", text)
		}
	})
}

// What Last-Event-ID says is a place in this turn's text, its end, or refused.
func FuzzLastEventID(f *testing.F) {
	for _, text := range []string{"turn_1:0", "turn_1:end", "turn_1:-1", "turn_1:99999999999999999999", "turn_1:+1", "turn_2:1", "turn_1:1:1", "", ":"} {
		f.Add(text, "Núñez 👋🏽")
	}
	f.Fuzz(func(t *testing.T, last, text string) {
		from, over, err := lastSeen("turn_1", &last)
		if err != nil || over {
			return
		}
		if from < 0 || !strings.HasPrefix(last, "turn_1:") {
			t.Fatalf("%q is the place %d", last, from)
		}
		if rest := behind(text, from); !strings.HasSuffix(text, rest) || utf8.ValidString(text) && !utf8.ValidString(rest) {
			t.Errorf("behind %d of %q comes %q", from, text, rest)
		}
	})
}

// A body is read as encoding/json reads it, or refused with a problem of the caller's.
func FuzzBody(f *testing.F) {
	for _, body := range []string{`{"a":[1,{"b":null}],"c":"\ud83d\ude00"}`, `{"a":1,"a":2}`, `[[[`, `{"a"}`, `1e400`, "\xff", `{"\u0061":1,"a":2}`, `{} {}`, ``, `"`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		value, err := decodeAny(body)
		if err != nil {
			if p := explain(context.Background(), err); p.Code != "invalid_request" {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		written, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var theirs, ours any
		if json.Unmarshal(body, &theirs) == nil && (json.Unmarshal(written, &ours) != nil || !reflect.DeepEqual(ours, theirs)) {
			t.Errorf("%q is read as %s", body, written)
		}
	})
}

// What the document allows can be decoded, and is either a turn or the caller's mistake.
func FuzzCompletionRequest(f *testing.F) {
	for _, body := range []string{
		`{"model":"ventas","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hello!"}]}],"stop":["a"],"metadata":{"conversation_id":"c"}}`,
		`{"messages":[{"role":"user","content":"a"}],"Messages":1,"stop":"x","stream":null,"stream_options":{"include_usage":true},"max_tokens":5,"temperature":0.5,"n":1,"user":"u"}`,
		`{"messages":[{"role":"tool"},{"role":"assistant","content":null}]}`, `{"messages":[{"role":"user","content":[1]}]}`, `{"messages":[],"max_tokens":1e30}`,
		`{"messages":[{"role":"user","content":"a","content":2}]}`, `{"messages":[{"role":"user","content":[[]]}],"max_tokens":1.0}`,
	} {
		f.Add([]byte(body))
	}
	doc, err := loadDocument(document)
	if err != nil {
		f.Fatal(err)
	}
	ops, err := operations(doc)
	if err != nil {
		f.Fatal(err)
	}
	op := ops["POST /openai/v1/chat/completions"]
	f.Fuzz(func(t *testing.T, body []byte) {
		if validateBody(op, body) != nil {
			return
		}
		in, err := decode[CompletionRequest](&exchange{body: body})
		if err == nil {
			_, err = in.turn()
		}
		if err != nil {
			if p := explain(context.Background(), err); p.Code != "invalid_request" {
				t.Errorf("%s: %v", body, err)
			}
			return
		}
		if tokens := or(in.MaxTokens, 1); tokens < 1 || or(in.Temperature, 0) < 0 || or(in.Temperature, 0) > 2 {
			t.Errorf("%s was not checked", body)
		}
	})
}

// Whatever clients write into the headers that proxies write, only an address or nothing comes out, and never a client's own
// word where the proxy behind it has said another.
func FuzzForwarded(f *testing.F) {
	for _, line := range []string{"for=192.0.2.1", `for="[2001:db8::1]:80";proto=http, for=_x`, "for=\"a", ",", "for=;for=", "203.0.113.7", "\xff", `for="\"`} {
		f.Add(line, line)
	}
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, older, newer string) {
		r := httptest.NewRequest(http.MethodGet, "/api/me", nil)
		r.RemoteAddr = "10.0.0.1:5000"
		r.Header["X-Forwarded-For"] = []string{older, "198.51.100.9"}
		if got := proxies.client(r); got != netip.MustParseAddr("198.51.100.9") {
			t.Errorf("with %q in front, the client is %v", older, got)
		}
		r.Header = http.Header{"Forwarded": {newer, "for=198.51.100.9"}}
		if got := proxies.client(r); got != netip.MustParseAddr("198.51.100.9") {
			t.Errorf("with %q in front, the client is %v", newer, got)
		}
	})
}

// What clients send along is kept only where it can be kept, and bounded.
func FuzzSentAlong(f *testing.F) {
	for _, text := range []string{"curl/8", "a\x00b", "\xff", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "es;q=0.9, en;q=nan", "x" + strings.Repeat("é", 200)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if kept := short(text); len(kept) > 256 || !printable(kept) {
			t.Errorf("%q is kept as %q", text, kept)
		}
		if trace := traceparent(http.Header{"Traceparent": {text}}); trace != "" && trace != text {
			t.Errorf("%q became %q", text, trace)
		}
	})
}
