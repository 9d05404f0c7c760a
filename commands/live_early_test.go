package commands_test

// This file has a model speak before its message has been accepted.

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// sole is a turn that nobody else can begin.
func sole(turn *commands.Turn) { turn.Sole = true }

func TestTheFirstWordsAreKeptWhileTheMessageIsOnItsWay(t *testing.T) {
	for _, test := range []struct {
		name  string
		turn  func(*commands.Turn)
		shown time.Duration // from the request on
	}{
		{"of a turn that nobody else can begin", sole, 300 * time.Millisecond},
		{"of one that another run may have begun, they are kept behind its acceptance", func(*commands.Turn) {}, 350 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, kept := newStreaming(t)
				kept.takes = 50 * time.Millisecond
				c.script = says("¡Hola, ", "Ana! ", "¿Qué ", "tal?") // after 100, 200, 300 and 400 ms
				c.before = func(commit domain.Commit) {
					if commit.Base > 0 {
						return
					}
					time.Sleep(299 * time.Millisecond)
					writes, _, _ := kept.seen()
					if early := writes > 0; early != (test.shown == 300*time.Millisecond) || writes > 1 {
						t.Errorf("%d writes before the message is accepted", writes)
					}
					time.Sleep(time.Millisecond)
				}
				began := time.Now()
				live := c.begin(t, t.Context(), test.turn)
				if len(c.commits()) != 1 {
					t.Errorf("%d commits", len(c.commits()))
				}
				if _, err := live.Next(t.Context(), 0, nil); err != nil || time.Since(began) != test.shown {
					t.Errorf("the first words are shown after %v (%v)", time.Since(began), err)
				}
				if text := c.kept(t, kept, live.Turn); !strings.HasPrefix(text, "¡Hola, ") {
					t.Errorf("%q is kept", text)
				}
				steps, end := read(t, live, 0)
				if text := strings.Join(steps, ""); text != "¡Hola, Ana! ¿Qué tal?" || end.Err != nil || end.Reply.Text != text {
					t.Errorf("%q, %+v", steps, end)
				}
				time.Sleep(time.Second)
				if _, _, left := kept.seen(); left != 0 {
					t.Errorf("the text of %d turns is left", left)
				}
			})
		})
	}
}

func TestNothingIsLeftOfWordsWhoseMessageWasNotAccepted(t *testing.T) {
	for name, test := range map[string]struct {
		fate fate
		want error
	}{
		"lost to another message": {arrives, commands.ErrStale}, "not sent": {refused, commands.ErrUnavailable}, "not heard of": {lost, commands.ErrUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, kept := newStreaming(t)
				kept.takes = 150 * time.Millisecond // the write is still under way when the message is found to have lost
				c.before = func(commit domain.Commit) {
					if commit.Command == "cmd_other" || commit.Base > 0 {
						return
					}
					time.Sleep(200 * time.Millisecond)
					if test.fate == arrives {
						other := commit
						other.Command = "cmd_other"
						c.arrive(other)
					}
				}
				c.fates = func(domain.Commit) fate { return test.fate }
				turn := c.turn(t, "Hola")
				turn.Streamed, turn.Sole = true, true
				_, err := c.chat.Begin(t.Context(), metaAt(1), turn)
				if !errors.Is(err, test.want) {
					t.Fatalf("%v", err)
				}
				writes, _, left := kept.seen()
				if test.fate == arrives && (writes != 1 || left != 0) {
					t.Errorf("whoever sends it again finds the text of %d turns, after %d writes", left, writes)
				}
				time.Sleep(time.Second)
				if writes, _, left := kept.seen(); writes != 1 || left != 0 {
					t.Errorf("the text of %d turns is left, after %d writes", left, writes)
				}
			})
		})
	}
}

func TestAMessageIsNotSentAgainWhileItsFirstWordsAreStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, kept := newStreaming(t)
		c.before = func(commit domain.Commit) {
			if commit.Command == "cmd_other" || commit.Base > 0 {
				return
			}
			time.Sleep(200 * time.Millisecond)
			other := commit
			other.Command = "cmd_other"
			c.arrive(other)
		}
		kept.clings = errors.New("connection reset")
		turn := c.turn(t, "Hola")
		turn.Streamed, turn.Sole = true, true
		if _, err := c.chat.Begin(t.Context(), metaAt(1), turn); !errors.Is(err, commands.ErrUnavailable) || errors.Is(err, commands.ErrStale) {
			t.Errorf("%v", err)
		}
	})
}
