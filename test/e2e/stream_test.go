package e2e

// This file follows turns while they run: on the node that runs them, on another, after their end, and when a node is
// killed in between.

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// reply is the mock's: with what it is asked decides how it says it.
func spoken(asked modeltest.Request) modeltest.Reply {
	text := asked.Messages[len(asked.Messages)-1].Text
	reply := modeltest.Reply{Tokens: []string{"¡Hola, ", "señor ", "Núñez! ", "\n\"¿Qué ", "tal?\" ", "👋🏽", " <b>&"}}
	switch {
	case strings.HasPrefix(text, "slowly"):
		reply.BetweenTokens = 150 * time.Millisecond
	case strings.HasPrefix(text, "patiently"):
		reply.BetweenTokens = 500 * time.Millisecond
	case strings.HasPrefix(text, "hang"):
		reply.HangAfter = 3
	case strings.HasPrefix(text, "break"):
		reply.ErrorAfter = 3
	case strings.HasPrefix(text, "think"):
		reply.FirstToken, reply.BetweenTokens = 300*time.Millisecond, time.Millisecond
	}
	return reply
}

const whole = "¡Hola, señor Núñez! \n\"¿Qué tal?\" 👋🏽 <b>&"

// streaming is two nodes with every role on the same engines, and the model behind them.
type streaming struct {
	model *modeltest.Server
	nodes [2]*process
	a, b  *client
	agent agentView
	env   []string
}

func startStreaming(t *testing.T) streaming {
	t.Helper()
	model := modeltest.New(modeltest.Options{Reply: spoken})
	t.Cleanup(model.Close)
	_, engines := startEngines(t, t.TempDir())
	key := bootstrap(t, engines)
	s := streaming{model: model, env: append(engines, "NIDO_MODEL_BASE_URL="+model.OpenAI())}
	for i := range s.nodes {
		s.nodes[i] = startNode(t, s.env, "api,projector,sweeper")
	}
	s.a, s.b = newClient(t, s.nodes[0].base, key), newClient(t, s.nodes[1].base, key)
	s.agent = s.a.createAgent("Ventas")
	return s
}

// ask begins a streamed turn on a node.
func (s streaming) ask(c *client, text string, more ...string) *stream {
	c.t.Helper()
	body := map[string]any{"query": text, "streaming": true}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i]] = more[i+1]
	}
	return c.open("POST", "/api/v2/agent/"+s.agent.ID+"/chat", body)
}

