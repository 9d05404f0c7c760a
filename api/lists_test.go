package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestConversationsAreAnArrayAndNameTheNextPageInTheHeader(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	answer := w.do(request{method: "GET", path: "/api/conversations?agentId=agt_1", key: key})
	var conversations []map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &conversations); err != nil || len(conversations) != 1 {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	if c := conversations[0]; c["id"] != "conv-123" || c["messageCount"] != 2.0 || c["status"] != "open" || c["createdAt"] != "2026-03-14T12:00:00.000Z" {
		t.Errorf("%v", c)
	}
	link := answer.Header().Get("Link")
	next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<http://nido.test:8080"), `>; rel="next"`)
	if !ok {
		t.Fatalf("Link is %q", link)
	}
	last := w.do(request{method: "GET", path: next, key: key})
	if last.Code != 200 || strings.TrimSpace(last.Body.String()) != "[]" || last.Header().Get("Link") != "" {
		t.Errorf("the last page: %d %s %v", last.Code, last.Body, last.Header())
	}
}

func TestACursorIsBoundToItsQuestion(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	first := w.do(request{method: "GET", path: "/api/conversations?status=open&limit=1", key: key})
	cursor := url.QueryEscape(first.Header().Get("X-Next-Cursor"))
	if answer := w.do(request{method: "GET", path: "/api/conversations?limit=50&status=open&cursor=" + cursor, key: key}); answer.Code != 200 {
		t.Errorf("the same question gets %d %s", answer.Code, answer.Body)
	}
	for _, path := range []string{
		"/api/conversations?cursor=" + cursor, "/api/conversations?status=resolved&cursor=" + cursor,
		"/api/conversations?status=open&agentId=agt_1&cursor=" + cursor, "/api/agents?cursor=" + cursor,
	} {
		refusal := w.refused(w.do(request{method: "GET", path: path, key: key}), 400, "invalid_request")
		if refusal.Param == nil || *refusal.Param != "cursor" {
			t.Errorf("%s: %+v", path, refusal)
		}
	}
}

func TestAPageOfLogsSaysWhetherThereIsMore(t *testing.T) {
	w := newWorld(t)
	answer := w.do(request{method: "GET", path: "/api/logs?limit=3&status=4xx&q=refund&minLatencyMs=5", key: w.key(accountScopes)})
	var logs LogList
	if err := json.Unmarshal(answer.Body.Bytes(), &logs); err != nil || len(logs.Data) != 3 || logs.NextCursor == nil {
		t.Errorf("%v %s", err, answer.Body)
	}
	if answer.Header().Get("X-Nido-Watermark") != "2026-03-14T12:00:00.000Z" {
		t.Error("no watermark")
	}
	w.refused(w.do(request{method: "GET", path: "/api/logs/req_none", key: w.key(accountScopes)}), http.StatusNotFound, "log_not_found")
}

func TestAMessageThatFailedSaysSo(t *testing.T) {
	w := newWorld(t)
	answer := w.do(request{method: "GET", path: "/api/conversations/conv-123/messages", key: w.key(accountScopes)})
	var messages MessageList
	if err := json.Unmarshal(answer.Body.Bytes(), &messages); err != nil || len(messages.Data) != 2 || messages.NextCursor == nil {
		t.Fatalf("%v %s", err, answer.Body)
	}
	if said, reply := messages.Data[0], messages.Data[1]; *said.Text != "hello" || said.Usage != nil || reply.Status != Failed || *reply.Error != "upstream_timeout" || reply.Usage == nil {
		t.Errorf("%s", answer.Body)
	}
	w.refused(w.do(request{method: "GET", path: "/api/conversations/none", key: w.key(accountScopes)}), 404, "conversation_not_found")
}

func TestAPatchClearsWhatIsNull(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	patch := func(body string) map[string]any {
		var agent map[string]any
		if err := json.Unmarshal(w.do(request{method: "PATCH", path: "/api/agents/agt_1", body: body, key: key}).Body.Bytes(), &agent); err != nil {
			t.Fatal(err)
		}
		return agent
	}
	set := patch(`{"temperature":0.5,"metadata":{"a":"b"},"rateLimit":{"perMinute":3}}`)
	if set["temperature"] != 0.5 || set["rateLimit"] == nil || set["endpoint"] != "http://ventas.nido.test:8080/api/v1/chat" {
		t.Errorf("%v", set)
	}
	kept := patch(`{"name":"Otro"}`)
	cleared := patch(`{"temperature":null,"metadata":null,"rateLimit":null}`)
	if kept["temperature"] != 0.5 || cleared["temperature"] != nil || cleared["rateLimit"] != nil || len(cleared["metadata"].(map[string]any)) != 0 {
		t.Errorf("%v, then %v", kept, cleared)
	}
}
