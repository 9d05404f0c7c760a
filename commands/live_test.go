package commands_test

// This file stands at the streamed turn: what its readers get to see, and when, and what is left for those who come
// later or elsewhere.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// texts keeps pieces in memory, each write taking its time.
type texts struct {
	mu     sync.Mutex
	takes  time.Duration
	fails  int   // writes to come
	clings error // what nothing can be dropped for
	active int
	most   int // writes at the same time
	writes [][]commands.TurnPiece
	kept   map[string][]commands.TurnPiece
}

func (s *texts) Keep(_ context.Context, pieces []commands.TurnPiece) error {
	s.mu.Lock()
	s.active++
	s.most = max(s.most, s.active)
	s.mu.Unlock()
	<-time.After(s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.fails > 0 {
		s.fails--
		return errors.New("connection reset")
	}
	s.writes = append(s.writes, pieces)
	for _, piece := range pieces {
		rest := slices.DeleteFunc(s.kept[piece.Turn], func(p commands.TurnPiece) bool { return p.Offset == piece.Offset })
		s.kept[piece.Turn] = append(rest, piece)
	}
	return nil
}

func (s *texts) Read(_ context.Context, turn string, _ int) ([]commands.TurnPiece, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept[turn]), nil
}

func (s *texts) Forget(_ context.Context, turns ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clings != nil {
		return s.clings
	}
	for _, turn := range turns {
		delete(s.kept, turn)
	}
	return nil
}

// seen counts the writes, those at the same time, and the turns of which something is left.
func (s *texts) seen() (writes, most, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.writes), s.most, len(s.kept)
}

// kept is what is kept of a turn.
func (c *talk) kept(t *testing.T, s *texts, turn string) string {
	t.Helper()
	pieces, err := s.Read(t.Context(), turn, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, piece := range pieces {
		if piece.Offset != text.Len() {
			t.Fatalf("a piece at %d behind %d bytes", piece.Offset, text.Len())
		}
		text.WriteString(c.open(t, piece.Text))
	}
	return text.String()
}

// newStreaming is a talk whose turns' texts are kept.
func newStreaming(t *testing.T) (*talk, *texts) {
	c, kept := newTalk(t), &texts{kept: map[string][]commands.TurnPiece{}}
	c.chat = commands.NewChat(commands.ChatConfig{
		Boot: "boot_1", TotalTimeout: time.Minute, EndTimeout: 15 * time.Second, Texts: kept, Logger: slog.New(slog.DiscardHandler),
	}, c.store(), c.keyring, c.model)
	t.Cleanup(c.chat.Close)
	return c, kept
}

// begin opens a streamed turn.
func (c *talk) begin(t *testing.T, ctx context.Context, change ...func(*commands.Turn)) *commands.Live {
	t.Helper()
	turn := c.turn(t, "Hola")
	turn.Streamed = true
	for _, one := range change {
		one(&turn)
	}
	live, err := c.chat.Begin(ctx, metaAt(1), turn)
	if err != nil {
		t.Fatal(err)
	}
	return live
}

// read follows a turn to its end and returns its steps.
func read(t *testing.T, live *commands.Live, from int) (steps []string, end commands.TurnEnd) {
	t.Helper()
	for {
		step, err := live.Next(t.Context(), from, nil)
		if err != nil {
			t.Fatal(err)
		}
		if step.Text != "" {
			steps, from = append(steps, step.Text), from+len(step.Text)
		}
		if step.End != nil {
			return steps, *step.End
		}
	}
}

func TestAStreamedTurnIsReadWhileItIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, kept := newStreaming(t)
		c.script = says("¡Hola, ", "Ana! ", "¿Qué ", "tal?")
		live := c.begin(t, t.Context())
		if c.chat.Running(live.Turn) != live {
			t.Error("the node does not know its turn")
		}
		steps, end := read(t, live, 0)
		if !slices.Equal(steps, []string{"¡Hola, ", "Ana! ", "¿Qué ", "tal?"}) || end.Err != nil || end.Reply.Text != "¡Hola, Ana! ¿Qué tal?" || end.Reply.Turn != live.Turn {
			t.Errorf("%q, %+v", steps, end)
		}
		c.commitsAre(t, opened, "reply.completed") // it had been accepted when the end was told
		late, _ := read(t, live, len("¡Hola, "))
		if strings.Join(late, "") != "Ana! ¿Qué tal?" {
			t.Errorf("a late reader got %q", late)
		}
		time.Sleep(time.Second) // the bubble's clock: what is kept is dropped a little behind the end
		synctest.Wait()
		if writes, _, left := kept.seen(); left != 0 || writes < 3 || c.chat.Running(live.Turn) != nil {
			t.Errorf("%d writes, %d turns left", writes, left)
		}
	})
}

