package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

func TestBothChatRoutesTakeBothNames(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.Chat})
	for _, in := range []request{
		{path: "/api/v1/chat", host: "ventas.nido.test", body: `{"message": "Hello!"}`},
		{path: "/api/v1/chat", host: "VENTAS.nido.test:443", body: `{"query": "Hello!"}`},
		{path: "/api/v2/agent/agt_1/chat", body: `{"message": "Hello!"}`},
		{path: "/api/v2/agent/agt_1/chat", body: `{"query": "Hello!", "conversationId": "conv-123", "streaming": false}`},
	} {
		in.method, in.key = "POST", key
		answer := w.do(in)
		var reply ChatReply
		if err := json.Unmarshal(answer.Body.Bytes(), &reply); err != nil || answer.Code != 200 {
			t.Fatalf("%v %d %s", err, answer.Code, answer.Body)
		}
		turn := w.turns[len(w.turns)-1]
		if turn.Text != "Hello!" || turn.AgentID != "agt_1" || reply.AgentID != "agt_1" || reply.Response != "hello back" || reply.ConversationID != turn.Conversation {
			t.Errorf("%+v became %+v", turn, reply)
		}
		if !strings.HasPrefix(turn.Conversation, "conv") || w.metas[len(w.metas)-1].Account != "acc_1" {
			t.Errorf("conversation %q of %+v", turn.Conversation, w.metas[len(w.metas)-1])
		}
	}
}

func TestATurnThatWasOvertakenLooksAgain(t *testing.T) {
	w := newWorld(t)
	answer := func(errs ...error) *httptest.ResponseRecorder {
		w.turns = nil
		w.send = func(_ context.Context, turn commands.Turn) (commands.Reply, error) {
			if n := len(w.turns) - 1; n < len(errs) {
				return commands.Reply{}, errs[n]
			}
			return commands.Reply{ConversationID: turn.Conversation, MessageID: "msg_1", CreatedAt: noon}, nil
		}
		return w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: w.key(accountScopes)})
	}
	if got := answer(commands.ErrStale, commands.ErrStale); got.Code != 200 || len(w.turns) != 3 || w.turns[0].Conversation != w.turns[2].Conversation {
		t.Errorf("%d after %d tries", got.Code, len(w.turns))
	}
	w.refused(answer(commands.ErrStale, domain.Refuse("conversation_busy", "busy", "ocupada")), 409, "conversation_busy")
	stale := commands.ErrStale
	w.refused(answer(stale, stale, stale, stale, stale, stale), 409, "conflict")
	for code, status := range map[string]int{"upstream_error": 502, "upstream_timeout": 504, "upstream_rate_limited": 503, "model_not_found": 502, "interrupted": 502} {
		w.refused(answer(&commands.ModelError{Code: code, Err: errors.New("said the provider")}), status, code)
		w.refused(answer(&commands.ModelError{Code: code, Err: domain.Refuse("turn_closed", "it has ended", "terminó")}), status, code)
	}
	w.refused(answer(commands.ErrUnknownOutcome), 503, "unknown_outcome")
}

func TestAMissingKeyIsToldBeforeAMissingAgent(t *testing.T) {
	w := newWorld(t)
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_none/chat", body: `{"query":"a"}`}), 401, "missing_api_key")
	w.refused(w.do(request{method: "POST", path: "/api/v1/chat", host: "nobody.nido.test", body: `{"query":"a"}`}), 401, "missing_api_key")
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_none/chat", body: `{"query":"a"}`, key: w.key(accountScopes)}), 404, "agent_not_found")
}

func TestAClientThatGoesAwayEndsItsTurn(t *testing.T) {
	w := newWorld(t)
	started, ended := make(chan struct{}), make(chan error, 1)
	w.send = func(ctx context.Context, _ commands.Turn) (commands.Reply, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return commands.Reply{}, commands.ErrClientGone
	}
	server := httptest.NewServer(w.server)
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-started
		leave()
	}()
	if _, err := http.DefaultClient.Do(chatRequest(ctx, t, server.URL, w.key(accountScopes))); !errors.Is(err, context.Canceled) {
		t.Fatalf("the client got %v", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(time.Second):
		t.Fatal("the turn went on for a second without its client")
	}
}

