package commands_test

// This file stands between a chat turn's message and its end: the log did not say whether it has the message.

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

func TestAMessageWhoseOutcomeIsUnknownIsLookedFor(t *testing.T) {
	for sentence, test := range map[string]struct {
		how   fate
		after time.Duration // when a withheld record arrives
		want  []string
	}{
		"it had arrived":              {unheard, 0, []string{opened, "reply.failed"}},
		"it had arrived, not folded":  {unfolded, 0, []string{opened, "reply.failed"}},
		"it arrives late":             {withheld, 10 * time.Second, []string{opened, "reply.failed"}},
		"it arrives after all looked": {withheld, 2 * time.Minute, []string{opened}},
		"it never arrives":            {lost, 0, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTalk(t)
				var why error
				c.script = silence("¡Ho", &why)
				c.fates = func(commit domain.Commit) fate {
					if isEnd(commit) {
						return arrives
					}
					return test.how
				}
				_, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola"))
				if !errors.Is(err, commands.ErrUnknownOutcome) || !errors.Is(why, commands.ErrUnknownOutcome) {
					t.Fatalf("answered %v, hung up on the model for %v", err, why)
				}
				<-time.After(test.after)
				c.release()
				<-time.After(10 * time.Minute)
				c.commitsAre(t, test.want...)
				if len(test.want) == 2 {
					if end := c.end(t).(conversation.ReplyFailed); end.Code != commands.Interrupted || !end.Text.IsZero() {
						t.Errorf("ended as %+v", end)
					}
				}
				loads := c.loadCount()
				<-time.After(time.Hour)
				if c.loadCount() != loads {
					t.Error("it is still looked for")
				}
			})
		})
	}
}

func TestAMessageThatNeverLeftIsNotLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		c.fates = func(domain.Commit) fate { return refused }
		loads := c.loadCount()
		_, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola"))
		if !errors.Is(err, commands.ErrUnavailable) || errors.Is(err, commands.ErrUnknownOutcome) {
			t.Fatalf("answered %v", err)
		}
		loads++ // the turn's own reading
		<-time.After(time.Hour)
		if c.loadCount() != loads {
			t.Errorf("looked %d times for a message that is not in the log", c.loadCount()-loads)
		}
	})
}

func TestAnAbandonedTurnThatAnotherEndedIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		c.fates = func(commit domain.Commit) fate {
			if isEnd(commit) {
				return arrives
			}
			return withheld
		}
		if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola")); !errors.Is(err, commands.ErrUnknownOutcome) {
			t.Fatalf("answered %v", err)
		}
		c.fates = nil
		if _, err := c.chat.Send(t.Context(), metaAt(2), c.turn(t, "Hola")); err != nil { // sent again, as another request
			t.Fatal(err)
		}
		c.release() // the first message comes to a stream that has moved on
		<-time.After(5 * time.Second)
		loads := c.loadCount()
		<-time.After(50 * time.Second)
		if c.loadCount() != loads {
			t.Error("it is still looked for in a stream that has moved on")
		}
		c.commitsAre(t, opened, "reply.completed", opened)
		if events := c.accepted(t, "conversation"); len(events) != 3 {
			t.Errorf("events %+v", events)
		}
	})
}

func TestAfterCloseNothingIsLookedForAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTalk(t)
		c.chat.Close()
		c.fates = func(domain.Commit) fate { return lost }
		if _, err := c.chat.Send(t.Context(), metaAt(1), c.turn(t, "Hola")); !errors.Is(err, commands.ErrUnknownOutcome) {
			t.Fatalf("answered %v", err)
		}
		loads := c.loadCount()
		<-time.After(time.Hour)
		if c.loadCount() != loads {
			t.Error("a closed chat goes on")
		}
	})
}
