package commands_test

// This file stands at the chat turn: what becomes of a message when all goes well, and when nothing may begin.

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/conversation"
)

const chatStream = domain.StreamID("conversation-agt_1.mac")

// model says what a script says, and remembers what it was asked.
type model struct {
	script  func(ctx context.Context, say func(commands.Chunk) bool) error
	asking  sync.Mutex
	prompts []commands.Prompt
	calls   atomic.Int32
}

// Complete implements commands.Model.
func (m *model) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	m.calls.Add(1)
	m.asking.Lock()
	m.prompts = append(m.prompts, prompt)
	m.asking.Unlock()
	return func(yield func(commands.Chunk, error) bool) {
		going := true
		err := m.script(ctx, func(chunk commands.Chunk) bool {
			going = going && yield(chunk, nil)
			return going
		})
		if err != nil && going {
			yield(commands.Chunk{}, err)
		}
	}
}

// says speaks the pieces 100 ms apart, and the usage with the last.
func says(pieces ...string) func(context.Context, func(commands.Chunk) bool) error {
	return func(ctx context.Context, say func(commands.Chunk) bool) error {
		for i, piece := range pieces {
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			chunk := commands.Chunk{Text: piece, Model: "gpt-4o-mini-2024"}
			if i == len(pieces)-1 {
				chunk.Usage = &conversation.Usage{InputTokens: 7, OutputTokens: 3}
			}
			if !say(chunk) {
				return nil
			}
		}
		return nil
	}
}

// pause waits, or says that the context has ended, as a provider's client does: without the cause.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// silence is a provider that never answers; why is told for which reason it was hung up on.
func silence(after string, why *error) func(context.Context, func(commands.Chunk) bool) error {
	var one sync.Mutex // several turns may be silent
	return func(ctx context.Context, say func(commands.Chunk) bool) error {
		if after != "" {
			say(commands.Chunk{Text: after})
		}
		<-ctx.Done()
		one.Lock()
		defer one.Unlock()
		*why = context.Cause(ctx)
		return ctx.Err()
	}
}

// talk is a chat and all that is around it, inside a synctest bubble.
type talk struct {
	*memory
	*keyring
	*model
	chat *commands.Chat
}

func newTalk(t *testing.T) *talk {
	t.Helper()
	talk := &talk{memory: newMemory(), keyring: newKeyring(), model: &model{script: says("¡Hola, ", "Ana!")}}
	talk.chat = commands.NewChat(commands.ChatConfig{Boot: "boot_1", TotalTimeout: time.Minute, EndTimeout: 15 * time.Second, Logger: slog.New(slog.DiscardHandler)},
		talk.store(), talk.keyring, talk.model)
	t.Cleanup(talk.chat.Close)
	return talk
}

// turn is the message as the chat's one query would put it together now.
func (c *talk) turn(t *testing.T, text string) commands.Turn {
	t.Helper()
	turn := commands.Turn{
		Conversation: "ana@example.org", Mac: "mac", Snapshot: c.snapshot(t, chatStream), AgentID: "agt_1", Text: text,
		Settings: agent.Settings{Name: "Ana", Model: "gpt-4o-mini", Instructions: "Sos amable.", Temperature: new(0.5), MaxOutputTokens: new(100)},
		Metadata: map[string]string{"phone": "+54 11 5555 0000"},
	}
	for _, event := range c.accepted(t, "conversation") {
		switch event := event.(type) {
		case conversation.Started:
			turn.DataKey = c.key(event.Key)
		case conversation.MessageReceived:
			turn.History = append(turn.History, commands.SealedMessage{Role: commands.User, Text: event.Text})
		case conversation.ReplyCompleted:
			turn.History = append(turn.History, commands.SealedMessage{Role: commands.Assistant, Text: event.Text})
		}
	}
	return turn
}

// commitsAre compares the log with what is expected, rejected records included.
func (c *talk) commitsAre(t *testing.T, want ...string) {
	t.Helper()
	if types := typesOf(c.commits()); !slices.Equal(types, want) {
		t.Errorf("commits %q, not %q", types, want)
	}
}

// end is the last thing that happened in the conversation.
func (c *talk) end(t *testing.T) any {
	t.Helper()
	events := c.accepted(t, "conversation")
	return events[len(events)-1]
}

const opened = "conversation.started message.received"

func TestATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		meta, start := metaAt(1), time.Now()
		reply, err := c.chat.Send(t.Context(), meta, c.turn(t, "Hola, soy Ana Pérez"))
		if err != nil {
			t.Fatal(err)
		}
		if reply.Text != "¡Hola, Ana!" || reply.Model != "gpt-4o-mini-2024" || reply.ConversationID != "ana@example.org" ||
			reply.Usage != (conversation.Usage{InputTokens: 7, OutputTokens: 3}) || reply.FirstReply != 100*time.Millisecond ||
			!reply.CreatedAt.Equal(start.Add(200*time.Millisecond)) {
			t.Errorf("reply %+v", reply)
		}
		c.commitsAre(t, opened, "reply.completed")
		events := c.accepted(t, "conversation")
		started, received, completed := events[0].(conversation.Started), events[1].(conversation.MessageReceived), events[2].(conversation.ReplyCompleted)
		if started.Account != "acc_1" || started.Agent != "agt_1" || started.IDMAC != "mac" || started.Key != received.Text.Key || started.Key != reply.DataKey.ID() {
			t.Errorf("started %+v", started)
		}
		if received.Turn != reply.Turn || received.Boot != "boot_1" || received.Received != noon || received.Deadline != noon.Add(time.Minute) {
			t.Errorf("received %+v", received)
		}
		if completed.Turn != reply.Turn || completed.Message != reply.MessageID || completed.Message == received.Message || completed.Usage != reply.Usage ||
			completed.FirstReply != 100*time.Millisecond || completed.FullReply != 200*time.Millisecond {
			t.Errorf("completed %+v", completed)
		}
		for want, sealed := range map[string]domain.Sealed{
			"Hola, soy Ana Pérez": received.Text, "¡Hola, Ana!": completed.Text, "ana@example.org": started.ID, `{"phone":"+54 11 5555 0000"}`: started.Metadata,
		} {
			if plain := c.open(t, sealed); plain != want {
				t.Errorf("sealed %q, not %q", plain, want)
			}
		}
		c.holdsNowhere(t, "Hola, soy Ana", "Ana Pérez", "¡Hola, Ana!", "ana@example.org", "11 5555 0000", "Sos amable.")
		if c.count() != 1 || c.keys[started.Key].owner != string(chatStream) {
			t.Errorf("%d keys were made", c.count())
		}
	})
}

func TestALaterTurnTellsTheModelWhatWasSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		for i, text := range []string{"uno", "dos", "tres"} {
			if _, err := c.chat.Send(t.Context(), metaAt(byte(i+1)), c.turn(t, text)); err != nil {
				t.Fatal(err)
			}
		}
		c.commitsAre(t, opened, "reply.completed", "message.received", "reply.completed", "message.received", "reply.completed")
		want := []commands.Message{
			{Role: commands.User, Text: "uno"}, {Role: commands.Assistant, Text: "¡Hola, Ana!"},
			{Role: commands.User, Text: "dos"}, {Role: commands.Assistant, Text: "¡Hola, Ana!"}, {Role: commands.User, Text: "tres"},
		}
		prompt := c.prompts[2]
		if !slices.Equal(prompt.Messages, want) || prompt.Model != "gpt-4o-mini" || prompt.Instructions != "Sos amable." || *prompt.Temperature != 0.5 || *prompt.MaxOutputTokens != 100 {
			t.Errorf("asked %+v", prompt)
		}
		if c.count() != 1 {
			t.Errorf("%d keys for one conversation", c.count())
		}
	})
}

