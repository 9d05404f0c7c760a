package e2e

// This file stops nodes, and clients, at the worst moment: in the middle of a turn, between two commits of one command,
// behind a transaction of the fold.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// A message that holds one of these words gets what the word says.
const (
	hangs   = "hang"   // a first token, and then nothing until the caller goes away
	pauses  = "pause"  // a reply that comes when the test says so
	promise = "token " // the first token of what hangs
)

// stage is an installation with a model, and a node for what stays.
type stage struct {
	*breakable
	t     *testing.T
	model *modeltest.Server
	env   []string
	root  *client // on a node that nobody stops
	agent agentView
	fold  *process // projector and sweeper
	// resume lets the replies come that pause.
	resume chan struct{}
}

func startStage(t *testing.T, env ...string) *stage {
	t.Helper()
	s := &stage{breakable: startInstallation(t), t: t, resume: make(chan struct{})}
	s.model = modeltest.New(modeltest.Options{Reply: func(asked modeltest.Request) modeltest.Reply {
		text := asked.Messages[len(asked.Messages)-1].Text
		switch {
		case strings.Contains(text, hangs):
			return modeltest.Reply{Tokens: []string{promise, "and more"}, HangAfter: 1}
		case strings.Contains(text, pauses):
			<-s.resume
		}
		return modeltest.Words("you said: " + text)
	}})
	t.Cleanup(s.model.Close)
	s.env = append(append(s.engines, "NIDO_MODEL_BASE_URL="+s.model.OpenAI()), env...)
	s.fold = startNode(t, s.env, "projector,sweeper")
	s.root = newClient(t, startNode(t, s.env, "api").base, s.key)
	s.agent = s.root.createAgent("Stage")
	return s
}

// node starts another API node.
func (s *stage) node(t *testing.T, env ...string) (*process, *client) {
	t.Helper()
	p := startNode(t, append(s.env[:len(s.env):len(s.env)], env...), "api")
	return p, newClient(t, p.base, s.key)
}

// beginTurn sends a message in the background and waits until the model is asked. The answer comes through the channel.
func (s *stage) beginTurn(t *testing.T, ctx context.Context, c *client, conversation, text string) <-chan answer {
	t.Helper()
	asked := s.model.Stats().Requests
	answered := make(chan answer, 1)
	go func() {
		got, err := c.do(ctx, "POST", chatPath(s.agent.ID), chatBody(conversation, text))
		if err != nil {
			got = answer{}
		}
		answered <- got
	}()
	await(t, 20*time.Second, "the model to be asked", func() bool { return s.model.Stats().Requests > asked })
	await(t, 20*time.Second, "the message to be kept", func() bool {
		got, err := s.root.do(t.Context(), "GET", "/api/conversations/"+conversation+"/messages?agentId="+s.agent.ID, nil)
		return err == nil && got.status == 200
	})
	return answered
}

// end waits for the end of a conversation's one turn.
func (s *stage) end(t *testing.T, conversation string, limit time.Duration) (reply messageView) {
	t.Helper()
	await(t, limit, "the turn's end", func() bool {
		said := s.root.messages(s.agent.ID, conversation)
		if len(said) == 2 {
			reply = said[1]
		}
		return len(said) == 2
	})
	return reply
}

// logged waits until the request log has a conversation's chat.
func (s *stage) logged(t *testing.T, conversation string) (status int) {
	t.Helper()
	await(t, 20*time.Second, "the chat's line in the request log", func() bool {
		var page struct {
			Data []struct {
				Status int
				Route  string
			}
		}
		s.root.must(200, "GET", "/api/logs?method=POST&conversationId="+conversation, nil).into(t, &page)
		if len(page.Data) > 0 {
			status = page.Data[0].Status
		}
		return len(page.Data) > 0
	})
	return status
}

