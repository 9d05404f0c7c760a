package commands_test

// This file stands at the end of a chat turn: exactly one, whoever writes it and whatever is lost on the way.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

func TestAModelThatFailsEndsItsTurn(t *testing.T) {
	limited := &commands.ModelError{Code: "upstream_rate_limited", Status: 429, Retryable: true, Err: errors.New("slow down")}
	var why error
	for sentence, test := range map[string]struct {
		script    func(context.Context, func(commands.Chunk) bool) error
		code      string
		text      string
		same      error // what the caller gets is, or wraps, this
		retryable bool
	}{
		"in the middle of a reply": {func(ctx context.Context, say func(commands.Chunk) bool) error {
			say(commands.Chunk{Text: "¡Hola, "})
			return limited
		}, "upstream_rate_limited", "¡Hola, ", limited, true},
		"before a word":             {func(context.Context, func(commands.Chunk) bool) error { return limited }, "upstream_rate_limited", "", limited, true},
		"with an error of its own":  {func(context.Context, func(commands.Chunk) bool) error { return errNoWord }, "upstream_error", "", errNoWord, true},
		"by never coming to an end": {silence("¡Ho", &why), "upstream_timeout", "¡Ho", context.DeadlineExceeded, true},
		"by being hung up on, which its client calls something else": {func(ctx context.Context, _ func(commands.Chunk) bool) error {
			<-ctx.Done()
			return limited
		}, "upstream_timeout", "", context.DeadlineExceeded, true},
		"by being hung up on, which its client does not mention": {func(ctx context.Context, say func(commands.Chunk) bool) error {
			say(commands.Chunk{Text: "¡Ho"})
			<-ctx.Done()
			return nil
		}, "upstream_timeout", "¡Ho", context.DeadlineExceeded, true},
		"by saying more than we store": {func(_ context.Context, say func(commands.Chunk) bool) error {
			for say(commands.Chunk{Text: strings.Repeat("¡Hola! ", 10_000)}) {
			}
			return nil
		}, "upstream_error", strings.Repeat("¡Hola! ", 140_000), nil, false},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				c.script = test.script
				_, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola, soy Ana"))
				modelError, ok := errors.AsType[*commands.ModelError](err)
				if !ok || modelError.Code != test.code || modelError.Retryable != test.retryable || (test.same != nil && !errors.Is(err, test.same)) {
					t.Fatalf("answered %+v", err)
				}
				c.commitsAre(t, opened, "reply.failed")
				end := c.end(t).(conversation.ReplyFailed)
				if plain := c.open(t, end.Text); end.Code != test.code || plain != test.text {
					t.Errorf("ended as %s with %d bytes %.30q", end.Code, len(plain), plain)
				}
				if test.text == "" && !end.Text.IsZero() {
					t.Error("a reply that failed before its first word is no message, but has a text")
				}
				c.holdsNowhere(t, "Hola, soy Ana", "¡Hola", "slow down", "no word of the fold")
				if _, err := c.chat.Send(t.Context(), metaAt(2), c.turn(t, "otra")); errors.Is(err, commands.ErrStale) || len(c.commits()) != 4 {
					t.Errorf("the next turn: %v, %d commits", err, len(c.commits()))
				}
			})
		})
	}
}

func TestAClientThatGoesAwayCancelsTheModelAndTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		var why error
		c.script = silence("¡Hola, ", &why)
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, leave)
		start := time.Now()
		_, err := c.chat.Send(ctx, metaAt(1), c.turn(t, "Hola"))
		if !errors.Is(err, commands.ErrClientGone) || time.Since(start) != 3*time.Second {
			t.Fatalf("answered %v after %v", err, time.Since(start))
		}
		if !errors.Is(why, context.Canceled) {
			t.Errorf("the model was hung up on for %v", why)
		}
		c.commitsAre(t, opened, "reply.cancelled")
		if end := c.end(t).(conversation.ReplyCancelled); c.open(t, end.Text) != "¡Hola, " || !end.At.Equal(start.Add(3*time.Second)) {
			t.Errorf("ended as %+v", end)
		}
	})
}