func TestTextIsKeptBeforeItIsShownWithOneWriteUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, kept := newStreaming(t)
		kept.takes = 250 * time.Millisecond // the pieces come every 100 ms
		c.script = says("a", "b", "c", "d", "e", "f", "g", "h")
		live := c.begin(t, t.Context())
		shown := 0
		for {
			step, err := live.Next(t.Context(), shown, nil)
			if err != nil {
				t.Fatal(err)
			}
			shown += len(step.Text)
			if step.End != nil {
				break
			}
			if text := c.kept(t, kept, live.Turn); len(text) < shown {
				t.Fatalf("%d bytes shown, %q kept", shown, text)
			}
		}
		<-time.After(time.Second)
		if writes, most, left := kept.seen(); shown != 8 || most != 1 || writes > 4 || left != 0 {
			t.Errorf("%d bytes shown, %d writes at once of %d, %d turns left", shown, most, writes, left)
		}
	})
}

func TestTextThatCannotBeKeptIsShownLater(t *testing.T) {
	for sentence, test := range map[string]struct {
		fails int
		after time.Duration
	}{
		"once the store is back":        {2, 250 * time.Millisecond},
		"with the end that replaces it": {1000, 800 * time.Millisecond},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, kept := newStreaming(t)
				kept.fails = test.fails
				c.script = says("a", "b", "c", "d", "e", "f", "g", "h")
				start := time.Now()
				live := c.begin(t, t.Context())
				if _, err := live.Next(t.Context(), 0, nil); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(start); waited != test.after {
					t.Errorf("shown after %v", waited)
				}
				if steps, end := read(t, live, 0); strings.Join(steps, "") != "abcdefgh" || end.Err != nil {
					t.Errorf("%q, %v", steps, end.Err)
				}
			})
		})
	}
}

func TestAReaderThatLeavesCancelsItsTurnUnlessItIsToContinue(t *testing.T) {
	for sentence, test := range map[string]struct {
		change func(*commands.Turn)
		leave  func(*commands.Live, context.CancelFunc)
		err    error
		text   string
	}{
		"it leaves":                     {func(*commands.Turn) {}, func(_ *commands.Live, leave context.CancelFunc) { leave() }, commands.ErrClientGone, "a"},
		"the turn is to continue":       {func(turn *commands.Turn) { turn.Continue = true }, func(_ *commands.Live, leave context.CancelFunc) { leave() }, nil, "abc"},
		"it was let go of, as too slow": {func(*commands.Turn) {}, func(live *commands.Live, leave context.CancelFunc) { live.Release(); leave() }, nil, "abc"},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newStreaming(t)
				c.script = says("a", "b", "c")
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				live := c.begin(t, ctx, test.change)
				if _, err := live.Next(t.Context(), 0, nil); err != nil {
					t.Fatal(err)
				}
				test.leave(live, leave)
				if _, err := live.Next(ctx, 1, nil); !errors.Is(err, context.Canceled) {
					t.Errorf("its own reading: %v", err)
				}
				end, cancelled := live.Cancelled(t.Context())
				if cancelled != (test.err != nil) || !errors.Is(end.Err, test.err) {
					t.Errorf("cancelled %v: %v", cancelled, end.Err)
				}
				if steps, end := read(t, live, 0); strings.Join(steps, "") != test.text || !errors.Is(end.Err, test.err) {
					t.Errorf("%q, %v", steps, end.Err)
				}
			})
		})
	}
}

func TestAReaderIsWokenByItsAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newStreaming(t)
		var why error
		c.script = silence("", &why)
		live := c.begin(t, t.Context())
		if step, err := live.Next(t.Context(), 0, time.After(10*time.Second)); err != nil || step != (commands.Step{}) {
			t.Errorf("%+v, %v", step, err)
		}
	})
}

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
