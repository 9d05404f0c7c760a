package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

func (w *world) last() projections.Request {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.records) == 0 {
		w.t.Fatal("nothing was logged")
	}
	return w.records[len(w.records)-1]
}

func whole(r projections.Request) string {
	var text strings.Builder
	text.Write(r.RequestBody.Text)
	text.Write(r.ResponseBody.Text)
	for _, header := range append(r.RequestHeaders, r.ResponseHeaders...) {
		text.WriteString(header.Name + ": " + header.Value + "\n")
	}
	return text.String() + r.Path + r.Query
}

func TestNoSecretReachesTheRequestLog(t *testing.T) {
	w := newWorld(t)
	admin := w.key(adminScopes)
	for path, body := range map[string]string{
		"/api/keys": `{"name":"web","scopes":["chat"]}`, "/api/accounts": `{"name":"Sol"}`,
		"/api/agents": `{"name":"a","model":"m","instructions":"our key is ` + secretKey + `"}`,
	} {
		answer := w.do(request{method: "POST", path: path, body: body, key: admin, header: map[string]string{"Cookie": "session=" + secretKey}})
		if answer.Code != 201 || !strings.Contains(answer.Body.String(), secretKey) {
			t.Fatalf("%s: %d %s", path, answer.Code, answer.Body)
		}
		logged := whole(w.last())
		if strings.Contains(logged, secretKey[:30]) || strings.Contains(logged, admin) {
			t.Errorf("%s: the log has a key: %s", path, logged)
		}
	}
}

func TestTheFieldsMarkedSecretAreFound(t *testing.T) {
	w := newWorld(t)
	for op, field := range map[string]string{"POST /api/keys": "key", "POST /api/accounts": "key.key"} {
		body := `{"id":"x","key":"opaque"}`
		if field == "key.key" {
			body = `{"id":"x","key":{"key":"opaque"}}`
		}
		if kept := logged([]byte(body), int64(len(body)), w.ops[op].secrets); strings.Contains(string(kept.Text), "opaque") {
			t.Errorf("%s keeps %s", op, kept.Text)
		}
		if kept := logged([]byte(body[:len(body)-1]), 1<<20, w.ops[op].secrets); len(kept.Text) > 0 || !kept.Truncated {
			t.Errorf("%s keeps %s of a body that cannot be read", op, kept.Text)
		}
	}
}

func TestTheLogKnowsWhoAskedWhatAndWhatCameOfIt(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	answer := w.do(request{method: "GET", path: "/api/agents/agt_none?", key: key, header: map[string]string{"X-Request-Id": "mine", "User-Agent": "test"}})
	line := w.last()
	if line.ID != answer.Header().Get("X-Request-Id") || line.ClientRequestID != "mine" || line.Account != "acc_1" || line.KeyID == "" || line.AgentID != "agt_none" ||
		line.Route != "/api/agents/{id}" || line.Path != "/api/agents/agt_none" || line.Status != 404 || line.ErrorCode != "agent_not_found" ||
		line.RemoteIP != "192.0.2.1" || line.UserAgent != "test" || len(line.ResponseBody.Text) == 0 || line.ResponseBody.Bytes != int64(answer.Body.Len()) {
		t.Errorf("%+v", line)
	}
	logged := len(w.records)
	w.do(request{method: "GET", path: "/api/me"})
	w.do(request{method: "GET", path: "/livez"})
	if len(w.records) != logged {
		t.Error("requests of nobody were logged")
	}
	told := strings.Repeat("x", 230) + " " + key
	w.do(request{method: "GET", path: "/api/me", key: key, header: map[string]string{"X-Request-Id": told, "User-Agent": told}})
	if line := w.last(); strings.Contains(line.ClientRequestID+line.UserAgent, key[:20]) || len(line.UserAgent) < 240 {
		t.Errorf("a key is kept: %q %q", line.ClientRequestID, line.UserAgent)
	}
	large := `{"name":"a","model":"m","instructions":"` + strings.Repeat("x", 100_000) + `"}`
	w.do(request{method: "POST", path: "/api/agents", body: large, key: key})
	if body := w.last().RequestBody; !body.Truncated || len(body.Text) != maxLoggedBytes || body.Bytes != int64(len(large)) {
		t.Errorf("%v %d of %d bytes", body.Truncated, len(body.Text), body.Bytes)
	}
}

func TestWhatAConversationSaysIsLoggedUnderItsOwnKeyOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	chat := request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"my secret sorrow","conversationId":"conv-123"}`, key: w.key(accountScopes)}
	w.do(chat)
	if line := w.last(); line.Owner != "conversation-agt_1.mac-of-conv-123" || line.Sealer == nil || line.ConversationID != "conv-123" || line.Model != "echo" ||
		!strings.Contains(string(line.RequestBody.Text), "sorrow") {
		t.Errorf("%+v", line)
	}
	for _, err := range []error{domain.Refuse("conversation_busy", "busy", "ocupada"), commands.ErrUnknownOutcome} {
		w.send = func(context.Context, commands.Turn) (commands.Reply, error) { return commands.Reply{}, err }
		w.do(chat)
		if line := w.last(); strings.Contains(whole(line), "sorrow") || line.ErrorCode == "" || line.RequestBody.Bytes == 0 {
			t.Errorf("%v: %+v", err, line)
		}
	}
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{}, &commands.ModelError{Code: "upstream_error", Err: errors.New("no")}
	}
	w.do(chat)
	if line := w.last(); line.Owner == "" || !strings.Contains(string(line.RequestBody.Text), "sorrow") {
		t.Errorf("a turn that failed was accepted: %+v", line)
	}
	w.do(request{method: "GET", path: "/api/conversations/conv-123/messages", key: chat.key})
	if line := w.last(); line.Owner != "conversation-agt_1.mac" || len(line.ResponseBody.Text) == 0 {
		t.Errorf("%+v", line)
	}
	w.do(request{method: "GET", path: "/api/conversations", key: chat.key})
	if line := w.last(); len(line.ResponseBody.Text) != 0 || line.ResponseBody.Bytes == 0 {
		t.Errorf("a list of several conversations was kept: %+v", line)
	}
}
