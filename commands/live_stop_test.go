package commands_test

// This file stops processes whose turns are followed, and finds what a dead one left.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

func TestAStoppingProcessEndsItsTurnsAndTellsTheirReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newStreaming(t)
		var why error
		c.script = silence("¡Ho", &why)
		live := c.begin(t, t.Context())
		ctx, giveUp := context.WithTimeout(t.Context(), 30*time.Second)
		defer giveUp()
		start := time.Now()
		c.chat.Drain(ctx)
		if waited := time.Since(start); waited != 30*time.Second {
			t.Errorf("drained after %v", waited)
		}
		steps, end := read(t, live, 0)
		modelError, ok := errors.AsType[*commands.ModelError](end.Err)
		if !ok || modelError.Code != commands.Interrupted || strings.Join(steps, "") != "¡Ho" {
			t.Errorf("%q, %v", steps, end.Err)
		}
		if end, ok := c.end(t).(conversation.ReplyFailed); !ok || c.open(t, end.Text) != "¡Ho" {
			t.Errorf("ended as %+v", c.end(t))
		}
	})
}

func TestAProcessStopsInBoundedTimeHoweverManyEndsTheLogDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newStreaming(t)
		var why error
		c.script = silence("¡Ho", &why)
		turn := c.turn(t, "Hola")
		turn.Streamed = true
		for i := range byte(20) {
			turn.Mac = fmt.Sprint("mac", i)
			if _, err := c.chat.Begin(t.Context(), metaAt(1+i), turn); err != nil {
				t.Fatal(err)
			}
		}
		c.fates = func(domain.Commit) fate { return refused }
		ctx, giveUp := context.WithTimeout(t.Context(), 30*time.Second)
		defer giveUp()
		start := time.Now()
		c.chat.Drain(ctx)
		if waited := time.Since(start); waited != 45*time.Second {
			t.Errorf("drained after %v, with half a minute for the turns and a quarter for their ends", waited)
		}
		c.chat.Close()
		if waited := time.Since(start); waited != 45*time.Second {
			t.Errorf("closed after %v", waited)
		}
	})
}

func TestATurnThatBeginsWhileItsNodeStopsHasTheTimeThatIsLeft(t *testing.T) {
	for sentence, test := range map[string]struct {
		after time.Duration // behind the stop's beginning
		text  string
	}{
		"there is some": {5 * time.Second, "abc"},
		"there is none": {31 * time.Second, ""},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newStreaming(t)
				c.script = silence("", new(error))
				long, leave := context.WithCancel(t.Context())
				defer leave()
				turn := c.turn(t, "Hola")
				turn.Mac = "other"
				if _, err := c.chat.Begin(long, metaAt(2), turn); err != nil {
					t.Fatal(err)
				}
				var drained sync.WaitGroup
				drained.Go(func() {
					ctx, giveUp := context.WithTimeout(t.Context(), 30*time.Second)
					defer giveUp()
					c.chat.Drain(ctx)
				})
				<-time.After(test.after)
				synctest.Wait()
				c.script = says("a", "b", "c")
				steps, _ := read(t, c.begin(t, t.Context()), 0)
				if got := strings.Join(steps, ""); got != test.text {
					t.Errorf("it said %q", got)
				}
				leave()
				drained.Wait()
			})
		})
	}
}

func TestATurnIsTiedToNobodyBehindReleases(t *testing.T) {
	for sentence, change := range map[string]func(*commands.Turn){
		"that was to continue": func(turn *commands.Turn) { turn.Continue = true },
		"that has two readers": func(*commands.Turn) {},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newStreaming(t)
				c.script = silence("", new(error))
				live := c.begin(t, t.Context(), change)
				live.Release()
				live.Release()
				start := time.Now()
				limited, giveUp := context.WithTimeout(t.Context(), 5*time.Second)
				defer giveUp()
				if _, ok := live.Cancelled(limited); ok || time.Since(start) != 0 {
					t.Errorf("the end of a turn that goes on was waited for, %v", time.Since(start))
				}
			})
		})
	}
}

func TestTheEndOfADeadNodesTurnHoldsWhatItsReadersHadSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, kept := newStreaming(t)
		var why error
		c.script = func(ctx context.Context, say func(commands.Chunk) bool) error {
			say(commands.Chunk{Text: "¡Hola, "})
			<-time.After(time.Second)
			say(commands.Chunk{Text: "Ana"})
			return silence("", &why)(ctx, say)
		}
		live := c.begin(t, t.Context())
		<-time.After(5 * time.Second)
		sweeper := commands.NewSweeper(commands.SweeperConfig{Texts: kept, Keyring: c.keyring, Logger: slog.New(slog.DiscardHandler)},
			c.store(), &nodes{beats: map[string]int64{}}, &leftovers{memory: c.memory}, commands.NewAgents(c.store()))
		if err := sweeper.Sweep(t.Context()); err != nil { // nobody has ever heard of boot_1
			t.Fatal(err)
		}
		end, ok := c.end(t).(conversation.ReplyFailed)
		if _, _, left := kept.seen(); !ok || end.Code != commands.Interrupted || c.open(t, end.Text) != "¡Hola, Ana" || left != 0 {
			t.Errorf("ended as %+v, %d turns left", c.end(t), left)
		}
		c.holdsNowhere(t, "¡Hola, Ana")
		steps, told := read(t, live, 0) // the node was only slow: its readers get the end that won
		modelError, ok := errors.AsType[*commands.ModelError](told.Err)
		if !ok || modelError.Code != commands.Interrupted || strings.Join(steps, "") != "¡Hola, Ana" {
			t.Errorf("%q, %v", steps, told.Err)
		}
	})
}