func TestAClientThatLeftAtOnceHasItsMessageKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if _, err := c.chat.Send(ctx, metaAt(1), c.turn(t, "Hola")); !errors.Is(err, commands.ErrClientGone) {
			t.Fatalf("answered %v", err)
		}
		c.commitsAre(t, opened, "reply.cancelled")
	})
}

// isEnd tells the commit that ends a turn.
func isEnd(commit domain.Commit) bool { return strings.HasPrefix(commit.Events[0].Type, "reply.") }

func TestAnEndWhoseOutcomeIsUnknownIsSentUntilItIsKnown(t *testing.T) {
	for sentence, test := range map[string]struct {
		fates   []fate // of the end's first commits
		appends int
		records []string
	}{
		"it had not arrived":                 {[]fate{lost}, 2, []string{opened, "reply.completed"}},
		"it had arrived":                     {[]fate{unheard}, 1, []string{opened, "reply.completed"}},
		"it had arrived and been folded":     {[]fate{unfolded}, 1, []string{opened, "reply.completed"}},
		"the log could not be reached":       {[]fate{refused, refused, refused}, 4, []string{opened, "reply.completed"}},
		"it was lost, and then not heard":    {[]fate{lost, unheard}, 2, []string{opened, "reply.completed"}},
		"it arrives after its second commit": {[]fate{withheld}, 2, []string{opened, "reply.completed", "reply.completed"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				var ids []string
				c.fates = func(commit domain.Commit) fate {
					if !isEnd(commit) {
						return arrives
					}
					ids = append(ids, commit.Command)
					if len(ids) <= len(test.fates) {
						return test.fates[len(ids)-1]
					}
					return arrives
				}
				reply, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola"))
				if err != nil || reply.Text != "¡Hola, Ana!" {
					t.Fatalf("answered %+v, %v", reply, err)
				}
				c.release()
				c.commitsAre(t, test.records...)
				if len(ids) != test.appends || len(slices.Compact(slices.Clone(ids))) != 1 {
					t.Errorf("ends were sent as %q", ids)
				}
				if events := c.accepted(t, "conversation"); len(events) != 3 {
					t.Errorf("events %+v", events)
				}
			})
		})
	}
}

func TestAnEndThatNobodyTakesIsBroughtInLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		start := time.Now()
		c.fates = func(commit domain.Commit) fate {
			if isEnd(commit) && time.Since(start) < 40*time.Second {
				return lost
			}
			return arrives
		}
		_, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola"))
		if waited := time.Since(start); !errors.Is(err, commands.ErrUnknownOutcome) || waited < 15*time.Second || waited > 17*time.Second {
			t.Fatalf("answered %v after %v", err, waited)
		}
		c.commitsAre(t, opened)
		<-time.After(30 * time.Second)
		synctest.Wait()
		c.commitsAre(t, opened, "reply.completed")
		if end := c.end(t).(conversation.ReplyCompleted); c.open(t, end.Text) != "¡Hola, Ana!" {
			t.Errorf("ended as %+v", end)
		}
	})
}

func TestAnEndIsGivenUpWhenTheProcessStopsOrAtTheDeadline(t *testing.T) {
	for sentence, stop := range map[string]func(*talk){
		"the process stops":       func(c *talk) { c.chat.Close() },
		"the turn's time is over": func(*talk) { <-time.After(2 * time.Minute) },
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				c.fates = func(commit domain.Commit) fate {
					if isEnd(commit) {
						return refused
					}
					return arrives
				}
				if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola")); !errors.Is(err, commands.ErrUnavailable) {
					t.Fatalf("answered %v", err)
				}
				stop(c)
				loads := c.loadCount()
				<-time.After(time.Hour)
				if c.loadCount() != loads {
					t.Error("it is still being tried")
				}
				c.commitsAre(t, opened)
			})
		})
	}
}

