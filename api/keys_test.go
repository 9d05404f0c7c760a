package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

func TestAnEarlierSecretOpensUntilItsGraceEnds(t *testing.T) {
	w := newWorld(t)
	rotated := func(until time.Time) string {
		return w.key(accountScopes, func(c *projections.Caller) {
			c.Hash, c.Earlier, c.Graces = []byte("the newest"), [][]byte{[]byte("an older one"), c.Hash}, []time.Time{noon.Add(-time.Hour), until}
		})
	}
	for _, in := range []request{{method: "GET", path: "/api/me"}, {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`}} {
		in.key = rotated(noon.Add(1))
		if answer := w.do(in); answer.Code != http.StatusOK {
			t.Errorf("%s: %d %s", in.path, answer.Code, answer.Body)
		}
		in.key = rotated(noon)
		w.refused(w.do(in), 401, "expired_api_key")
	}
}

func TestAKeyIsRotated(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.KeysWrite, apikey.Chat})
	answer := w.do(request{method: "POST", path: "/api/keys/key_abcdefghijkl/rotate", body: `{"graceSeconds":3600}`, key: key})
	var shown IssuedKey
	if err := json.Unmarshal(answer.Body.Bytes(), &shown); err != nil || answer.Code != 200 || shown.Key != secretKey || shown.ID != "key_abcdefghijkl" {
		t.Fatalf("%v %d %s", err, answer.Code, answer.Body)
	}
	if in := w.rotated[0]; in.Grace != time.Hour || in.Environment != "live" || in.ID != "abcdefghijkl" || len(in.Issuer.Scopes) != 2 {
		t.Errorf("%+v", in)
	}
	if last := w.records[len(w.records)-1]; strings.Contains(string(last.ResponseBody.Text), secretKey) {
		t.Error("the request log has the new secret")
	}
	w.do(request{method: "POST", path: "/api/keys/key_abcdefghijkl/rotate", key: key})
	if in := w.rotated[1]; in.Grace != 0 {
		t.Errorf("without a word about a grace: %+v", in)
	}
	w.refused(w.do(request{method: "POST", path: "/api/keys/key_none/rotate", key: key}), 404, "key_not_found")
	w.refused(w.do(request{method: "POST", path: "/api/keys/key_abcdefghijkl/rotate", body: `{"graceSeconds":-1}`, key: key}), 400, "invalid_request")
}

func TestAnEarlierSecretHandsOutNothingThatOutlivesIt(t *testing.T) {
	w := newWorld(t)
	expiry, grace := noon.Add(48*time.Hour), noon.Add(time.Hour)
	issue := func(change func(*projections.Caller)) apikey.Grant {
		t.Helper()
		key := w.key(accountScopes, func(c *projections.Caller) { c.IPAllow, c.AgentIDs = []string{"192.0.2.0/24"}, []string{"agt_1"} }, change)
		if answer := w.do(request{method: "POST", path: "/api/keys", body: `{"name":"web","scopes":["chat"]}`, key: key}); answer.Code != 201 {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
		return w.issued[len(w.issued)-1].Issuer
	}
	renewed := func(c *projections.Caller) {
		c.Hash, c.Earlier, c.Graces = []byte("the newest"), [][]byte{c.Hash}, []time.Time{grace}
	}
	if got := issue(func(*projections.Caller) {}); len(got.IPAllow) != 1 || len(got.AgentIDs) != 1 || !got.Expires.IsZero() {
		t.Errorf("%+v", got)
	}
	if got := issue(func(c *projections.Caller) { c.ExpiresAt = &expiry }); !got.Expires.Equal(expiry) {
		t.Errorf("%+v", got)
	}
	if got := issue(renewed); !got.Expires.Equal(grace) {
		t.Errorf("%+v", got)
	}
	if got := issue(func(c *projections.Caller) { c.ExpiresAt = &expiry; renewed(c) }); !got.Expires.Equal(grace) {
		t.Errorf("%+v", got)
	}
	var me Me
	key := w.key(accountScopes, renewed)
	if err := json.Unmarshal(w.do(request{method: "GET", path: "/api/me", key: key}).Body.Bytes(), &me); err != nil || me.Key.GraceUntil == nil || !time.Time(*me.Key.GraceUntil).Equal(grace) {
		t.Errorf("%v %+v", err, me.Key)
	}
}

func TestAKeyIsGivenAnotherName(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.KeysWrite})
	for body, named := range map[string]string{`{"name":"tienda"}`: "true false", `{"metadata":{"team":"sur"}}`: "false true", `{"name":"t","metadata":{}}`: "true true"} {
		answer := w.do(request{method: "PATCH", path: "/api/keys/key_abcdefghijkl", body: body, key: key})
		if answer.Code != 200 || w.described[len(w.described)-1] != named {
			t.Errorf("%s: %d %s, %v", body, answer.Code, answer.Body, w.described)
		}
	}
	for _, body := range []string{`{}`, `{"name":""}`, `{"scopes":["admin"]}`, `{"metadata":{"team":1}}`} {
		w.refused(w.do(request{method: "PATCH", path: "/api/keys/key_abcdefghijkl", body: body, key: key}), 400, "invalid_request")
	}
}

func TestOnlyAnAcceptedKeyIsUsed(t *testing.T) {
	w := newWorld(t)
	chat := func(key string) {
		w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key})
	}
	chat(w.key(accountScopes, func(c *projections.Caller) { c.Suspended = true }))
	chat(w.key([]apikey.Scope{apikey.LogsRead}))
	chat(newWorld(t).key(accountScopes))
	if len(w.used) != 0 {
		t.Fatalf("used: %v", w.used)
	}
	key := w.key(accountScopes)
	chat(key)
	w.do(request{method: "GET", path: "/api/me", key: key})
	if len(w.used) != 2 || w.used[0] != w.used[1] || !strings.Contains(key, w.used[0]) {
		t.Errorf("used: %v", w.used)
	}
}
