package commands_test

// This file tests the policy that carries erasures out: whatever fails at whichever step, it is done in the end, and not
// before its steps have been done in their order.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// oblivion is everything around an eraser. It writes down the steps, and fails where it is told to.
type oblivion struct {
	open  []commands.Erasure
	steps []string
	fail  int // the step that fails, counted from 0; -1 for none
	left  []commands.OfAccount
}

var errStep = errors.New("a store is away")

func (o *oblivion) step(format string, args ...any) error {
	o.steps = append(o.steps, fmt.Sprintf(format, args...))
	if len(o.steps)-1 == o.fail {
		o.steps[len(o.steps)-1] = "failed"
		return errStep
	}
	return nil
}

func (o *oblivion) TakeUp(context.Context) (int, error)              { return 0, nil }
func (o *oblivion) Open(context.Context) ([]commands.Erasure, error) { return o.open, nil }

func (o *oblivion) Claim(_ context.Context, accounts bool, _ int, _ time.Duration) ([]commands.Erasure, error) {
	return slices.DeleteFunc(slices.Clone(o.open), func(one commands.Erasure) bool { return (one.Stream.Kind() == "account") != accounts }), nil
}

func (o *oblivion) Keep(context.Context, time.Duration, ...string) error { return nil }
func (o *oblivion) Destroyed(context.Context, ...string) error           { return o.step("noted") }

func (o *oblivion) Done(_ context.Context, ids ...string) error {
	if err := o.step("done"); err != nil {
		return err
	}
	o.open = slices.DeleteFunc(o.open, func(one commands.Erasure) bool { return slices.Contains(ids, one.ID) })
	return nil
}

func (o *oblivion) Failed(context.Context, error, ...string) error { return nil }

func (o *oblivion) ForgetConversations(context.Context, []string) error { return o.step("postgres") }
func (o *oblivion) ForgetAccount(context.Context, string) error         { return o.step("postgres") }

func (o *oblivion) Destroy(_ context.Context, owners ...string) error {
	if len(owners) == 0 {
		return nil
	}
	return o.step("keys %s", strings.Join(owners, " "))
}

func (o *oblivion) Named(_ context.Context, owners ...string) ([]string, error) {
	return []string{"dk of " + owners[0]}, nil
}

func (o *oblivion) Now(context.Context) (time.Time, error)           { return noon, o.step("now") }
func (o *oblivion) Settled(_ context.Context, since time.Time) error { return o.step("settled") }

func (a analyticsOf) ForgetConversations(_ context.Context, gone []commands.GoneConversation) error {
	return a.step("clickhouse %v", gone)
}
func (a analyticsOf) ForgetAccount(_ context.Context, account string) error {
	return a.step("clickhouse %s", account)
}

type analyticsOf struct{ *oblivion }

func (o *oblivion) Conversations(context.Context, string, func([]domain.StreamID) error) error {
	return nil
}
func (o *oblivion) Agents(context.Context, string) ([]string, error)   { return nil, nil }
func (o *oblivion) Keys(context.Context, string) ([]string, error)     { return nil, nil }
func (o *oblivion) Left(context.Context) ([]commands.OfAccount, error) { return o.left, nil }

func (o *oblivion) eraser(store commands.Store) *commands.Eraser {
	return commands.NewEraser(commands.EraserConfig{Logger: slog.New(slog.DiscardHandler)}, store, o, o, analyticsOf{o}, o, commands.NewAgents(store), commands.NewKeys(store))
}

func TestAnErasureIsDoneInItsOrderWhateverFails(t *testing.T) {
	for name, story := range map[string]struct {
		erasure commands.Erasure
		steps   string
	}{
		"a conversation": {
			commands.Erasure{ID: "era_1", Stream: "conversation-agt_1.mac", Account: "acc_1"},
			"keys conversation-agt_1.mac, noted, postgres, now, settled, clickhouse [{acc_1 agt_1 conversation-agt_1.mac [dk of conversation-agt_1.mac]}], postgres, done",
		},
		"an account": {
			commands.Erasure{ID: "era_2", Stream: "account-acc_1", Account: "acc_1"},
			"keys acc_1, noted, postgres, now, settled, clickhouse acc_1, done",
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps := strings.Count(story.steps, ", ") + 1
			for fail := -1; fail < steps; fail++ {
				o := &oblivion{open: []commands.Erasure{story.erasure}, fail: fail}
				eraser := o.eraser(commands.Store{})
				for range 2 {
					if err := errors.Join(eraser.Once(t.Context())...); err != nil && !errors.Is(err, errStep) {
						t.Fatal(err)
					}
				}
				if len(o.open) > 0 {
					t.Errorf("failed once at step %d it is never done: %v", fail, o.steps)
				}
				if last := strings.Join(o.steps[len(o.steps)-steps:], ", "); last != story.steps {
					t.Errorf("failed once at step %d its last run did\n%s\ninstead of\n%s", fail, last, story.steps)
				}
			}
		})
	}
}

func TestBeforeANodeServesTheKeysOfWhatIsNotDoneAreDestroyed(t *testing.T) {
	o := &oblivion{fail: -1, open: []commands.Erasure{
		{ID: "era_1", Stream: "conversation-agt_1.mac", Account: "acc_1"}, {ID: "era_2", Stream: "account-acc_2", Account: "acc_2"},
	}}
	if err := o.eraser(commands.Store{}).Catch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(o.steps, ", "); got != "keys acc_2, keys conversation-agt_1.mac" {
		t.Errorf("it did %s", got)
	}
}

// closedTurns knows which turns are over.
type closedTurns struct{ over atomic.Bool }

func (c *closedTurns) Closed(_ context.Context, turns []string) ([]string, error) {
	if c.over.Load() {
		return turns, nil
	}
	return nil, nil
}

func TestATurnWhoseConversationIsErasedStopsAndIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		var why error
		c.model.script = silence("Hola, ", &why)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		closed := &closedTurns{}
		go func() { _ = c.chat.Watch(ctx, closed) }() // ends with the context, always without an error
		live, err := c.chat.Begin(t.Context(), metaAt(1), c.turn(t, "Hola"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if why != nil {
			t.Fatalf("an open turn was stopped: %v", why)
		}
		erasing := commands.NewConversations(c.store())
		if err := erasing.Erase(t.Context(), metaAt(2), chatStream); err != nil {
			t.Fatal(err)
		}
		closed.over.Store(true)
		begun := time.Now()
		end, err := live.Ended(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it went on for %v", took)
		}
		if failure, ok := errors.AsType[*commands.ModelError](end.Err); !ok || failure.Code != commands.ErasedConversation {
			t.Errorf("its readers are told %v", end.Err)
		}
		c.commitsAre(t, opened, "conversation.erased", "reply.failed") // which has lost
		if erased, ok := c.end(t).(conversation.Erased); !ok || erased.Turn != live.Turn {
			t.Errorf("the log says %+v", c.end(t))
		}
	})
}
