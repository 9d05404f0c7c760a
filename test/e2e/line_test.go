package e2e

// This file sends more messages to one conversation than it can answer at a time, on two nodes.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// waiting counts the places that are taken before conversations.
func (s streaming) waiting(t *testing.T) (count int) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), variable(t, s.env, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM nido.turn_waiters`).Scan(&count); err != nil {
		t.Fatal(err)
	}
	return count
}

// queued sends a message that waits where it has to.
func (s streaming) queued(ctx context.Context, c *client, conversation, text string, headers ...string) (answer, error) {
	body := map[string]any{"query": text, "conversationId": conversation, "onBusy": "queue"}
	return c.do(ctx, "POST", "/api/v2/agent/"+s.agent.ID+"/chat", body, headers...)
}

func TestMessagesWaitForTheirConversation(t *testing.T) {
	t.Parallel()
	s := startStreaming(t)

	t.Run("sixteen wait on two nodes, and become turns one after the other", func(t *testing.T) {
		held := s.ask(s.a, "hang", "conversationId", "fila")
		held.until("message.delta")
		asked := s.model.Stats().Requests
		var answered, refused atomic.Int32
		var all sync.WaitGroup
		for i := range 24 {
			all.Go(func() {
				switch got, err := s.queued(t.Context(), []*client{s.a, s.b}[i%2], "fila", fmt.Sprintf("hola %d", i)); {
				case err != nil:
					t.Error(err)
				case got.status == http.StatusOK && got.object(t)["response"] == whole:
					answered.Add(1)
				case got.code() == "conversation_busy" && got.header.Get("Retry-After") != "":
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			})
		}
		await(t, 10*time.Second, "24 messages to wait or to be refused", func() bool { return refused.Load() == 8 && s.waiting(t) == 16 })
		if calls := s.model.Stats().Requests; calls != asked || answered.Load() != 0 {
			t.Errorf("%d calls for messages that wait", calls-asked)
		}
		freed := time.Now()
		held.leave()
		all.Wait()
		t.Logf("16 turns in %v, %d calls of the model", time.Since(freed).Round(time.Millisecond), s.model.Stats().Requests-asked)
		if answered.Load() != 16 || refused.Load() != 8 || s.waiting(t) != 0 {
			t.Errorf("%d answered, %d refused, %d still wait", answered.Load(), refused.Load(), s.waiting(t))
		}
		said := s.b.messages(s.agent.ID, "fila")
		for i, message := range said {
			if want := []string{"user", "assistant"}[i%2]; message.Role != want || (i > 1 && i%2 == 1 && message.Text != whole) {
				t.Errorf("message %d: %+v", i, message)
			}
		}
		if len(said) != 34 {
			t.Errorf("%d messages", len(said))
		}
		for turn, events := range acceptedTurns(t, s.env) {
			if len(events) != 2 || events[0] != "message.received" || !strings.HasPrefix(events[1], "reply.") {
				t.Errorf("turn %s: %v", turn, events)
			}
		}
		db, err := pgx.Connect(t.Context(), variable(t, s.env, "NIDO_POSTGRES_URL"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(context.Background())
		var last, versions int
		if err := db.QueryRow(t.Context(), `SELECT max(version), count(DISTINCT version) FROM read.messages`).Scan(&last, &versions); err != nil || last != 34 || versions != 34 {
			t.Errorf("%v: %d versions up to %d", err, versions, last)
		}
	})

	t.Run("a client that leaves gives its place back, and its repetition is the same request", func(t *testing.T) {
		held := s.ask(s.a, "hang", "conversationId", "ida")
		held.until("message.delta")
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := s.queued(ctx, s.b, "ida", "hola", "Idempotency-Key", "fila-1")
			gone <- err
		}()
		await(t, 20*time.Second, "the message to wait", func() bool { return s.waiting(t) == 1 })
		leave()
		if err := <-gone; err == nil {
			t.Error("it was answered")
		}
		await(t, time.Second, "the place to be free", func() bool { return s.waiting(t) == 0 })
		var all sync.WaitGroup
		all.Go(func() {
			for { // the first one is in flight until its node has noticed that its client left
				got, err := s.queued(t.Context(), s.b, "ida", "hola", "Idempotency-Key", "fila-1")
				if err != nil || got.status != http.StatusOK && got.code() != "idempotency_in_flight" {
					t.Errorf("%v %d %s", err, got.status, got.body)
				}
				if got.code() != "idempotency_in_flight" {
					return
				}
			}
		})
		await(t, 20*time.Second, "the repetition to wait", func() bool { return s.waiting(t) == 1 })
		held.leave()
		all.Wait()
		again, err := s.queued(t.Context(), s.a, "ida", "hola", "Idempotency-Key", "fila-1")
		if err != nil || again.header.Get("Idempotent-Replayed") != "true" || len(s.a.messages(s.agent.ID, "ida")) != 4 {
			t.Errorf("%v %d %s", err, again.status, again.body)
		}
	})

	t.Run("streams and OpenAI's clients wait, too", func(t *testing.T) {
		held := s.ask(s.a, "hang", "conversationId", "flujo")
		held.until("message.delta")
		var all sync.WaitGroup
		all.Go(func() {
			if events := s.ask(s.b, "hola", "conversationId", "flujo", "onBusy", "queue").rest(); said(t, events) != whole {
				t.Errorf("%+v", events)
			}
		})
		all.Go(func() {
			got, err := s.b.do(t.Context(), "POST", "/openai/v1/chat/completions", map[string]any{
				"model": s.agent.Slug, "messages": []map[string]string{{"role": "user", "content": "hola"}},
				"metadata": map[string]string{"conversation_id": "flujo", "on_busy": "queue"},
			})
			if err != nil || got.status != http.StatusOK {
				t.Errorf("%v %d %s", err, got.status, got.body)
			}
		})
		await(t, 20*time.Second, "both to wait", func() bool { return s.waiting(t) == 2 })
		held.leave()
		all.Wait()
		if messages := s.a.messages(s.agent.ID, "flujo"); len(messages) != 6 {
			t.Errorf("%+v", messages)
		}
	})

	t.Run("a stopping node sends away who waits", func(t *testing.T) {
		node := startNode(t, s.env, "api")
		c := newClient(t, node.base, s.a.key)
		held := s.ask(s.a, "hang", "conversationId", "parada")
		held.until("message.delta")
		sent := make(chan answer, 1)
		go func() {
			got, err := s.queued(t.Context(), c, "parada", "hola")
			if err != nil {
				t.Error(err)
			}
			sent <- got
		}()
		await(t, 20*time.Second, "the message to wait", func() bool { return s.waiting(t) == 1 })
		node.signal(syscall.SIGTERM)
		if got := <-sent; got.status != http.StatusServiceUnavailable || got.code() != "unavailable" || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
		if left := s.waiting(t); left != 0 {
			t.Errorf("%d still wait", left)
		}
		held.leave()
		s.awaitModel(t, func(stats modeltest.Stats) bool { return stats.Active == 0 })
	})
}
