package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// events splits a stream into its events: id, event and data.
func events(body string) (all []map[string]string) {
	for block := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		event := map[string]string{}
		for line := range strings.SplitSeq(block, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			event[name] = value
		}
		all = append(all, event)
	}
	return all
}

const streamed = `{"query":"a","streaming":true}`

func TestTheEventsOfATurnFitTheDocument(t *testing.T) {
	w := newWorld(t)
	doc, err := loadDocument(document)
	if err != nil {
		t.Fatal(err)
	}
	for sentence, test := range map[string]struct {
		err    error
		name   string
		schema string
	}{
		"completed": {nil, "turn.completed", "TurnReply"},
		"cancelled": {commands.ErrClientGone, "turn.cancelled", "TurnReply"},
		"failed":    {&commands.ModelError{Code: "upstream_timeout", Err: errors.New("said the provider")}, "turn.failed", "ErrorEnvelope"},
	} {
		w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
			return commands.Reply{MessageID: "msg_1", ConversationID: "conv_1", Text: "¡Hola!", Model: "echo", CreatedAt: noon}, test.err
		}
		answer := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: streamed, key: w.key(accountScopes)})
		told := events(answer.Body.String())
		names, schemas := []string{"", "turn.started", "message.delta", test.name, ""}, []string{"", "TurnStarted", "MessageDelta", test.schema, ""}
		if len(told) != 5 || told[0]["retry"] != "2000" || told[4]["data"] != "[DONE]" || !strings.HasSuffix(told[2]["id"], ":7") {
			t.Fatalf("%s: %v", sentence, told)
		}
		for i, event := range told {
			if event["event"] != names[i] {
				t.Errorf("%s: event %d is %v", sentence, i, event)
			}
			if schemas[i] == "" {
				continue
			}
			var data any
			if err := json.Unmarshal([]byte(event["data"]), &data); err != nil {
				t.Fatal(err)
			}
			if err := doc.Components.Schemas[schemas[i]].Value.VisitJSON(data, openapi3.VisitAsResponse(), openapi3.EnableFormatValidation()); err != nil {
				t.Errorf("%s: %v", event["data"], err)
			}
		}
		line := w.records[len(w.records)-1]
		if string(line.ResponseBody.Text) != told[3]["data"] || line.ResponseBody.Bytes != int64(answer.Body.Len()) || line.Owner == "" {
			t.Errorf("%s: the request log has %q for %d bytes", sentence, line.ResponseBody.Text, line.ResponseBody.Bytes)
		}
	}
}

func TestAStreamThatBrokeOffGoesOnFromWhatIsStored(t *testing.T) {
	w := newWorld(t)
	const path = "/api/v1/turns/turn_1/events"
	key := w.key(accountScopes)
	rest := func(last string) string {
		told := events(w.do(request{method: "GET", path: path, key: key, header: map[string]string{"Last-Event-ID": last}}).Body.String())
		text := ""
		for _, event := range told {
			var delta MessageDelta
			if event["event"] == "message.delta" && json.Unmarshal([]byte(event["data"]), &delta) == nil {
				text += delta.Text
			}
		}
		if told[len(told)-2]["id"] != "turn_1:end" {
			t.Errorf("behind %q: %v", last, told)
		}
		return text
	}
	for last, want := range map[string]string{"turn_1:0": "¡Hola, Ana!", "turn_1:8": "Ana!", "turn_1:13": "", "turn_1:400": "", "turn_1:1": "¡Hola, Ana!"} {
		if got := rest(last); got != want {
			t.Errorf("behind %s: %q", last, got)
		}
	}
	if answer := w.do(request{method: "GET", path: path, key: key, header: map[string]string{"Last-Event-ID": "turn_1:end"}}); answer.Code != http.StatusNoContent {
		t.Errorf("behind the end: %d", answer.Code)
	}
	for _, last := range []string{"turn_2:4", "turn_1:", "turn_1:-1", "4", "turn_1:x"} {
		w.refused(w.do(request{method: "GET", path: path, key: key, header: map[string]string{"Last-Event-ID": last}}), 400, "invalid_request")
	}
	bound := w.key(accountScopes, func(c *projections.Caller) { c.AgentIDs = []string{"agt_2"} })
	w.refused(w.do(request{method: "GET", path: path, key: bound}), 404, "turn_not_found")
	w.refused(w.do(request{method: "GET", path: path, key: w.key(accountScopes, func(c *projections.Caller) { c.Account = "acc_2" })}), 404, "turn_not_found")

	// A turn that another node runs: pieces first, its end once it is there.
	open := w.found["turn_1"]
	end := open.End
	open.End = nil
	w.found["turn_1"] = open
	w.pieces["turn_1"] = []commands.TurnPiece{
		{Turn: "turn_1", Offset: 0, Text: domain.Sealed{Key: "dk_1", Data: []byte("¡Hola, ")}},
		{Turn: "turn_1", Offset: 8, Text: domain.Sealed{Key: "dk_1", Data: []byte("Ana")}},
	}
	stored := &storedTurn{server: w.server, account: "acc_1", id: "turn_1"}
	for from, want := range map[int]string{0: "¡Hola, Ana", 3: "ola, Ana", 8: "Ana", 9: "na"} {
		if step, err := stored.Next(t.Context(), from, nil); err != nil || step.Text != want || step.End != nil {
			t.Errorf("from %d: %+v, %v", from, step, err)
		}
	}
	if step, err := stored.Next(t.Context(), 11, time.After(time.Millisecond)); err != nil || step != (commands.Step{}) {
		t.Errorf("behind all of it: %+v, %v", step, err)
	}
	end.Outcome, end.Code = projections.Failed, "interrupted"
	open.End = end
	w.found["turn_1"] = open
	if step, err := stored.Next(t.Context(), 11, nil); err != nil || step.Text != "!" || step.End == nil || step.End.Err == nil {
		t.Errorf("at the end: %+v, %v", step, err)
	}
}

func TestASilentStreamIsPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		live := commands.NewLive("turn_9", "conv-1", "agt_1", "msg_9", noon)
		time.AfterFunc(25*time.Second, func() {
			live.Say("al fin")
			live.End(commands.Reply{}, nil)
		})
		r := withExchange(httptest.NewRequest(http.MethodGet, "/", http.NoBody), &exchange{})
		recorder := httptest.NewRecorder()
		turn := ofThisNode(live)
		w.server.sendStream(recorder, r, turn, 0, newTurnEvents(w.server, recorder, r, turn, true))
		if pings := strings.Count(recorder.Body.String(), ": ping\n\n"); pings != 2 || !recorder.Flushed || !strings.Contains(recorder.Body.String(), "turn.completed") {
			t.Errorf("%d pings in %s", pings, recorder.Body)
		}
	})
}

// stalled is a connection on which nothing can be written in time.
type stalled struct{ *httptest.ResponseRecorder }

func (s stalled) FlushError() error {
	if strings.Contains(s.Body.String(), "message.delta") {
		return errStalled
	}
	return nil
}

var errStalled = &net.OpError{Op: "write", Err: timedOut{}}

type timedOut struct{}

func (timedOut) Error() string        { return "i/o timeout" }
func (timedOut) Is(target error) bool { return target == os.ErrDeadlineExceeded }

func TestASlowReaderIsLetGoOfAndItsTurnGoesOn(t *testing.T) {
	w := newWorld(t)
	live := commands.NewLive("turn_9", "conv-1", "agt_1", "msg_9", noon)
	live.Say("hola")
	r := withExchange(httptest.NewRequest(http.MethodGet, "/", http.NoBody), &exchange{})
	live.Tie(r.Context())
	turn := ofThisNode(live)
	recorder := stalled{httptest.NewRecorder()}
	w.server.sendStream(recorder, r, turn, 0, newTurnEvents(w.server, recorder, r, turn, true))
	if exchangeOf(r).record.ErrorCode != "request_cancelled" {
		t.Errorf("noted as %q", exchangeOf(r).record.ErrorCode)
	}
	live.End(commands.Reply{}, nil)
	if step, err := live.Next(t.Context(), 4, nil); err != nil || step.End == nil || step.End.Err != nil {
		t.Errorf("%+v, %v", step, err)
	}
	if _, tied := live.Cancelled(t.Context()); tied {
		t.Error("its reader's leaving would have cancelled it")
	}
}

