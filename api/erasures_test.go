package api

// This file tests the routes that erase: what they answer, and which conversation an id means after an erasure.

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

func TestAnErasureNamesItsOwnIDAndNotWhatTheClientChose(t *testing.T) {
	w := newWorld(t)
	answer := w.do(request{method: "DELETE", path: "/api/conversations/conv-123?agentId=agt_1", key: w.key(accountScopes)})
	if answer.Code != http.StatusAccepted || answer.Header().Get("Location") != "/api/erasures/era_of_conversation-agt_1.mac" || !strings.Contains(answer.Body.String(), `"status":"running"`) {
		t.Errorf("%d %v %s", answer.Code, answer.Header(), answer.Body)
	}
	if !slices.Equal(w.erased, []domain.StreamID{"conversation-agt_1.mac"}) {
		t.Errorf("erased %v", w.erased)
	}
	if strings.Contains(answer.Body.String(), "conv-123") {
		t.Errorf("the answer outlives the conversation, and says what it was called: %s", answer.Body)
	}
	if owner := w.last().Owner; owner != "conversation-agt_1.mac" {
		t.Errorf("the log's line, whose path has the id, belongs to %q", owner)
	}
}

func TestWhatIsErasedIsErasedOnce(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	for _, path := range []string{"/api/conversations/gone?agentId=agt_1", "/api/conversations/gone"} {
		answer := w.do(request{method: "DELETE", path: path, key: key})
		if answer.Code != http.StatusAccepted || !strings.Contains(answer.Body.String(), `"era_of_conversation-agt_1.mac-of-gone\n1"`) {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
		w.refused(w.do(request{method: "GET", path: path, key: key}), 404, "conversation_not_found")
		if owner := w.last().Owner; owner != "conversation-agt_1.mac-of-gone\n1" {
			t.Errorf("%s: the log's line belongs to %q", path, owner)
		}
	}
	if len(w.erased) != 0 {
		t.Errorf("erased %v", w.erased)
	}
	elsewhere := w.key(accountScopes, func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} })
	w.refused(w.do(request{method: "DELETE", path: "/api/conversations/gone", key: elsewhere}), 404, "conversation_not_found")
}

func TestAnIDThatWasErasedMeansTheConversationThatCameAfter(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	for _, path := range []string{"/api/conversations/again?agentId=agt_1", "/api/conversations/again"} {
		if answer := w.do(request{method: "GET", path: path, key: key}); answer.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
	answer := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", key: key, body: `{"query":"hola","conversationId":"again"}`})
	if answer.Code != http.StatusOK || len(w.turns) != 1 || w.turns[0].Mac != "mac-of-again\n1" || w.turns[0].Conversation != "again" {
		t.Errorf("%d %s, turns %+v", answer.Code, answer.Body, w.turns)
	}
	if len(w.counted) != 1 {
		t.Errorf("it was counted %d times", len(w.counted))
	}
}

func TestAnAccountIsErasedByOthersOnly(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.Admin})
	answer := w.do(request{method: "DELETE", path: "/api/accounts/acc_2", key: key})
	if answer.Code != http.StatusAccepted || !strings.Contains(answer.Body.String(), `"of":"account"`) {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	w.refused(w.do(request{method: "DELETE", path: "/api/accounts/acc_1", key: key}), 400, "invalid_request")
	w.refused(w.do(request{method: "DELETE", path: "/api/accounts/acc_2", key: w.key(accountScopes)}), 403, "missing_scope")
}

func TestAnErasureIsForItsOwnAccount(t *testing.T) {
	w := newWorld(t)
	path := "/api/erasures/era_1"
	if answer := w.do(request{method: "GET", path: path, key: w.key(accountScopes)}); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), `"status":"done"`) {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	w.refused(w.do(request{method: "GET", path: "/api/erasures/era_none", key: w.key(accountScopes)}), 404, "erasure_not_found")
	stranger := w.key(accountScopes, func(c *projections.Caller) { c.Account = "acc_9" })
	w.refused(w.do(request{method: "GET", path: path, key: stranger}), 404, "erasure_not_found")
	elsewhere := w.key(accountScopes, func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} })
	w.refused(w.do(request{method: "GET", path: path, key: elsewhere}), 404, "erasure_not_found")
	if answer := w.do(request{method: "GET", path: path, key: w.key([]apikey.Scope{apikey.Admin}, func(c *projections.Caller) { c.Account = "acc_9" })}); answer.Code != http.StatusOK {
		t.Errorf("an administrator gets %d %s", answer.Code, answer.Body)
	}
}
