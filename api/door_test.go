package api

// This file tests what counts as load at the door, and who passes by it.

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/apikey"
)

func TestAnOverloadedNodeAnswersProbesAndAdministrators(t *testing.T) {
	w := newWorld(t)
	for _, g := range []*gate{&w.server.gates.chats, &w.server.gates.rest, &w.server.gates.analyses} {
		g.limit = 0
	}
	key := w.key(accountScopes)
	for _, path := range []string{"/api/agents", "/api/logs", "/api/stats/conversations"} {
		answer := w.do(request{method: "GET", path: path, key: key})
		if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
	if answer := w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: `{"query":"hola"}`, key: key}); answer.Code != http.StatusServiceUnavailable {
		t.Errorf("chat: %d %s", answer.Code, answer.Body)
	}
	if answer := w.do(request{method: "GET", path: "/livez"}); answer.Code != http.StatusOK {
		t.Errorf("probe: %d %s", answer.Code, answer.Body)
	}
}

// reading is a body whose sender takes their time.
type reading struct{ began, ends chan struct{} }

func (b reading) Read([]byte) (int, error) {
	close(b.began)
	<-b.ends
	return 0, io.EOF
}

func TestWhoSendsABodyWhereThereIsNoneIsNoLoad(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		body := reading{make(chan struct{}), make(chan struct{})}
		r := httptest.NewRequest(method, "/api/agents/agt_1", body)
		r.Host = "nido.test"
		r.Header.Set("Authorization", "Bearer "+w.key(accountScopes))
		answered := make(chan *httptest.ResponseRecorder)
		go func() {
			recorder := httptest.NewRecorder()
			w.server.ServeHTTP(recorder, r)
			answered <- recorder
		}()
		<-body.began
		gate := &w.server.gates.rest
		gate.mu.Lock()
		if gate.inside != 0 {
			t.Errorf("%s: %d inside", method, gate.inside)
		}
		gate.mu.Unlock()
		close(body.ends)
		if answer := <-answered; answer.Code >= 300 {
			t.Errorf("%s: %d %s", method, answer.Code, answer.Body)
		}
	}
}

// waiting sends a chat in the background, and says how many are inside while it waits.
func waiting(t *testing.T, w *world, in request) (inside int, answered <-chan *httptest.ResponseRecorder) {
	t.Helper()
	answers := make(chan *httptest.ResponseRecorder, 1)
	go func() { answers <- w.do(in) }()
	synctest.Wait()
	chats := &w.server.gates.chats
	chats.mu.Lock()
	defer chats.mu.Unlock()
	return chats.inside, answers
}

func TestARepetitionThatWaitsForTheFirstRequestIsNoLoad(t *testing.T) {
	for name, body := range map[string]string{"whole": aChat, "streamed": streamed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				key := w.key(accountScopes)
				chat := request{method: "POST", path: aChatsPath, body: body, key: key, header: map[string]string{"Idempotency-Key": "once"}}
				r := withExchange(httptest.NewRequest(chat.method, chat.path, nil), &exchange{})
				first := &keptAnswer{fingerprint: fingerprint(r, []byte(body)), inputs: commands.NewInputs(noon), inFlight: true}
				for id := range w.callers {
					w.kept["acc_1"+id+"once"] = first
				}
				if name == "streamed" { // which waits until the first one's turn has been accepted
					inside, answered := waiting(t, w, chat)
					if inside != 0 {
						t.Errorf("%d inside while it waits for the first request", inside)
					}
					w.refused(<-answered, 409, "idempotency_in_flight")
				}

				// The first one's node has died, and its turn goes on elsewhere.
				first.inFlight, w.committed = false, 1
				turn := w.found["turn_1"]
				end := turn.End
				turn.End = nil
				w.found[first.inputs.ID("turn")] = turn
				inside, answered := waiting(t, w, chat)
				if inside != 0 {
					t.Errorf("%d inside while it follows the turn", inside)
				}
				w.mu.Lock()
				turn.End = end
				w.found[first.inputs.ID("turn")] = turn
				w.mu.Unlock()
				if answer := <-answered; answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "¡Hola, Ana!") || len(w.turns) != 0 {
					t.Errorf("%d %s", answer.Code, answer.Body)
				}
			})
		})
	}
}

