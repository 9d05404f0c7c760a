package api

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The requests below have the form that openapi.yaml describes, or nearly, and once slipped through it.

func TestATimeThatDoesNotExistIsTheCallersMistake(t *testing.T) {
	w := newWorld(t)
	for _, at := range []string{"2026-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:01Z"} {
		w.refused(w.do(request{
			method: "POST", path: "/api/keys", key: w.key(accountScopes),
			body: `{"name":"k","scopes":["chat"],"expiresAt":"` + at + `"}`,
		}), 400, "invalid_request")
	}
}

func TestAQueryThatCannotBeReadListsNothing(t *testing.T) {
	w := newWorld(t)
	for _, query := range []string{"limit=%zz", "limit=1&%", "limit=1;cursor=x"} {
		w.refused(w.do(request{method: "GET", path: "/api/agents?" + query, key: w.key(accountScopes)}), 400, "invalid_request")
	}
}

func TestTheSameRequestOnAnotherAgentsHostIsAnotherOne(t *testing.T) {
	fingerprintOn := func(slug string) []byte {
		r := withExchange(httptest.NewRequest(http.MethodPost, "/api/v1/chat", nil), &exchange{slug: slug})
		return fingerprint(r, []byte(`{"message":"hola"}`))
	}
	if bytes.Equal(fingerprintOn("ventas"), fingerprintOn("soporte")) {
		t.Error("under one Idempotency-Key the second agent's client would get the first agent's answer")
	}
	if !bytes.Equal(fingerprintOn("ventas"), fingerprintOn("ventas")) {
		t.Error("a repetition is not known again")
	}
}