func TestATurnThatASweeperEndedIsNotEndedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		done := false
		c.before = func(commit domain.Commit) {
			if isEnd(commit) && !done {
				done = true
				sweep := commands.Handler[conversation.Command, conversation.Event, conversation.State]{Store: c.store(), Aggregate: conversation.Aggregate}
				meta := metaAt(1)
				fail := conversation.Fail{ReplyFailed: conversation.ReplyFailed{Turn: meta.Inputs.ID("turn"), Code: commands.Interrupted}}
				if _, err := sweep.Handle(t.Context(), chatStream.Name(), "interrupt", metaAt(9), fail); err != nil {
					t.Error(err)
				}
			}
		}
		_, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola"))
		if modelError, ok := errors.AsType[*commands.ModelError](err); !ok || modelError.Code != commands.Interrupted || !modelError.Retryable {
			t.Fatalf("answered %v", err)
		}
		c.commitsAre(t, opened, "reply.failed", "reply.completed") // the second was on the same base, and lost
		if end, ok := c.end(t).(conversation.ReplyFailed); !ok || end.Code != commands.Interrupted {
			t.Errorf("ended as %+v", c.end(t))
		}
	})
}

func TestAnEndThatKeepsLosingIsSentUntilItWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		rivals := 0
		c.before = func(commit domain.Commit) {
			if !isEnd(commit) || rivals == 40 {
				return
			}
			rivals++
			stored, err := conversation.Aggregate.Codec.Encode([]conversation.Event{conversation.Resolved{At: noon}})
			if err != nil {
				t.Error(err)
			}
			commit.Command, commit.Events = "cmd_of_a_rival", stored
			c.arrive(commit)
		}
		if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola")); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.end(t).(conversation.ReplyCompleted); !ok || rivals != 40 {
			t.Errorf("ended as %+v against %d rivals", c.end(t), rivals)
		}
	})
}

func TestAnEndFollowsAConversationThatMovedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		done := false
		c.before = func(commit domain.Commit) {
			if isEnd(commit) && !done {
				done = true
				if err := commands.NewConversations(c.store()).Resolve(t.Context(), metaAt(9), chatStream); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola")); err != nil {
			t.Fatal(err)
		}
		c.commitsAre(t, opened, "conversation.resolved", "reply.completed", "reply.completed")
		if _, ok := c.end(t).(conversation.ReplyCompleted); !ok {
			t.Errorf("ended as %+v", c.end(t))
		}
	})
}

func TestWhatAReplyHasCostIsEstimatedWhereTheProviderDidNotSay(t *testing.T) {
	told := conversation.Usage{InputTokens: 40, OutputTokens: 1}
	for sentence, test := range map[string]struct {
		usage *conversation.Usage // with the first piece
		whole bool
		want  conversation.Usage
	}{
		"broken off, nothing told":  {nil, false, conversation.Usage{InputTokens: 4, OutputTokens: 5, Estimated: true}},
		"broken off, a little told": {&told, false, conversation.Usage{InputTokens: 40, OutputTokens: 5, Estimated: true}},
		"whole, nothing told":       {nil, true, conversation.Usage{InputTokens: 4, OutputTokens: 5, Estimated: true}},
		"whole and told":            {&told, true, told},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				c.script = func(_ context.Context, say func(commands.Chunk) bool) error {
					say(commands.Chunk{Text: "half of it,", Usage: test.usage})
					say(commands.Chunk{Text: " or so"}) // 17 letters: five tokens
					if test.whole {
						return nil
					}
					return &commands.ModelError{Code: "upstream_error", Err: errors.New("cut")}
				}
				reply, _ := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "hola"))
				var kept conversation.Usage
				switch end := c.end(t).(type) {
				case conversation.ReplyCompleted:
					kept = end.Usage
				case conversation.ReplyFailed:
					kept = end.Usage
				}
				if reply.Usage != test.want || kept != test.want {
					t.Errorf("told %+v, kept %+v", reply.Usage, kept)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		c.script = func(context.Context, func(commands.Chunk) bool) error {
			return &commands.ModelError{Code: "upstream_error", Err: errors.New("refused")}
		}
		if reply, _ := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "hola")); reply.Usage != (conversation.Usage{}) {
			t.Errorf("a call that brought nothing costs %+v", reply.Usage)
		}
	})
}