// What is told half must not look whole: an OpenAI client takes a stream that ends well for a reply.
func TestAStreamWhoseTurnIsLostBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.found["turn_8"] = projections.Turn{Agent: "agt_1", ConversationID: domain.Sealed{Key: "dk_1", Data: []byte("conv-1")}, Received: noon}
	w.pieces["turn_8"] = []commands.TurnPiece{{Turn: "turn_8", Text: domain.Sealed{Key: "dk_1", Data: []byte("half a")}}}
	server := httptest.NewServer(w.server)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/turns/turn_8/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.key(accountScopes))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	told := bufio.NewReader(answer.Body)
	for line := ""; !strings.Contains(line, "half a"); {
		if line, err = told.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	delete(w.found, "turn_8") // its conversation is erased
	w.mu.Unlock()
	if rest, err := io.ReadAll(told); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v behind %q", err, rest)
	}
	server.Close() // returns once no request is being handled
	if code := w.last().ErrorCode; code != "turn_not_found" {
		t.Errorf("noted as %q", code)
	}
	if strings.Contains(w.logged.String(), "panicked") {
		t.Errorf("%s", w.logged)
	}
}

func TestAFollowerDoesNotWaitForAStoreThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.silent = true
		began := time.Now()
		_, err := (&storedTurn{server: w.server, account: "acc_1", id: "turn_1"}).Next(t.Context(), 0, nil)
		if took := time.Since(began); err == nil || took < lookPatience || took > lookPatience+2*admitTimeout {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestARepeatedStreamFollowsTheTurnThatItBegan(t *testing.T) {
	w := newWorld(t)
	key := w.key(accountScopes)
	in := request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: streamed, key: key, header: map[string]string{"Idempotency-Key": "once"}}
	first := events(w.do(in).Body.String())
	id, _, _ := strings.Cut(first[1]["id"], ":")
	w.found[id] = w.found["turn_1"]
	again := w.do(in)
	if told := events(again.Body.String()); again.Header().Get("Idempotent-Replayed") != "true" || !strings.HasPrefix(told[1]["id"], id+":") || len(w.turns) != 1 {
		t.Errorf("%v %s after %d turns", again.Header(), again.Body, len(w.turns))
	}
	if !w.turns[0].Continue || !w.turns[0].Streamed {
		t.Errorf("%+v", w.turns[0])
	}
	dead := w.found["turn_1"] // as a sweeper ends the turn of a node that died
	end := *dead.End
	end.Outcome, end.Code, end.Text = projections.Failed, "interrupted", domain.Sealed{Key: "dk_1", Data: []byte("¡Hola")}
	dead.End = &end
	w.found[id] = dead
	if answer := w.do(in); !strings.Contains(answer.Body.String(), "¡Hola") || !strings.Contains(answer.Body.String(), "turn.failed") || len(w.turns) != 1 {
		t.Errorf("%s after %d turns", answer.Body, len(w.turns))
	}
	if answer := w.do(in); answer.Header().Get("Idempotent-Replayed") != "" || !strings.Contains(answer.Body.String(), "turn.completed") || len(w.turns) != 2 {
		t.Errorf("whoever was told that it failed asks again: %s after %d turns", answer.Body, len(w.turns))
	}

	in.body = `{"query":"b","streaming":true}`
	w.refused(w.do(in), 422, "idempotency_key_reused")

	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{}, domain.Refuse("conversation_busy", "busy", "ocupada")
	}
	in.header = map[string]string{"Idempotency-Key": "busy"}
	w.refused(w.do(in), 409, "conversation_busy")
	w.send = func(context.Context, commands.Turn) (commands.Reply, error) {
		return commands.Reply{}, &commands.ModelError{Code: "upstream_error", Err: errors.New("said the provider")}
	}
	for turns := 4; turns < 6; turns++ { // what was refused or has failed begins anew
		if answer := w.do(in); answer.Code != 200 || !strings.Contains(answer.Body.String(), "turn.failed") || len(w.turns) != turns {
			t.Errorf("%d %s after %d turns", answer.Code, answer.Body, len(w.turns))
		}
	}
}

// A client of a streamed turn that goes away is noticed while nothing is said.
func TestAStreamsReaderThatGoesAwayIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.found["turn_8"] = projections.Turn{Agent: "agt_1", ConversationID: domain.Sealed{Key: "dk_1", Data: []byte("conv-1")}, Received: noon}
	server := httptest.NewServer(w.server)
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/turns/turn_8/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.key(accountScopes))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if line, err := bufio.NewReader(answer.Body).ReadString('\n'); err != nil || line != "retry: 2000\n" {
		t.Fatalf("%q, %v", line, err)
	}
	leave()
	left := time.Now()
	server.Close() // returns once no request is being handled
	if took := time.Since(left); took > time.Second {
		t.Errorf("noticed after %v", took)
	}
}