// The server's time-out for reading bounds the body, not the reply.
func TestATurnMayLastLongerThanReadingItsBody(t *testing.T) {
	w := newWorld(t)
	const readTimeout = 100 * time.Millisecond
	w.send = func(ctx context.Context, turn commands.Turn) (commands.Reply, error) {
		select {
		case <-ctx.Done():
			return commands.Reply{}, context.Cause(ctx)
		case <-time.After(5 * readTimeout):
			return commands.Reply{ConversationID: turn.Conversation, CreatedAt: noon}, nil
		}
	}
	server := httptest.NewUnstartedServer(w.server)
	server.Config.ReadTimeout = readTimeout
	server.Start()
	defer server.Close()
	answer, err := http.DefaultClient.Do(chatRequest(t.Context(), t, server.URL, w.key(accountScopes)))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("the turn ended with %d", answer.StatusCode)
	}
}

func TestABodyThatDoesNotArriveTimesOut(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewUnstartedServer(w.server)
	server.Config.ReadTimeout = 100 * time.Millisecond
	server.Start()
	defer server.Close()
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := connection.Write([]byte("POST /api/v2/agent/agt_1/chat HTTP/1.1\r\nHost: nido.test\r\nAuthorization: Bearer " + w.key(accountScopes) +
		"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"query\":")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 512)
	if err := connection.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := connection.Read(answer)
	if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 408 ")) {
		t.Errorf("%v %s", err, answer[:n])
	}
}

func chatRequest(ctx context.Context, t *testing.T, url, key string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v2/agent/agt_1/chat", strings.NewReader(`{"query":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	return r
}

func BenchmarkChat(b *testing.B) {
	w := newWorld(&testing.T{})
	key := w.key(accountScopes)
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		w.turns, w.metas, w.records = nil, nil, nil
		return commands.Reply{Text: "hello back", CreatedAt: noon}, nil
	}
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/v2/agent/agt_1/chat", strings.NewReader(`{"query":"¿Cuáles son los horarios de atención?","conversationId":"conv-123","streaming":false}`))
		r.Host = "nido.test"
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		w.server.ServeHTTP(recorder, r)
		if recorder.Code != 200 {
			b.Fatal(recorder.Body)
		}
	}
}

func BenchmarkCreateAgent(b *testing.B) {
	w := newWorld(&testing.T{})
	key := w.key(accountScopes)
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/agents", strings.NewReader(`{"name":"Agente de Ventas","instructions":"Sos un asistente de ventas amable...","model":"gpt-4o-mini"}`))
		r.Host = "nido.test"
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		w.server.ServeHTTP(recorder, r)
		w.records, w.created = nil, nil
	}
}

func TestWhatAProviderSaysAboutComingBackIsPassedOn(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{CreatedAt: noon}, &commands.ModelError{
			Code: "upstream_rate_limited", Retryable: true, RetryAfter: 20*time.Second + 750*time.Millisecond, Err: errors.New("429"),
		}
	}
	for name, in := range map[string]request{
		"ours":    {path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`},
		"problem": {path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, header: map[string]string{"Accept": "application/problem+json"}},
		"OpenAI":  {path: "/openai/v1/chat/completions", body: `{"model":"ventas","messages":[{"role":"user","content":"a"}]}`},
	} {
		in.method, in.key = "POST", key
		answer := w.do(in)
		header := answer.Header()
		if answer.Code != http.StatusServiceUnavailable || header.Get("Retry-After") != "21" || header.Get("Retry-After-Ms") != "20750" ||
			!strings.Contains(answer.Body.String(), `"retryAfterMs":20750`) {
			t.Errorf("%s: %d %v %s", name, answer.Code, header, answer.Body)
		}
		if retry := header.Get("X-Should-Retry"); (retry == "true") != (name == "OpenAI") {
			t.Errorf("%s: X-Should-Retry is %q", name, retry)
		}
	}
	streamed := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","streaming":true}`, key: key})
	if !strings.Contains(streamed.Body.String(), `"retryAfterMs":20750`) {
		t.Errorf("the stream says %s", streamed.Body)
	}
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{CreatedAt: noon}, &commands.ModelError{Code: "upstream_timeout", Retryable: true, Timeout: "idle", Err: errors.New("idle")}
	}
	refusal := w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key}), http.StatusGatewayTimeout, "upstream_timeout")
	if refusal.Details["timeout"] != "idle" {
		t.Errorf("details %v", refusal.Details)
	}
}

