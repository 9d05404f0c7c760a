package commands_test

// This file stands at the streamed turn: what its readers get to see, and when, and what is left for those who come
// later or elsewhere.

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
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
