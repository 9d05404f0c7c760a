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
