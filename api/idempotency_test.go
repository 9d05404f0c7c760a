package api

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
)

func TestARepetitionGetsTheFirstAnswerAgain(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	create := request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: key, header: map[string]string{"Idempotency-Key": "one"}}
	first, second := w.do(create), w.do(create)
	if first.Code != 201 || second.Code != 201 || first.Body.String() != second.Body.String() || first.Header().Get("Location") != second.Header().Get("Location") {
		t.Errorf("%d %s\n%d %s", first.Code, first.Body, second.Code, second.Body)
	}
	if first.Header().Get("Idempotent-Replayed") != "" || second.Header().Get("Idempotent-Replayed") != "true" || len(w.created) != 1 {
		t.Errorf("%d agents were created", len(w.created))
	}
	if first.Header().Get("X-Request-Id") == second.Header().Get("X-Request-Id") {
		t.Error("the repetition has no id of its own")
	}
	other := create
	other.body = `{"name":"b","model":"m"}`
	w.refused(w.do(other), 422, "idempotency_key_reused")
	w.kept["acc_1"+w.records[0].KeyID[len(keyPrefix):]+"one"].inFlight, w.kept["acc_1"+w.records[0].KeyID[len(keyPrefix):]+"one"].answer = true, nil
	w.refused(w.do(create), 409, "idempotency_in_flight")
}

func TestAnAnswerThatMayComeOutOtherwiseIsNotKept(t *testing.T) {
	w := newWorld(t)
	create := request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: w.key(accountScopes), header: map[string]string{"Idempotency-Key": "two"}}
	for _, err := range []error{commands.ErrUnknownOutcome, commands.ErrConflict} {
		w.fail = err
		if answer := w.do(create); answer.Code < 400 || answer.Header().Get("Idempotent-Replayed") != "" {
			t.Errorf("%d %v", answer.Code, answer.Header())
		}
	}
	w.fail, w.panics = nil, true
	w.refused(w.do(create), 500, "internal_error")
	w.panics = false
	if answer := w.do(create); answer.Code != 201 || answer.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	for _, kept := range w.kept {
		if w.created[0].Inputs != kept.inputs {
			t.Error("the retry drew inputs of its own: it could have taken effect twice")
		}
	}
	refusal := request{method: "POST", path: "/api/keys/key_none/revoke", key: create.key, header: map[string]string{"Idempotency-Key": "three"}}
	w.refused(w.do(refusal), 404, "key_not_found")
	if again := w.do(refusal); again.Code != 404 || again.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("a refusal is kept: %d %v", again.Code, again.Header())
	}
	remove := request{method: "DELETE", path: "/api/agents/agt_1", key: create.key, header: map[string]string{"Idempotency-Key": "four"}}
	if first, again := w.do(remove), w.do(remove); first.Code != 204 || again.Code != 204 || again.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("%d, then %d", first.Code, again.Code)
	}
}

func TestARequestThatCouldNotBeSettledDoesNotStayInFlight(t *testing.T) {
	for name, fail := range map[string]error{"an answer": nil, "an attempt that came to nothing": commands.ErrUnknownOutcome} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				create := request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, key: w.key(accountScopes), header: map[string]string{"Idempotency-Key": "one"}}
				w.fail, w.unsettled = fail, 3
				first := w.do(create)
				w.fail = nil
				w.refused(w.do(create), 409, "idempotency_in_flight")
				time.Sleep(settlePatience)
				synctest.Wait()
				again := w.do(create)
				if again.Code != 201 || (fail == nil) != (again.Body.String() == first.Body.String() && again.Header().Get("Idempotent-Replayed") == "true") {
					t.Errorf("%d %s, then %d %s", first.Code, first.Body, again.Code, again.Body)
				}
			})
		})
	}
}