func TestStreams(t *testing.T) {
	t.Parallel()
	s := startStreaming(t)

	t.Run("a turn is told in order, with one end", func(t *testing.T) {
		for _, open := range []func() *stream{
			func() *stream { return s.ask(s.a, "hola", "conversationId", "orden") },
			func() *stream {
				return s.a.onHost(s.agent.Slug).open("POST", "/api/v1/chat/stream", map[string]any{"message": "hola"})
			},
			func() *stream {
				return s.a.onHost(s.agent.Slug).open("POST", "/api/v1/chat", map[string]any{"message": "hola", "streaming": true})
			},
		} {
			told := open()
			events := told.rest()
			checkOrder(t, events, 0)
			if told.retry != "2000" || told.header.Get("Cache-Control") != "no-store" || said(t, events) != whole {
				t.Errorf("retry %q, %v, said %q", told.retry, told.header, said(t, events))
			}
			end := events[len(events)-2]
			var reply struct {
				TurnID, Response, ConversationID, MessageID, AgentID, Model string
				Usage                                                       struct{ InputTokens, OutputTokens int }
			}
			if err := json.Unmarshal([]byte(end.data), &reply); err != nil || end.name != "turn.completed" {
				t.Fatalf("%v %+v", err, end)
			}
			if reply.Response != whole || reply.TurnID != turnOf(end) || reply.AgentID != s.agent.ID || reply.Usage.OutputTokens != 7 || reply.MessageID == "" || reply.ConversationID == "" {
				t.Errorf("completed %+v", reply)
			}
			messages := s.b.messages(s.agent.ID, reply.ConversationID)
			if last := messages[len(messages)-1]; last.Text != whole || last.ID != reply.MessageID {
				t.Errorf("kept as %+v", last)
			}
			// Behind every event, on the other node, the rest is the same.
			for _, e := range events[:len(events)-2] {
				from := offsetOf(t, e)
				again := s.b.resume(turnOf(e), e.id).rest()
				checkOrder(t, again, from)
				if rest := said(t, again); rest != whole[from:] || again[len(again)-2].data != end.data {
					t.Errorf("behind %s: %q, %+v", e.id, rest, again[len(again)-2])
				}
			}
			if again := s.b.resume(turnOf(end), "").rest(); said(t, again) != whole || again[0].name != "turn.started" {
				t.Errorf("from the beginning: %+v", again)
			}
			s.b.must(http.StatusNoContent, "GET", "/api/v1/turns/"+turnOf(end)+"/events", nil, "Last-Event-ID", end.id)
		}
	})

	t.Run("a turn that lasts is told like others, and its connection is the next one's", func(t *testing.T) {
		patient, dialled := newClient(t, s.nodes[0].base, s.a.key), atomic.Int32{}
		patient.http.Transport = &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled.Add(1)
			return dialLoopback(ctx, network, address)
		}}
		t.Cleanup(patient.http.CloseIdleConnections)
		for _, conversation := range []string{"larga", "otra"} {
			events := s.ask(patient, "patiently", "conversationId", conversation).rest()
			checkOrder(t, events, 0)
			if end := events[len(events)-2]; said(t, events) != whole || end.name != "turn.completed" {
				t.Errorf("%+v", events)
			}
		}
		patient.must(http.StatusOK, "GET", "/api/me", nil)
		if dialled.Load() != 1 {
			t.Errorf("%d connections", dialled.Load())
		}
	})

	t.Run("an error of the model is one end, in the envelope", func(t *testing.T) {
		events := s.ask(s.a, "break it", "conversationId", "roto").rest()
		checkOrder(t, events, 0)
		end := events[len(events)-2]
		if end.name != "turn.failed" || (answer{body: []byte(end.data)}).code() != "upstream_error" || said(t, events) == "" {
			t.Fatalf("%+v", events)
		}
		again := s.b.resume(turnOf(end), "").rest()
		if said(t, again) != said(t, events) || (answer{body: []byte(again[len(again)-2].data)}).code() != "upstream_error" {
			t.Errorf("again: %+v", again)
		}
	})

	t.Run("what cannot begin is refused with a status", func(t *testing.T) {
		held := s.ask(s.a, "hang", "conversationId", "ocupada")
		held.until("message.delta")
		busy := s.b.must(http.StatusConflict, "POST", "/api/v2/agent/"+s.agent.ID+"/chat", map[string]any{"query": "otra", "conversationId": "ocupada", "streaming": true})
		if busy.code() != "conversation_busy" {
			t.Errorf("%s", busy.body)
		}
		if missing := s.b.must(http.StatusNotFound, "GET", "/api/v1/turns/turn_none/events", nil); missing.code() != "turn_not_found" {
			t.Errorf("%s", missing.body)
		}
		s.b.must(http.StatusBadRequest, "GET", "/api/v1/turns/"+turnOf(held.seen[0])+"/events", nil, "Last-Event-ID", "turn_other:3")
		var other struct{ Key struct{ Key string } }
		s.a.must(http.StatusCreated, "POST", "/api/accounts", map[string]any{"name": "Ajena", "plan": "pro"}).into(t, &other)
		s.b.with(other.Key.Key).must(http.StatusNotFound, "GET", "/api/v1/turns/"+turnOf(held.seen[0])+"/events", nil)
		held.leave()
	})

	t.Run("a client that leaves cancels the model within a second", func(t *testing.T) {
		s.awaitModel(t, func(stats modeltest.Stats) bool { return stats.Active == 0 })
		var told *stream
		withinASecond(t, "leaving the model alone", func() time.Duration {
			cut := s.model.Stats().Cut
			told = s.ask(s.a, "hang")
			told.until("message.delta")
			left := time.Now()
			told.leave()
			s.awaitModel(t, func(stats modeltest.Stats) bool { return stats.Cut == cut+1 && stats.Active == 0 })
			return time.Since(left)
		})
		again := s.b.resume(turnOf(told.seen[0]), "")
		again.until("turn.cancelled")
		if text := said(t, again.seen); !strings.HasPrefix(whole, text) || text == "" {
			t.Errorf("kept %q", text)
		}
	})

	t.Run("a turn that is to continue goes on, and any node tells the rest", func(t *testing.T) {
		for _, back := range []*client{s.a, s.b} {
			told := s.ask(s.a, "slowly", "onDisconnect", "continue")
			last := told.until("message.delta")
			told.leave()
			events := back.resume(turnOf(last), last.id).rest() // while it runs
			checkOrder(t, events, offsetOf(t, last))
			if got := said(t, told.seen) + said(t, events); got != whole || events[len(events)-2].name != "turn.completed" {
				t.Errorf("in all: %q, %+v", got, events[len(events)-2])
			}
			if first := events[0]; first.name != "message.delta" || len(events) < 4 {
				t.Errorf("the rest came as %+v", events)
			}
		}
	})

	t.Run("followers on both nodes read the same", func(t *testing.T) {
		told := s.ask(s.a, "slowly")
		turn := turnOf(told.next())
		var followers sync.WaitGroup
		for i := range 10 {
			follower := []*client{s.a, s.b}[i%2].resume(turn, "")
			followers.Go(func() {
				if events := follower.rest(); said(t, events) != whole {
					t.Errorf("follower %d read %q", i, said(t, events))
				}
			})
		}
		followers.Wait()
		if said(t, told.rest()) != whole {
			t.Errorf("told %+v", told.seen)
		}
	})

	t.Run("50 repetitions of a stream are one turn and one call", func(t *testing.T) {
		asked, turns := s.model.Stats().Requests, sync.Map{}
		inParallel(50, 50, func(i int) {
			told := []*client{s.a, s.b}[i%2].open("POST", "/api/v2/agent/"+s.agent.ID+"/chat",
				map[string]any{"query": "think", "streaming": true}, "Idempotency-Key", "fifty")
			events := told.rest()
			turns.Store(turnOf(events[0]), true)
			if said(t, events) != whole {
				t.Errorf("told %+v", events)
			}
		})
		distinct := 0
		turns.Range(func(any, any) bool { distinct++; return true })
		if called := s.model.Stats().Requests - asked; called != 1 || distinct != 1 {
			t.Errorf("%d calls, %d turns", called, distinct)
		}
	})

	t.Run("50 repetitions of a chat are one turn and one call", func(t *testing.T) {
		asked := s.model.Stats().Requests
		var replied, waited atomic.Int32
		body := map[string]any{"query": "think", "conversationId": "cincuenta"}
		chat := func(c *client) answer {
			got, err := c.do(t.Context(), "POST", "/api/v2/agent/"+s.agent.ID+"/chat", body, "Idempotency-Key", "fifty-more")
			if err != nil {
				t.Error(err)
			}
			return got
		}
		inParallel(50, 50, func(i int) {
			switch got := chat([]*client{s.a, s.b}[i%2]); {
			case got.status == http.StatusOK:
				replied.Add(1)
			case got.code() == "idempotency_in_flight":
				waited.Add(1)
			default:
				t.Errorf("%d %s", got.status, got.body)
			}
		})
		if again := chat(s.b); again.status != http.StatusOK || again.header.Get("Idempotent-Replayed") != "true" || again.object(t)["response"] != whole {
			t.Errorf("again: %d %s", again.status, again.body)
		}
		body["query"] = "think twice"
		if other := chat(s.a); other.status != http.StatusUnprocessableEntity {
			t.Errorf("another body: %d %s", other.status, other.body)
		}
		if called := s.model.Stats().Requests - asked; called != 1 || replied.Load() == 0 || len(s.a.messages(s.agent.ID, "cincuenta")) != 2 {
			t.Errorf("%d calls, %d replies, %d told to wait", called, replied.Load(), waited.Load())
		}
	})

	t.Run("a failed turn lets its Idempotency-Key begin anew", func(t *testing.T) {
		asked := s.model.Stats().Requests
		for range 2 {
			got := s.a.must(http.StatusBadGateway, "POST", "/api/v2/agent/"+s.agent.ID+"/chat", map[string]any{"query": "break"}, "Idempotency-Key", "roto")
			if got.code() != "upstream_error" {
				t.Errorf("%s", got.body)
			}
		}
		if called := s.model.Stats().Requests - asked; called != 2 {
			t.Errorf("%d calls", called)
		}
	})

	t.Run("a stopping node ends its turns and says so", func(t *testing.T) {
		node := startNode(t, s.env, "api,sweeper", "NIDO_STOP_TIMEOUT=1s")
		c := newClient(t, node.base, s.a.key)
		told := s.ask(c, "hang")
		told.until("message.delta")
		if code := node.stop(syscall.SIGTERM, 20*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		events := told.rest()
		checkOrder(t, events, 0)
		if end := events[len(events)-2]; end.name != "turn.failed" || (answer{body: []byte(end.data)}).code() != "interrupted" {
			t.Errorf("%+v", end)
		}
	})

	t.Run("a killed node's turn fails behind what it had sent", func(t *testing.T) {
		told := s.ask(s.a, "hang", "conversationId", "muerta")
		for said(t, told.seen) != "¡Hola, señor Núñez! " {
			told.next()
		}
		turn := turnOf(told.seen[0])
		before := s.b.resume(turn, "") // follows from the other node while it happens
		before.until("message.delta")
		request := map[string]any{"query": "hang", "conversationId": "muerta-2"}
		asked := s.model.Stats().Requests
		go s.a.do(t.Context(), "POST", "/api/v2/agent/"+s.agent.ID+"/chat", request, "Idempotency-Key", "killed")
		s.awaitModel(t, func(stats modeltest.Stats) bool { return stats.Requests == asked+1 })
		await(t, 20*time.Second, "the message", func() bool {
			got, err := s.b.do(t.Context(), "GET", "/api/conversations/muerta-2?agentId="+s.agent.ID, nil)
			return err == nil && got.status == http.StatusOK
		})
		s.nodes[0].stop(syscall.SIGKILL, 20*time.Second)
		killed := time.Now()
		before.until("turn.failed")
		t.Logf("told after %v", time.Since(killed).Round(time.Second))
		after := s.b.resume(turn, "").rest()
		for _, events := range [][]event{before.rest(), after} {
			checkOrder(t, events, 0)
			if end := events[len(events)-2]; said(t, events) != "¡Hola, señor Núñez! " || (answer{body: []byte(end.data)}).code() != "interrupted" {
				t.Errorf("%q, then %+v", said(t, events), end)
			}
		}
		s.b.chat(s.agent.ID, "muerta", "¿sigue ahí?")

		// The repetition finds the same turn, once its node is known to be dead.
		var got answer
		await(t, time.Minute, "the dead node's request to be taken over", func() bool {
			var err error
			got, err = s.b.do(t.Context(), "POST", "/api/v2/agent/"+s.agent.ID+"/chat", request, "Idempotency-Key", "killed")
			return err == nil && got.code() != "idempotency_in_flight"
		})
		if got.code() != "interrupted" || len(s.b.messages(s.agent.ID, "muerta-2")) != 2 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

func (s streaming) awaitModel(t *testing.T, wanted func(modeltest.Stats) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), leastPatience)
	defer cancel()
	if err := s.model.Await(ctx, wanted); err != nil {
		t.Fatal(err)
	}
}

// offsetOf is the place behind an event.
func offsetOf(t *testing.T, e event) int {
	t.Helper()
	_, place, _ := strings.Cut(e.id, ":")
	offset, err := strconv.Atoi(place)
	if err != nil {
		t.Fatalf("%v in %+v", err, e)
	}
	return offset
}

// checkOrder wants a turn's events as they are promised, behind an offset.
func checkOrder(t *testing.T, events []event, offset int) {
	t.Helper()
	if len(events) < 2 {
		t.Fatalf("only %+v", events)
	}
	turn := turnOf(events[0])
	for i, e := range events {
		var want string
		switch {
		case i == len(events)-1:
			if e != (event{data: "[DONE]", at: e.at}) {
				t.Errorf("the last event is %+v", e)
			}
			continue
		case i == len(events)-2:
			want = turn + ":end"
			if !slices.Contains([]string{"turn.completed", "turn.failed", "turn.cancelled"}, e.name) {
				t.Errorf("the end is %+v", e)
			}
		case e.name == "turn.started" && i == 0:
			want = turn + ":0"
		default:
			offset += len(said(t, []event{e}))
			want = fmt.Sprintf("%s:%d", turn, offset)
			if e.name != "message.delta" {
				t.Errorf("event %d is %+v", i, e)
			}
		}
		if e.id != want || !json.Valid([]byte(e.data)) {
			t.Errorf("event %d is %+v, not with the id %s", i, e, want)
		}
	}
}