func TestAReplySaysWhyItEndsAndWhatOfItsUsageIsEstimated(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	w.send = func(_ context.Context, turn commands.Turn) (commands.Reply, error) {
		return commands.Reply{
			ConversationID: turn.Conversation, MessageID: "msg_1", Text: "half a", CreatedAt: noon, Finish: conversation.FinishLength,
			Usage: conversation.Usage{InputTokens: 3, OutputTokens: 2, Estimated: true},
		}, nil
	}
	ours := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a"}`, key: key})
	if body := ours.Body.String(); !strings.Contains(body, `"finishReason":"length"`) || !strings.Contains(body, `"estimated":true`) {
		t.Errorf("%s", body)
	}
	for _, stream := range []string{"false", "true"} {
		theirs := w.do(request{method: "POST", path: "/openai/v1/chat/completions", key: key, body: `{"model":"ventas","stream":` + stream + `,"messages":[{"role":"user","content":"a"}]}`})
		if body := theirs.Body.String(); !strings.Contains(body, `"finish_reason":"length"`) || stream == "false" && !strings.Contains(body, `"usage":"estimated"`) {
			t.Errorf("%s", body)
		}
	}
}

func TestAnAgentIsAModelByItsSlugAndItsID(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.Chat})
	for _, path := range []string{"/openai/v1/models/ventas", "/openai/v1/models/agt_1"} {
		if answer := w.do(request{method: "GET", path: path, key: key}); answer.Code != 200 || !strings.Contains(answer.Body.String(), `"id":"ventas"`) {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
		onHost := strings.TrimPrefix(path, "/openai")
		if answer := w.do(request{method: "GET", path: onHost, host: "ventas.nido.test", key: key}); answer.Code != 200 || !strings.Contains(answer.Body.String(), `"id":"ventas"`) {
			t.Errorf("%s: %d %s", onHost, answer.Code, answer.Body)
		}
	}
	for _, in := range []request{{path: "/openai/v1/models/nobody"}, {path: "/openai/v1/models/agt_none"}, {path: "/v1/models/other", host: "ventas.nido.test"}} {
		in.method, in.key = "GET", key
		if refusal := w.refused(w.do(in), 404, "agent_not_found"); refusal.Param == nil || *refusal.Param != "model" {
			t.Errorf("%s names %v", in.path, refusal.Param)
		}
	}
	bound := w.key([]apikey.Scope{apikey.Chat}, func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} })
	w.refused(w.do(request{method: "GET", path: "/openai/v1/models/ventas", key: bound}), 403, "agent_not_allowed")
}

