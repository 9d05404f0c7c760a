package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
)

func markedContract(t *testing.T) contract {
	t.Helper()
	contract, err := readContract(marked(t, "2026-01-15T00:00:00Z", "2026-06-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	return contract
}

// marked is our document with marks on a route, a parameter and fields that are there: no version of ours has them.
func marked(t *testing.T, since, sunset string) []byte {
	t.Helper()
	text := string(document)
	replace := func(before, after string) {
		t.Helper()
		if !strings.Contains(text, before) {
			t.Fatalf("openapi.yaml has no %q", before)
		}
		text = strings.Replace(text, before, after, 1)
	}
	replace("      operationId: getKey\n", "      operationId: getKey\n      deprecated: true\n      x-deprecated-since: '"+since+"'\n      x-sunset: '"+sunset+"'\n      x-deprecation-link: /errors\n")
	replace("        environment: {type: string, enum: [live, test], default: live}\n",
		"        environment: {type: string, enum: [live, test], default: live, deprecated: true, x-deprecated-since: '2026-02-01T00:00:00Z', x-sunset: '2026-09-01T00:00:00Z', x-deprecation-link: 'https://docs.example/keys'}\n")
	replace("        perMinute: {type: integer,", "        perMinute: {deprecated: true, x-deprecated-since: '2026-01-01T00:00:00Z', x-sunset: '2026-08-01T00:00:00Z', type: integer,")
	replace("    Cursor:\n", "    Cursor:\n      deprecated: true\n      x-deprecated-since: '2026-03-01T00:00:00Z'\n      x-sunset: '2026-07-01T00:00:00Z'\n")
	return []byte(text)
}

func TestWhatWillBeGoneIsAnnounced(t *testing.T) {
	w := newWorldOf(t, markedContract(t))
	key := w.key(adminScopes)
	for sentence, c := range map[string]struct {
		in             request
		since          int64 // Unix time of Deprecation, 0 for none
		sunset, linked string
		item           string
	}{
		"a route": {request{method: "GET", path: "/api/keys/key_abcdefghijkl"}, 1768435200,
			"Mon, 01 Jun 2026 00:00:00 GMT", `<http://nido.test:8080/errors>; rel="deprecation"`, "GET /api/keys/{id}"},
		"a route that refuses": {request{method: "GET", path: "/api/keys/key_none"}, 1768435200,
			"Mon, 01 Jun 2026 00:00:00 GMT", `<http://nido.test:8080/errors>; rel="deprecation"`, "GET /api/keys/{id}"},
		"a field": {request{method: "POST", path: "/api/keys", body: `{"name":"a","scopes":["chat"],"environment":"live"}`}, 1769904000,
			"Tue, 01 Sep 2026 00:00:00 GMT", `<https://docs.example/keys>; rel="deprecation"`, "POST /api/keys environment"},
		"a field within another": {request{method: "PATCH", path: "/api/accounts/acc_2", body: `{"limits":{"perMinute":5}}`}, 1767225600,
			"Sat, 01 Aug 2026 00:00:00 GMT", `<http://nido.test:8080/openapi.json>; rel="deprecation"`, "PATCH /api/accounts/{id} limits.perMinute"},
		"a parameter": {request{method: "GET", path: "/api/agents?cursor=x"}, 1772323200,
			"Wed, 01 Jul 2026 00:00:00 GMT", `<http://nido.test:8080/openapi.json>; rel="deprecation"`, "GET /api/agents cursor"},
		"the same route without the field":     {request{method: "POST", path: "/api/keys", body: `{"name":"a","scopes":["chat"]}`}, 0, "", "", ""},
		"the same route without the parameter": {request{method: "GET", path: "/api/agents"}, 0, "", "", ""},
		"another method of the route":          {request{method: "DELETE", path: "/api/keys/key_abcdefghijkl"}, 0, "", "", ""},
	} {
		clear(w.deprecated)
		c.in.key = key
		answer := w.do(c.in)
		since, err := httpsfv.UnmarshalItem(answer.Header().Values("Deprecation"))
		if c.since == 0 {
			if answer.Header().Get("Deprecation") != "" || answer.Header().Get("Sunset") != "" || len(w.deprecated) != 0 {
				t.Errorf("%s: %v %v", sentence, answer.Header(), w.deprecated)
			}
			continue
		}
		if at, _ := since.Value.(time.Time); err != nil || at.Unix() != c.since {
			t.Errorf("%s: Deprecation %q: %v", sentence, answer.Header().Get("Deprecation"), err)
		}
		if _, err := http.ParseTime(answer.Header().Get("Sunset")); err != nil || answer.Header().Get("Sunset") != c.sunset || answer.Header().Get("Link") != c.linked {
			t.Errorf("%s: Sunset %q, Link %q", sentence, answer.Header().Get("Sunset"), answer.Header().Values("Link"))
		}
		if len(w.deprecated) != 1 || !strings.HasSuffix(first(w.deprecated), " "+c.item) {
			t.Errorf("%s: counted %v", sentence, w.deprecated)
		}
		if answer := w.do(request{method: c.in.method, path: c.in.path, body: c.in.body}); answer.Code != 401 || len(w.deprecated) != 1 {
			t.Errorf("%s: without a key %d, counted %v", sentence, answer.Code, w.deprecated)
		}
	}
}

func first(counts map[string]int64) (name string) {
	for name = range counts {
		break
	}
	return name
}

func TestAKeyLearnsWhatItUsesThatWillBeGone(t *testing.T) {
	w := newWorldOf(t, markedContract(t))
	key := w.key(adminScopes)
	deprecations := func() []MeDeprecation {
		t.Helper()
		var me Me
		if err := json.Unmarshal(w.do(request{method: "GET", path: "/api/me", key: key}).Body.Bytes(), &me); err != nil {
			t.Fatal(err)
		}
		return me.Deprecations
	}
	if got := deprecations(); len(got) != 0 { // the store knows one that the document has not
		t.Errorf("%+v", got)
	}
	for range 3 {
		w.do(request{method: "POST", path: "/api/keys", body: `{"name":"a","scopes":["chat"],"environment":"live"}`, key: key})
	}
	got := deprecations()
	if len(got) != 1 || got[0].Method != http.MethodPost || got[0].Route != "/api/keys" || got[0].Field == nil || *got[0].Field != "environment" ||
		got[0].UsesOfThisKey != 3 || got[0].Uses != 8 || got[0].Documentation != "https://docs.example/keys" || got[0].LastUsedByThisKeyAt == nil {
		t.Errorf("%+v", got)
	}
}

func TestAMarkThatKeepsNoPromiseRefusesToStart(t *testing.T) {
	for sentence, document := range map[string][]byte{
		"too little time":    marked(t, "2026-01-15T00:00:00Z", "2026-04-14T23:59:59Z"),
		"no beginning":       marked(t, "", "2026-06-01T00:00:00Z"),
		"no end":             marked(t, "2026-01-15T00:00:00Z", ""),
		"an end that is not": marked(t, "2026-01-15T00:00:00Z", "soon"),
	} {
		doc, err := loadDocument(document)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := operations(doc); err == nil || !strings.Contains(err.Error(), "GET /api/keys/{id}") {
			t.Errorf("%s: %v", sentence, err)
		}
	}
}