func TestATurnWhoseClientOrNodeStops(t *testing.T) {
	t.Parallel()
	s := startStage(t)

	t.Run("a client that goes away cancels the upstream call within a second, and the turn with it", func(t *testing.T) {
		times := 0
		withinASecond(t, "leaving the model alone", func() time.Duration {
			times++
			conversation := fmt.Sprintf("gone-%d", times)
			ctx, leave := context.WithCancel(t.Context())
			answered := s.beginTurn(t, ctx, s.root, conversation, hangs)
			left := time.Now()
			leave()
			<-answered
			await(t, 10*time.Second, "the model to be left alone", func() bool {
				stats := s.model.Stats()
				return stats.Active == 0 && stats.Cut == times
			})
			took := time.Since(left)
			if reply := s.end(t, conversation, 10*time.Second); reply.Status != "cancelled" || reply.Text != promise {
				t.Errorf("the end: %+v", reply)
			}
			if status := s.logged(t, conversation); status != 499 {
				t.Errorf("the request log says %d", status)
			}
			return took
		})
	})

	t.Run("a node that is told to stop ends the turns that it cuts off, and logs them", func(t *testing.T) {
		node, c := s.node(t, "NIDO_STOP_TIMEOUT=500ms")
		for i := range 5 {
			s.beginTurn(t, t.Context(), c, fmt.Sprintf("stopped-%d", i), hangs)
		}
		if code := node.stop(syscall.SIGTERM, 20*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		for i := range 5 {
			conversation := fmt.Sprintf("stopped-%d", i)
			// With what was said, by the node itself, and so sooner than by the sweeper: cancelled with the connection, or
			// interrupted with a word to the client.
			reply := s.end(t, conversation, time.Second)
			told := reply.Status == "failed" && reply.Error != nil && *reply.Error == "interrupted"
			if !told && reply.Status != "cancelled" || reply.Text != promise {
				t.Errorf("the end: %+v", reply)
			}
			if status := s.logged(t, conversation); status != 499 && status != 502 {
				t.Errorf("the request log says %d", status)
			}
		}
	})

	t.Run("side by side", func(t *testing.T) {
		t.Run("a node that dies leaves its turn to the sweeper", func(t *testing.T) {
			t.Parallel()
			node, c := s.node(t)
			answered := s.beginTurn(t, t.Context(), c, "dead", hangs)
			node.stop(syscall.SIGKILL, 20*time.Second)
			if got := <-answered; got.status != 0 {
				t.Errorf("answered %d by a dead node", got.status)
			}
			s.root.must(409, "POST", chatPath(s.agent.ID), chatBody("dead", "too early"))
			if reply := s.end(t, "dead", time.Minute); reply.Status != "failed" || reply.Error == nil || *reply.Error != "interrupted" {
				t.Errorf("the end: %+v", reply)
			}
			s.root.chat(s.agent.ID, "dead", "and on it goes")
		})

		t.Run("a node that sleeps through the sweeper's end accepts it", func(t *testing.T) {
			t.Parallel()
			node, c := s.node(t)
			answered := s.beginTurn(t, t.Context(), c, "asleep", pauses)
			node.signal(syscall.SIGSTOP)
			if reply := s.end(t, "asleep", time.Minute); reply.Status != "failed" || *reply.Error != "interrupted" {
				t.Errorf("the sweeper's end: %+v", reply)
			}
			close(s.resume)
			node.signal(syscall.SIGCONT)
			if got := <-answered; got.status != 502 || got.code() != "interrupted" {
				t.Errorf("the client hears %d %s", got.status, got.body)
			}
			if said := s.root.messages(s.agent.ID, "asleep"); len(said) != 2 || said[1].Status != "failed" {
				t.Errorf("the conversation: %+v", said)
			}
			// It is alive again, and its turns are its own.
			if got := c.must(200, "POST", chatPath(s.agent.ID), chatBody("awake", "hola")); got.status != 200 {
				t.Errorf("%s", got.body)
			}
		})
	})
	checkTurns(t, s.breakable)
}

func TestACreatorThatDiesBetweenItsCommits(t *testing.T) {
	t.Parallel()
	s := startStage(t, "NIDO_CLAIM_TIMEOUT=8s") // so long that the test sees the claim before it is over
	create := func(c *client, slug string, headers ...string) (answer, error) {
		return c.do(t.Context(), "POST", "/api/agents", map[string]any{"name": slug, "slug": slug, "model": "m"}, headers...)
	}
	dies := func(t *testing.T, refused bool, slug, event string, headers ...string) {
		t.Helper()
		node, c := s.node(t)
		s.kafka.killOn(node, refused, slug, event)
		if got, err := create(c, slug, headers...); err == nil {
			t.Fatalf("answered: %d %s", got.status, got.body)
		}
		<-node.gone
	}

	t.Run("before the agent: the name is given back", func(t *testing.T) {
		t.Parallel()
		dies(t, true, "never-made", "agent.created")
		if got, err := create(s.root, "never-made"); err != nil || got.code() != "slug_taken" {
			t.Errorf("while it is claimed: %d %s, %v", got.status, got.body, err)
		}
		s.root.onHost("never-made").must(404, "POST", "/api/v1/chat", map[string]any{"message": "hola"})
		await(t, 30*time.Second, "the name to be free", func() bool {
			got, err := create(s.root, "never-made")
			return err == nil && got.status == 201
		})
	})

	t.Run("behind the agent: the name is bound", func(t *testing.T) {
		t.Parallel()
		dies(t, true, "half-made", "host.bound")
		await(t, 30*time.Second, "the agent to answer under its name", func() bool {
			got, err := s.root.onHost("half-made").do(t.Context(), "POST", "/api/v1/chat", map[string]any{"message": "hola"})
			return err == nil && got.status == 200
		})
		if got, err := create(s.root, "half-made"); err != nil || got.code() != "slug_taken" {
			t.Errorf("another of that name: %d %s, %v", got.status, got.body, err)
		}
	})

	t.Run("under an Idempotency-Key: the repetition finishes what the first began, with the same id", func(t *testing.T) {
		t.Parallel()
		key := []string{"Idempotency-Key", "once"}
		dies(t, false, "once-made", "agent.created", key...)
		var agent agentView
		await(t, time.Minute, "another node to take the request over", func() bool {
			got, err := create(s.root, "once-made", key...)
			if err != nil || got.status != 201 && got.code() != "idempotency_in_flight" {
				t.Fatalf("the repetition: %d %s, %v", got.status, got.body, err)
			}
			if got.status == 201 {
				got.into(t, &agent)
			}
			return got.status == 201
		})
		again, err := create(s.root, "once-made", key...)
		if err != nil || again.header.Get("Idempotent-Replayed") != "true" || !strings.Contains(string(again.body), agent.ID) {
			t.Errorf("once more: %d %s, %v", again.status, again.body, err)
		}
		var list struct{ Data []agentView }
		s.root.must(200, "GET", "/api/agents?limit=100", nil).into(t, &list)
		made := 0
		for _, one := range list.Data {
			if one.Name == "once-made" {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%d agents were made", made)
		}
	})
}

func TestAProjectorThatIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := startStage(t)
	s.kafka.forgetOffsets() // so that every new one is given everything once more
	startNode(t, s.env, "sweeper")
	projector := s.fold
	load, stop := context.WithCancel(t.Context())
	var answered atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		inParallel(8, 8, func(i int) {
			for j := 0; load.Err() == nil; j++ {
				got, err := s.root.do(t.Context(), "POST", chatPath(s.agent.ID), chatBody(fmt.Sprintf("killed-%d-%d", i, j%10), "hola"))
				switch {
				case err == nil && got.status == 200:
					answered.Add(1)
				case err != nil && !errors.Is(err, context.Canceled), got.status != 503 && got.status != http.StatusConflict:
					t.Errorf("chat: %d %s, %v", got.status, got.body, err)
				}
			}
		})
	}()
	for range 3 {
		before := answered.Load()
		await(t, 20*time.Second, "chats to be answered", func() bool { return answered.Load() > before+50 })
		projector.stop(syscall.SIGKILL, 20*time.Second)
		projector = startNode(t, s.env, "projector")
	}
	stop()
	<-done
	await(t, time.Minute, "every turn to have its end", func() bool { return openTurns(t, s.breakable) == 0 })
	t.Logf("%d chats answered", answered.Load())
	checkTurns(t, s.breakable)
}