func TestATurnThatWaitsForTheModelIsNoLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.begun = make(chan *commands.Live, 1)
		chats := &w.server.gates.chats
		chats.limit = 1
		for name, body := range map[string]string{"whole": `{"query":"hola"}`, "streamed": `{"query":"hola","streaming":true}`} {
			answers := make(chan *httptest.ResponseRecorder, 1)
			go func() {
				answers <- w.do(request{method: "POST", path: "/api/v2/agent/agt_1/chat", body: body, key: w.key(accountScopes)})
			}()
			live := <-w.begun
			synctest.Wait()
			if chats.inside != 0 {
				t.Errorf("%s: %d counted while the model is asked", name, chats.inside)
			}
			if ended := w.turns[len(w.turns)-1].Ending(); chats.inside != 1 {
				t.Errorf("%s: %d counted while its end goes to the log", name, chats.inside)
			} else {
				ended()
			}
			live.End(commands.Reply{MessageID: "msg_1", ConversationID: live.ConversationID, Model: "echo", CreatedAt: noon}, nil)
			if answer := <-answers; answer.Code != http.StatusOK {
				t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
			}
			if chats.inside != 0 {
				t.Errorf("%s: %d counted behind the end", name, chats.inside)
			}
		}
	})
}

func TestWhoInventsKeysWaitsBehindOtherStrangersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mine := request{method: "GET", path: "/api/me", key: w.key(accountScopes)}
		if answer := w.do(mine); answer.Code != http.StatusOK {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
		gate := &w.server.gates.rest
		*gate = newGate(gateConfig{least: 1, most: 1, target: time.Second, patience: time.Minute, crowdedPatience: time.Minute})
		leave, _ := gate.enter(t.Context(), "somebody")
		answers := make(chan int, 30)
		ask := func(in request) {
			go func() { answers <- w.do(in).Code }()
			synctest.Wait()
		}
		for range 20 {
			invented := request{method: "GET", path: "/api/me", key: w.key(accountScopes)}
			key, err := apikey.Parse(invented.key)
			if err != nil {
				t.Fatal(err)
			}
			delete(w.callers, key.PublicID)
			ask(invented)
		}
		ask(mine)
		leave()
		for before := 0; ; before++ {
			if code := <-answers; code == http.StatusOK {
				if before > 1 {
					t.Errorf("%d of strangers went before a key that is known", before)
				}
				break
			}
		}
	})
}

func TestKeysAreKnownForAWhileAndNotTooMany(t *testing.T) {
	w, known := newWorld(t), acquaintances{}
	keyOf := func() apikey.Key {
		key, err := apikey.Parse(w.key(accountScopes))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := keyOf()
	known.met(first, noon)
	for _, at := range []time.Duration{knownFor, 2*knownFor + time.Second} {
		if known.queueOf(first) != first.PublicID {
			t.Errorf("forgotten before %v", at)
		}
		known.met(keyOf(), noon.Add(at))
	}
	if known.queueOf(first) != first.PublicID {
		t.Error("forgotten in the second period")
	}
	known.met(keyOf(), noon.Add(4*knownFor))
	if known.queueOf(first) != strangers {
		t.Error("known for ever")
	}
	for i := range maxKnown { // the map need not hold real keys to be full
		known.now[[32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}] = struct{}{}
	}
	last := keyOf()
	known.met(last, noon.Add(4*knownFor))
	if len(known.now) != 1 || len(known.before) < maxKnown || known.queueOf(last) != last.PublicID {
		t.Errorf("%d and %d keys are known", len(known.now), len(known.before))
	}
}
