package api

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

func chatOnce(w *world, key string) *httptest.ResponseRecorder {
	return w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key})
}

func TestAnAnswerSaysWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	limit := w.agents["agt_1"]
	limit.Settings.RateLimit = &agent.RateLimit{PerMinute: 30, PerDay: 500}
	w.agents["agt_1"] = limit
	answer := chatOnce(w, w.key(accountScopes))
	for name, want := range map[string]string{
		"RateLimit-Policy":      `"key";q=300;w=60, "agent";q=30;w=60, "agent-day";q=500;w=86400, "day";q=100000;w=86400`,
		"RateLimit":             `"key";r=299;t=61, "agent";r=29;t=61, "agent-day";r=499;t=61, "day";r=99999;t=61`,
		"X-RateLimit-Limit":     "30",
		"X-RateLimit-Remaining": "29",
		"X-RateLimit-Reset":     "1773489661", // noon and 61 seconds
		"Retry-After":           "",
	} {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

func TestARequestTooManyIsToldWhenToComeAgain(t *testing.T) {
	w := newWorld(t)
	w.verdict = func(request quota.Request) quota.Verdict {
		blocking := request.Rules[0]
		return quota.Verdict{
			Standings: []quota.Standing{{Rule: blocking, Reset: 20_750_001 * time.Microsecond}}, Blocking: blocking, RetryAfter: 20_750_001 * time.Microsecond,
		}
	}
	key := w.key(accountScopes)
	answer := chatOnce(w, key)
	body := w.refused(answer, 429, "rate_limited")
	if !body.Retryable || body.Type != RateLimitError || body.Message != "This key has had its 300 requests of the last 60 seconds. There is room again in 21 seconds." {
		t.Errorf("%+v", body)
	}
	if body.Details["policy"] != "key" || body.Details["limit"] != 300.0 || body.Details["retryAfterMs"] != 20751.0 {
		t.Errorf("%v", body.Details)
	}
	for name, want := range map[string]string{
		"Retry-After": "21", "Retry-After-Ms": "20751", "RateLimit": `"key";r=0;t=21`, "X-RateLimit-Limit": "300", "X-RateLimit-Remaining": "0",
		"RateLimit-Policy": `"key";q=300;w=60, "agent";q=300;w=60, "day";q=100000;w=86400`,
	} {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	if _, err := httpsfv.UnmarshalList(answer.Header().Values("RateLimit-Policy")); err != nil {
		t.Error(err)
	}
	if len(w.turns) != 0 {
		t.Error("a turn began all the same")
	}
	spanish := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key, header: map[string]string{"Accept-Language": "es"}})
	if body := w.refused(spanish, 429, "rate_limited"); body.Message != "Esta clave ya usó sus 300 solicitudes de los últimos 60 segundos. Vuelve a haber lugar en 21 segundos." {
		t.Errorf("%s", body.Message)
	}
}

func TestOnlyMessagesThatComeThroughTheDoorCount(t *testing.T) {
	w := newWorld(t)
	halted := w.agents["agt_1"]
	halted.ID, halted.Slug, halted.Status = "agt_2", "otro", agent.Halted
	w.agents["agt_2"] = halted
	key := w.key(accountScopes)
	for sentence, in := range map[string]request{
		"a management call":          {method: "GET", path: "/api/agents/agt_1", key: key},
		"the question what is left":  {method: "GET", path: "/api/me", key: key},
		"a message without a key":    {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`},
		"an unknown key's":           {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: newWorld(t).key(accountScopes)},
		"one without the scope":      {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: w.key([]apikey.Scope{apikey.LogsRead})},
		"one to an unknown agent":    {method: "POST", path: "/api/v2/agent/agt_none/chat", body: `{"query":"a"}`, key: key},
		"one to a paused agent":      {method: "POST", path: "/api/v2/agent/agt_2/chat", body: `{"query":"a"}`, key: key},
		"one that is not understood": {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"quary":"a"}`, key: key},
		"one that another agent's key sends": {method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`,
			key: w.key(accountScopes, func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} })},
	} {
		if answer := w.do(in); len(w.counted) != 0 || answer.Header().Get("RateLimit") != "" {
			t.Errorf("%s was counted (status %d)", sentence, answer.Code)
		}
	}
}

func TestAMessageIsCountedOnceHoweverOftenItsTurnIsTried(t *testing.T) {
	w := newWorld(t)
	send := w.send
	w.send = func(ctx context.Context, turn commands.Turn) (commands.Reply, error) {
		if len(w.turns) < 3 {
			return commands.Reply{}, commands.ErrStale
		}
		return send(ctx, turn)
	}
	if answer := chatOnce(w, w.key(accountScopes)); answer.Code != 200 || len(w.turns) != 3 || len(w.counted) != 1 {
		t.Errorf("%d after %d tries, counted %d times", answer.Code, len(w.turns), len(w.counted))
	}
}

func TestAnUnlimitedPlanHasNothingToTell(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes, func(c *projections.Caller) { c.Plan = account.Enterprise })
	if answer := chatOnce(w, key); answer.Code != 200 || answer.Header().Get("RateLimit-Policy") != "" || answer.Header().Get("X-RateLimit-Limit") != "" {
		t.Errorf("%d %v", answer.Code, answer.Header())
	}
	var me Me
	if err := json.Unmarshal(w.do(request{method: "GET", path: "/api/me", key: key}).Body.Bytes(), &me); err != nil || me.Remaining.PerMinute != nil || me.Remaining.PerDay != nil {
		t.Errorf("%v %+v", err, me.Remaining)
	}
	limited := w.do(request{method: "GET", path: "/api/me", key: w.key(accountScopes)})
	if err := json.Unmarshal(limited.Body.Bytes(), &me); err != nil || *me.Remaining.PerMinute != 299 || *me.Remaining.PerDay != 99_999 {
		t.Errorf("%v %s", err, limited.Body)
	}
}

func TestWhoeverTellsOfReachedLimitsHearsWhatWasCounted(t *testing.T) {
	w := newWorld(t)
	w.verdict = func(request quota.Request) quota.Verdict {
		verdict := quota.Verdict{Admitted: true, At: noon}
		for _, rule := range request.Rules {
			verdict.Standings = append(verdict.Standings, quota.Standing{Rule: rule, Used: 80_000, Remaining: 20_000})
		}
		return verdict
	}
	key := w.key(accountScopes)
	chatOnce(w, key)
	if want := (commands.DayCount{Account: "acc_1", Day: noon, Limit: 100_000, Used: 80_000}); len(w.watched) != 1 || w.watched[0] != want {
		t.Errorf("%+v", w.watched)
	}
	w.verdict = func(request quota.Request) quota.Verdict { // from memory: nobody counted
		day := request.Rules[len(request.Rules)-1]
		return quota.Verdict{Standings: []quota.Standing{{Rule: day, Reset: time.Hour}}, Blocking: day, RetryAfter: time.Hour}
	}
	if w.refused(chatOnce(w, key), 429, "rate_limited"); len(w.watched) != 1 {
		t.Errorf("%+v", w.watched)
	}
}