func TestATurnThatCannotBeginAsksNoModel(t *testing.T) {
	broken := errors.New("connection reset")
	for sentence, test := range map[string]struct {
		spoil func(*testing.T, *talk, *commands.Turn)
		check func(error) bool
	}{
		"while another is open": {func(t *testing.T, c *talk, turn *commands.Turn) {
			var why error
			c.script = silence("", &why)
			gone, leave := context.WithCancel(t.Context())
			go c.chat.Send(gone, metaAt(7), *turn)
			t.Cleanup(leave)
			synctest.Wait()
			*turn = c.turn(t, "otra")
		}, func(err error) bool {
			refusal, ok := errors.AsType[*domain.Refusal](err)
			return ok && refusal.Code == "conversation_busy"
		}},
		"where no key can be made": {func(_ *testing.T, c *talk, _ *commands.Turn) { c.createErr = broken },
			func(err error) bool { return errors.Is(err, commands.ErrUnavailable) && errors.Is(err, broken) }},
		"where the history cannot be opened": {func(_ *testing.T, _ *talk, turn *commands.Turn) {
			turn.History = []commands.SealedMessage{{Role: commands.User, Text: domain.Sealed{Key: "dk_0", Data: make([]byte, 40)}}}
		}, func(err error) bool { return err != nil }},
		"where the state cannot be read": {func(_ *testing.T, _ *talk, turn *commands.Turn) { turn.Snapshot.State = []byte("{") },
			func(err error) bool { return err != nil }},
		"where another account has the conversation": {func(t *testing.T, c *talk, turn *commands.Turn) {
			other := metaAt(7)
			other.Account = "acc_2"
			if _, err := c.chat.Send(t.Context(), other, *turn); err != nil {
				t.Fatal(err)
			}
			*turn = c.turn(t, "otra")
		}, func(err error) bool {
			refusal, ok := errors.AsType[*domain.Refusal](err)
			return ok && refusal.Code == "conversation_not_found"
		}},
		"where the same request began it before": {func(t *testing.T, c *talk, turn *commands.Turn) {
			if _, err := c.chat.Send(t.Context(), metaAt(1), *turn); err != nil {
				t.Fatal(err)
			}
			*turn = c.turn(t, "Hola")
			meta := metaAt(1)
			snapshot, err := c.Load(t.Context(), chatStream, meta.Inputs.Command("receive"))
			if err != nil {
				t.Fatal(err)
			}
			turn.Snapshot = snapshot
		}, func(err error) bool { return errors.Is(err, commands.ErrStale) }},
		"where the same request began it before and it is still open": {func(t *testing.T, c *talk, turn *commands.Turn) {
			c.script = silence("", new(error))
			gone, leave := context.WithCancel(t.Context())
			go c.chat.Send(gone, metaAt(1), *turn)
			t.Cleanup(leave)
			synctest.Wait()
			meta := metaAt(1)
			snapshot, err := c.Load(t.Context(), chatStream, meta.Inputs.Command("receive"))
			if err != nil {
				t.Fatal(err)
			}
			turn.Snapshot = snapshot
		}, func(err error) bool { return errors.Is(err, commands.ErrStale) }},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				turn := c.turn(t, "Hola")
				test.spoil(t, c, &turn)
				calls, commits, keys := c.calls.Load(), len(c.commits()), c.count()
				if reply, err := c.chat.Send(t.Context(), metaAt(1), turn); !test.check(err) || reply != (commands.Reply{}) {
					t.Fatalf("answered %+v, %v", reply, err)
				}
				synctest.Wait()
				if c.calls.Load() != calls || len(c.commits()) != commits || (keys > 0 && c.count() != keys) {
					t.Errorf("%d upstream calls, %d commits, %d keys more", c.calls.Load()-calls, len(c.commits())-commits, c.count()-keys)
				}
			})
		})
	}
}

func TestATurnEndsAtItsDeadlineWheneverItsMessageCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		var why error
		c.script = silence("", &why)
		meta, start := metaAt(1), time.Now()
		meta.Inputs.Now = start.Add(-20 * time.Second) // it waited for its data key
		_, err := c.chat.Send(t.Context(), meta, c.turn(t, "Hola"))
		if modelError, ok := errors.AsType[*commands.ModelError](err); !ok || modelError.Code != "upstream_timeout" || time.Since(start) != 40*time.Second {
			t.Errorf("%v after %v: from its deadline on, a sweeper may be quicker to end it", err, time.Since(start))
		}
	})
}

func TestAMessageThatLosesHangsUpOnTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "uno")); err != nil {
			t.Fatal(err)
		}
		var why error
		c.script = silence("mmm", &why)
		stale := c.turn(t, "dos")
		resolve := commands.NewConversations(c.store())
		if err := resolve.Resolve(t.Context(), metaAt(2), chatStream); err != nil { // between the read and the commit
			t.Fatal(err)
		}
		if _, err := c.chat.Send(t.Context(), metaAt(3), stale); !errors.Is(err, commands.ErrStale) {
			t.Fatalf("answered %v", err)
		}
		if !errors.Is(why, commands.ErrStale) {
			t.Errorf("the model was hung up on for %v", why)
		}
		c.commitsAre(t, opened, "reply.completed", "conversation.resolved", "message.received")
		c.script = says("¡Hola, Ana!")
		if _, err := c.chat.Send(t.Context(), metaAt(4), c.turn(t, "dos")); err != nil {
			t.Fatal(err)
		}
		if types := typesOf(c.commits())[4:]; !slices.Equal(types, []string{"conversation.reopened message.received", "reply.completed"}) {
			t.Errorf("sent again: %q", types)
		}
	})
}