func TestAMessageWaitsForItsConversationWhereItAsksTo(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	busyTimes := func(n int) {
		w.turns, w.counted = nil, nil
		w.send = func(_ context.Context, turn commands.Turn) (commands.Reply, error) {
			if len(w.turns) <= n {
				return commands.Reply{}, domain.Refuse("conversation_busy", "busy", "ocupada")
			}
			return commands.Reply{ConversationID: turn.Conversation, MessageID: "msg_1", CreatedAt: noon}, nil
		}
	}
	for name, in := range map[string]request{
		"by id":     {path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","onBusy":"queue","conversationId":"c1"}`},
		"by host":   {path: "/api/v1/chat", host: "ventas.nido.test", body: `{"message":"a","onBusy":"queue"}`},
		"streaming": {path: "/api/v1/chat/stream", host: "ventas.nido.test", body: `{"message":"a","onBusy":"queue"}`},
		"once":      {path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","onBusy":"queue"}`, header: map[string]string{"Idempotency-Key": "k1"}},
		"OpenAI":    {path: "/openai/v1/chat/completions", body: `{"model":"ventas","messages":[{"role":"user","content":"a"}],"metadata":{"conversation_id":"c1","on_busy":"queue","team":"x"}}`},
	} {
		in.method, in.key = "POST", key
		busyTimes(7) // oftener than a turn is tried
		answer := w.do(in)
		if answer.Code != 200 || len(w.turns) != 8 || len(w.counted) != 1 {
			t.Errorf("%s: %d after %d tries, counted %d times: %s", name, answer.Code, len(w.turns), len(w.counted), answer.Body)
		}
		if kept := w.turns[0].Metadata; kept["on_busy"] != "" {
			t.Errorf("%s: kept with the conversation: %v", name, kept)
		}
	}
	chat := request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","onBusy":"queue"}`, key: key}
	busyTimes(1)
	w.places.full = true
	w.refused(w.do(chat), 409, "conversation_busy")
	w.places.full = false

	// Its key may have been revoked while it waited.
	w.turns = nil
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		for id, caller := range w.callers {
			caller.RevokedAt = new(noon)
			w.callers[id] = caller
		}
		return commands.Reply{}, domain.Refuse("conversation_busy", "busy", "ocupada")
	}
	w.refused(w.do(chat), 401, "revoked_api_key")
	if len(w.turns) != 1 {
		t.Errorf("it was tried %d times", len(w.turns))
	}
	key = w.key(accountScopes)
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"a","onBusy":"wait"}`, key: key}), 400, "invalid_request")
	w.refused(w.do(request{method: "POST", path: "/openai/v1/chat/completions", key: key, body: `{"model":"ventas","messages":[{"role":"user","content":"a"}],"metadata":{"on_busy":"wait"}}`}), 400, "invalid_request")
	w.line.Close()
	busyTimes(1)
	chat.key = key
	w.refused(w.do(chat), 503, "unavailable")
}

func TestAConversationWithoutAnIDIsOneThatLiesReady(t *testing.T) {
	w := newWorld(t)
	key := w.key([]apikey.Scope{apikey.Chat})
	lie := func() {
		w.blanks["agt_1"], w.doors = []commands.Blank{{ID: "conv_ready", Mac: "mac-of-conv_ready", Key: "dk_ready"}}, nil
	}
	chat := func(body string, header map[string]string) (*httptest.ResponseRecorder, commands.Turn) {
		lie()
		w.turns = nil
		answer := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", key: key, body: body, header: header})
		if len(w.turns) == 0 {
			return answer, commands.Turn{}
		}
		return answer, w.turns[len(w.turns)-1]
	}

	_, turn := chat(`{"query": "Hola"}`, nil)
	if turn.Conversation != "conv_ready" || turn.Mac != "mac-of-conv_ready" || turn.DataKey == nil || turn.DataKey.ID() != "dk_ready" || !turn.Sole {
		t.Errorf("%+v", turn)
	}
	if len(w.blanks["agt_1"]) != 0 || !slices.Equal(w.doors, []string{"agt_1 agt_1"}) {
		t.Errorf("%v left, begun at %v", w.blanks, w.doors)
	}
	for name, asked := range map[string]struct {
		body   string
		header map[string]string
	}{
		"a client's own id":                  {`{"query": "Hola", "conversationId": "conv-123"}`, nil},
		"a request that may come once again": {`{"query": "Hola"}`, map[string]string{idempotencyHeader: "once"}},
	} {
		if _, turn := chat(asked.body, asked.header); turn.Conversation == "" || turn.Conversation == "conv_ready" || turn.DataKey != nil || len(w.blanks["agt_1"]) != 1 || w.doors != nil {
			t.Errorf("%s: %+v, %v left, begun at %v", name, turn, w.blanks, w.doors)
		} else if turn.Sole == (asked.header != nil) {
			t.Errorf("%s: sole %v", name, turn.Sole)
		}
	}

	lie()
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", key: w.key([]apikey.Scope{apikey.AgentsRead}), body: `{"query": "Hola"}`}), 403, "missing_scope")
	if len(w.blanks["agt_1"]) != 1 || w.doors != nil {
		t.Errorf("a refused message uses one up: %v left, begun at %v", w.blanks, w.doors)
	}
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{}, commands.ErrUnknownOutcome
	}
	w.refused(w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", key: key, body: `{"query": "Hola"}`}), 503, "unknown_outcome")
	if len(w.blanks["agt_1"]) != 0 || w.doors != nil {
		t.Errorf("one whose message may be in the log is used again: %v left, begun at %v", w.blanks, w.doors)
	}
}
