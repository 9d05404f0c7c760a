package api

// This file tests the door: who is let in, who waits, and how many there is room for.

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
)

var smallGate = gateConfig{least: 4, most: 64, target: 10 * time.Millisecond, patience: 8 * time.Millisecond}

// offered sends requests into a gate at a pace, each of which takes what serving says of how many are inside.
func offered(t *testing.T, g *gate, every, during time.Duration, serving func(inside int) time.Duration) (served, refused, inVain int) {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	for began := time.Now(); time.Since(began) < during; time.Sleep(every) { // of synctest's clock
		group.Go(func() {
			arrived := time.Now()
			leave, err := g.enter(t.Context())
			waited := time.Since(arrived)
			if waited > 2*g.patience {
				t.Errorf("waited %v, and then %v", waited, err)
			}
			mu.Lock()
			switch {
			case err == nil:
				served++
			case waited > 0:
				inVain++
				fallthrough
			default:
				refused++
			}
			mu.Unlock()
			if err != nil {
				return
			}
			g.mu.Lock()
			inside := g.inside
			g.mu.Unlock()
			time.Sleep(serving(inside))
			leave()
		})
	}
	group.Wait()
	return served, refused, inVain
}

func TestANodeThatIsOfferedTwiceWhatItCanDoDoesWhatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(smallGate)
		// Eight at a time take 4 ms each; more take longer, and no more get done: 2,000 a second.
		busy := func(inside int) time.Duration {
			return max(4*time.Millisecond, time.Duration(inside)*500*time.Microsecond)
		}
		if served, refused, _ := offered(t, &g, time.Millisecond, 2*time.Second, busy); refused > 20 {
			t.Errorf("at half of what it can do, %d were served and %d refused", served, refused)
		}
		served, refused, inVain := offered(t, &g, 250*time.Microsecond, 4*time.Second, busy)
		if served < 7000 || served > 9000 || inVain > refused/10 {
			t.Errorf("of 16,000 in 4 s, %d were served and %d refused, %d of them late", served, refused, inVain)
		}
		if g.limit > 30 {
			t.Errorf("there is room for %.0f, of whom each takes %v", g.limit, busy(int(g.limit)))
		}
		if g.inside != 0 || len(g.waiting) != 0 {
			t.Errorf("%d inside and %d waiting of nobody", g.inside, len(g.waiting))
		}
	})
}

func TestWhatIsSlowByItselfKeepsItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(smallGate)
		far := func(int) time.Duration { return 50 * time.Millisecond } // a cluster on another continent
		offered(t, &g, 30*time.Millisecond, 10*time.Second, far)
		offered(t, &g, 2*time.Millisecond, 5*time.Second, far) // the gate opens as far as is needed
		if served, refused, _ := offered(t, &g, 2*time.Millisecond, 10*time.Second, far); refused > served/10 {
			t.Errorf("%d were served and %d refused, with room for %.0f", served, refused, g.limit)
		}
	})
}

func TestOneThatLeavesTheLineTakesNoRoom(t *testing.T) {
	g := newGate(gateConfig{least: 1, most: 1, target: time.Second, patience: time.Minute})
	leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(ctx); err == nil {
		t.Error("let in beside another")
	}
	leave()
	leave, err = g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

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
