package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/quota"
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
				time.Sleep(settlePatience) // of synctest's clock
				synctest.Wait()
				again := w.do(create)
				if again.Code != 201 || (fail == nil) != (again.Body.String() == first.Body.String() && again.Header().Get("Idempotent-Replayed") == "true") {
					t.Errorf("%d %s, then %d %s", first.Code, first.Body, again.Code, again.Body)
				}
			})
		})
	}
}

func TestAnAnswerIsNotToldAgainOnceItsConversationIsToBeErased(t *testing.T) {
	w := newWorld(t)
	chat := request{
		method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","conversationId":"conv-123"}`,
		key: w.key(accountScopes), header: map[string]string{"Idempotency-Key": "one"},
	}
	for _, replayed := range []string{"", "true"} {
		if answer := w.do(chat); answer.Code != http.StatusOK || answer.Header().Get("Idempotent-Replayed") != replayed {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
	w.erased = append(w.erased, "conversation-agt_1.mac-of-conv-123") // which nobody has begun to carry out
	w.refused(w.do(chat), 409, "conversation_erased")
	if line := w.last(); line.Owner != "conversation-agt_1.mac-of-conv-123" {
		t.Errorf("%+v", line)
	}
}

// A message that had to wait for its limit begins its turn when it comes in: one that began when it was refused would be past its
// deadline, and be ended by the next sweeper.
func TestARepetitionBeginsWhenItIsLetIn(t *testing.T) {
	w := newWorld(t)
	chat := request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: w.key(accountScopes), header: map[string]string{"Idempotency-Key": "one"}}
	admitted := w.verdict
	w.verdict = func(request quota.Request) quota.Verdict {
		day := request.Rules[len(request.Rules)-1]
		return quota.Verdict{Standings: []quota.Standing{{Rule: day, Reset: time.Hour}}, Blocking: day, RetryAfter: time.Hour}
	}
	w.refused(w.do(chat), 429, "rate_limited")
	var first commands.Inputs
	for _, kept := range w.kept {
		first = kept.inputs
	}
	later := noon.Add(time.Hour)
	w.verdict, w.server.config.Clock = admitted, func() time.Time { return later }
	if answer := w.do(chat); answer.Code != 200 || len(w.metas) != 1 {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	if got := w.metas[0].Inputs; !got.Now.Equal(later) || got.Seed != first.Seed {
		t.Errorf("began at %v", got.Now)
	}
}

func TestAKeyIsNotLostWithAnAnswerOfTheStore(t *testing.T) {
	create := request{method: "POST", path: "/api/agents", body: `{"name":"a","model":"m"}`, header: map[string]string{"Idempotency-Key": "one"}}
	t.Run("of the store's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			create.key, w.lost = w.key(accountScopes), true
			w.refused(w.do(create), 503, "unavailable")
			w.lost = false
			time.Sleep(time.Minute) // of synctest's clock
			if answer := w.do(create); answer.Code != 201 {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
			for range maxSettling {
				w.server.settling <- struct{}{}
			}
			create.header, w.lost = map[string]string{"Idempotency-Key": "two"}, true
			if w.refused(w.do(create), 503, "unavailable"); !strings.Contains(w.logged.String(), "too many idempotent requests") {
				t.Errorf("%s", w.logged)
			}
		})
	})
	t.Run("of the store's, which notes the request only then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			late := create
			late.key, late.header = w.key(accountScopes), map[string]string{"Idempotency-Key": "late"}
			w.lostFor = 3 * time.Second
			w.refused(w.do(late), 503, "unavailable")
			time.Sleep(time.Minute) // of synctest's clock
			w.lostFor = 0
			if answer := w.do(late); answer.Code != 201 {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
		})
	})
	t.Run("of the store's, behind which another run has the request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			begin := func() error {
				r := withExchange(httptest.NewRequest(http.MethodPost, create.path, strings.NewReader(create.body)), &exchange{inputs: commands.NewInputs(time.Now())})
				try := attempt{server: w.server, r: r, run: Run{Account: "acc_1", Caller: "c", Key: "k", Proposed: exchangeOf(r).inputs}}
				_, _, err := try.begin(exchangeOf(r))
				return err
			}
			w.lostFor = time.Hour // it never comes to be noted
			if err := begin(); err == nil {
				t.Fatal("the first run has the request")
			}
			w.lostFor = 0
			if err := begin(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // of synctest's clock
			if err := begin(); !errors.Is(err, ErrInFlight) {
				t.Errorf("the second run lost its request to the first one's withdrawal: %v", err)
			}
		})
	})
	t.Run("of the client's", func(t *testing.T) {
		w := newWorld(t)
		r := httptest.NewRequest(http.MethodPost, create.path, strings.NewReader(create.body))
		ctx, leave := context.WithCancel(r.Context())
		r = withExchange(r.WithContext(ctx), &exchange{})
		leave() // between the key's look-up and this
		try := attempt{server: w.server, r: r, run: Run{Account: "acc_1", Caller: "c", Key: "k"}}
		if _, _, err := try.begin(exchangeOf(r)); err != nil || len(w.kept) != 1 {
			t.Errorf("%v, %d noted", err, len(w.kept))
		}
	})
}

// Official clients of OpenAI repeat a 409 unless they are told not to: by the repetition, too.
func TestARepeatedRefusalSaysWhetherToRepeatIt(t *testing.T) {
	w := newWorld(t)
	paused := w.agents["agt_1"]
	paused.Status = agent.Halted
	w.agents["agt_1"] = paused
	in := request{
		method: "POST", path: "/openai/v1/chat/completions", body: `{"model":"ventas","messages":[{"role":"user","content":"a"}]}`,
		key: w.key(accountScopes), header: map[string]string{"Idempotency-Key": "one"},
	}
	for _, replayed := range []string{"", "true"} {
		answer := w.do(in)
		w.refused(answer, 409, "agent_paused")
		if answer.Header().Get("Idempotent-Replayed") != replayed || answer.Header().Get("X-Should-Retry") != "false" {
			t.Errorf("%v", answer.Header())
		}
	}
}
