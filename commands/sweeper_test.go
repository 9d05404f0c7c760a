package commands_test

// This file stands behind the chat turn: who is judged dead, by whose clock, and what becomes of what they left.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
)

// watch is a sweeper, its clock, and what it looks at.
type watch struct {
	*memory
	nodes *nodes
	left  *leftovers
	now   time.Time
	*commands.Sweeper
}

func newWatch() *watch {
	w := &watch{memory: newMemory(), nodes: &nodes{beats: map[string]int64{}}, now: noon}
	w.left = &leftovers{memory: w.memory}
	w.Sweeper = commands.NewSweeper(commands.SweeperConfig{Clock: func() time.Time { return w.now }, Logger: slog.New(slog.DiscardHandler)},
		w.store(), w.nodes, w.left, commands.NewAgents(w.store()))
	return w
}

// opens lets a node open a turn that lasts until a deadline.
func (w *watch) opens(t *testing.T, boot, turn string, deadline time.Time) {
	t.Helper()
	handler := commands.Handler[conversation.Command, conversation.Event, conversation.State]{Store: w.store(), Aggregate: conversation.Aggregate}
	receive := conversation.Receive{
		Start:           conversation.Started{Account: "acc_1", Agent: "agt_1"},
		MessageReceived: conversation.MessageReceived{Turn: turn, Boot: boot, Received: w.now, Deadline: deadline},
	}
	if _, err := handler.Handle(t.Context(), "agt_1."+turn, "receive", metaAt(1), receive); err != nil {
		t.Fatal(err)
	}
}

// looks sweeps every five seconds until the clock has moved on by d; living nodes give their signs meanwhile.
func (w *watch) looks(t *testing.T, d time.Duration, living ...string) {
	t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(5*time.Second, end.Sub(w.now)))
		for _, id := range living {
			if err := w.nodes.Beat(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		w.look(t)
	}
}

func (w *watch) look(t *testing.T) {
	t.Helper()
	w.nodes.reads = 0
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// interrupted are the turns that have been ended as such.
func (w *watch) interrupted(t *testing.T) []string {
	t.Helper()
	var turns []string
	for _, event := range w.accepted(t, "conversation") {
		if end, ok := event.(conversation.ReplyFailed); ok && end.Code == commands.Interrupted {
			turns = append(turns, end.Turn)
		}
	}
	slices.Sort(turns)
	return turns
}

func (w *watch) interruptedAre(t *testing.T, want ...string) {
	t.Helper()
	if got := w.interrupted(t); !slices.Equal(got, want) {
		t.Fatalf("at %v interrupted are %q, not %q", w.now.Sub(noon), got, want)
	}
}

func later(d time.Duration) time.Time { return noon.Add(d) }

func TestANodeIsDeadAfterThirtySecondsWithoutALifeSign(t *testing.T) {
	w := newWatch()
	w.nodes.beats = map[string]int64{"boot_1": 70, "boot_2": 3}
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.opens(t, "boot_2", "turn_2", later(time.Hour))
	w.look(t)
	w.looks(t, 29*time.Second, "boot_2")
	w.interruptedAre(t)
	w.looks(t, time.Second, "boot_2")
	w.interruptedAre(t, "turn_1")
	if !slices.Equal(w.nodes.removed, []string{"boot_1"}) {
		t.Errorf("removed %q", w.nodes.removed)
	}
	w.looks(t, time.Minute, "boot_2")
	w.interruptedAre(t, "turn_1")
	failed := w.commits()[2].Commit
	if failed.Account != "acc_1" || failed.Actor != (domain.Actor{Kind: "system", ID: "sweeper"}) || !failed.Time.Equal(later(30*time.Second)) {
		t.Errorf("ended by %+v", failed)
	}
}

func TestALifeSignStartsTheThirtySecondsAnew(t *testing.T) {
	w := newWatch()
	w.nodes.beats["boot_1"] = 70
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.look(t)
	w.looks(t, 25*time.Second)
	w.looks(t, 5*time.Second, "boot_1")
	w.looks(t, 29*time.Second)
	w.interruptedAre(t)
	w.nodes.beats["boot_1"] = 1 // a smaller number is a sign as well
	w.look(t)
	w.looks(t, 29*time.Second)
	w.interruptedAre(t)
	w.looks(t, time.Second)
	w.interruptedAre(t, "turn_1")
}

func TestASweeperThatHasJustStartedKnowsNobodyDead(t *testing.T) {
	w := newWatch()
	w.nodes.beats["boot_1"] = 70 // it has been so for a day
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.look(t)
	w.interruptedAre(t)
	w.looks(t, 30*time.Second)
	w.interruptedAre(t, "turn_1")
}

func TestTimeInWhichNothingCouldBeReadCountsForNobodysDeath(t *testing.T) {
	for sentence, blind := range map[string]func(*testing.T, *watch){
		"Postgres is down": func(t *testing.T, w *watch) {
			w.nodes.err = errNoWord
			for range 12 {
				w.now = w.now.Add(5 * time.Second)
				if err := w.Sweep(t.Context()); !errors.Is(err, errNoWord) {
					t.Fatalf("swept: %v", err)
				}
			}
			w.nodes.err = nil
		},
		"this process stands still": func(_ *testing.T, w *watch) { w.now = w.now.Add(time.Minute) },
	} {
		t.Run(sentence, func(t *testing.T) {
			w := newWatch()
			w.nodes.beats["boot_1"] = 70
			w.opens(t, "boot_1", "turn_1", later(time.Hour))
			w.look(t)
			w.looks(t, 20*time.Second)
			blind(t, w)
			w.look(t)
			w.looks(t, 29*time.Second)
			w.interruptedAre(t)
			w.looks(t, time.Second)
			w.interruptedAre(t, "turn_1")
		})
	}
}

func TestWhoWasDeadBeforeNothingCouldBeReadStaysSo(t *testing.T) {
	w := newWatch()
	w.nodes.beats = map[string]int64{"boot_1": 70, "boot_2": 70}
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.opens(t, "boot_2", "turn_2", later(time.Hour))
	w.look(t)
	w.looks(t, 25*time.Second, "boot_2")
	w.fates = func(domain.Commit) fate { return refused }
	w.now = w.now.Add(5 * time.Second)
	if err := w.Sweep(t.Context()); !errors.Is(err, commands.ErrUnavailable) {
		t.Fatalf("swept: %v", err)
	}
	w.fates = nil
	w.now = w.now.Add(time.Minute) // that look took as long, since the log was slow to refuse
	w.look(t)
	w.interruptedAre(t, "turn_1") // and boot_2, of which nobody could hear, has its half a minute
}

func TestTheTurnsOfANodeThatHadManyAreAllEndedInOneLook(t *testing.T) {
	w := newWatch()
	for i := range 1203 {
		w.opens(t, "boot_gone", fmt.Sprintf("turn_%04d", i), later(time.Hour))
	}
	var under, most atomic.Int32
	w.before = func(domain.Commit) {
		if now := under.Add(1); now > most.Load() {
			most.Store(now)
		}
		runtime.Gosched()
		under.Add(-1)
	}
	w.look(t)
	if ended := w.interrupted(t); len(ended) != 1203 || most.Load() > 8 {
		t.Errorf("%d were ended, %d at a time", len(ended), most.Load())
	}
}

func TestANodeThatBootsDuringALookKeepsItsTurns(t *testing.T) {
	w := newWatch()
	w.nodes.beats["boot_1"] = 1
	w.opens(t, "boot_2", "turn_2", later(time.Hour)) // booted behind the look's first read, and works already
	w.opens(t, "boot_3", "turn_3", later(time.Hour)) // nobody knows this one any more
	w.nodes.second = func() error { w.nodes.beats["boot_2"] = 1; return nil }
	w.look(t)
	w.interruptedAre(t, "turn_3")
	w.nodes.second = nil
	w.looks(t, time.Minute, "boot_1", "boot_2")
	w.interruptedAre(t, "turn_3")
}

func TestATurnPastItsDeadlineIsEndedThoughItsNodeLives(t *testing.T) {
	w := newWatch()
	w.nodes.beats["boot_1"] = 1
	w.opens(t, "boot_1", "turn_1", later(10*time.Second))
	w.opens(t, "boot_1", "turn_2", later(time.Hour))
	w.look(t)
	w.looks(t, 9*time.Second, "boot_1")
	w.interruptedAre(t)
	w.looks(t, time.Second, "boot_1")
	w.interruptedAre(t, "turn_1")
	if len(w.nodes.removed) != 0 {
		t.Errorf("removed %q", w.nodes.removed)
	}
}

func TestATurnThatEndsDuringALookIsFine(t *testing.T) {
	w := newWatch()
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.before = func(commit domain.Commit) {
		if strings.HasPrefix(commit.Events[0].Type, "reply.failed") {
			w.before = nil
			stored, err := conversation.Aggregate.Codec.Encode([]conversation.Event{conversation.ReplyCompleted{Turn: "turn_1"}})
			if err != nil {
				t.Fatal(err)
			}
			commit.Command, commit.Events = "cmd_of_the_node", stored
			w.arrive(commit)
		}
	}
	w.look(t)
	w.interruptedAre(t)
	if types := typesOf(w.commits()); !slices.Equal(types, []string{opened, "reply.completed", "reply.failed"}) {
		t.Errorf("commits %q", types)
	}
}

func TestADeadNodeIsRememberedUntilItsTurnsHaveEnded(t *testing.T) {
	w := newWatch()
	w.nodes.beats["boot_1"] = 70
	w.opens(t, "boot_1", "turn_1", later(time.Hour))
	w.opens(t, "boot_1", "turn_2", later(time.Hour))
	w.look(t)
	w.looks(t, 25*time.Second)
	w.fates = func(commit domain.Commit) fate {
		if commit.Stream == "conversation-agt_1.turn_1" {
			return refused
		}
		return arrives
	}
	w.now = w.now.Add(5 * time.Second)
	if err := w.Sweep(t.Context()); !errors.Is(err, commands.ErrUnavailable) || !strings.Contains(err.Error(), "turn_1") {
		t.Fatalf("swept: %v", err)
	}
	w.interruptedAre(t, "turn_2")
	if len(w.nodes.removed) != 0 {
		t.Fatalf("removed %q", w.nodes.removed)
	}
	w.fates = nil
	w.looks(t, 5*time.Second)
	w.interruptedAre(t, "turn_1", "turn_2")
	if !slices.Equal(w.nodes.removed, []string{"boot_1"}) {
		t.Errorf("removed %q", w.nodes.removed)
	}
}

func TestALookThatFailsSaysAtWhatAndDoesTheRest(t *testing.T) {
	for sentence, test := range map[string]struct {
		spoil func(*watch)
		says  string
		ended []string
	}{
		"boots":       {func(w *watch) { w.nodes.err = errNoWord }, "read boots", nil},
		"turns":       {func(w *watch) { w.left.err = errNoWord }, "find left turns", nil},
		"boots again": {func(w *watch) { w.nodes.second = func() error { return errNoWord } }, "read boots again", nil},
		"streams":     {func(w *watch) { w.loadErr = errNoWord }, "end turn turn_1", nil},
		"claims":      {func(w *watch) { w.left.noClaims = errNoWord }, "find left claims", []string{"turn_1"}},
		"hosts": {func(w *watch) {
			w.left.claims = []commands.LeftClaim{{Slug: "ana", Account: "acc_1", Agent: "agt_1"}}
			hosts := commands.Handler[host.Command, host.Event, host.State]{Store: w.store(), Aggregate: host.Aggregate}
			if _, err := hosts.Handle(t.Context(), "ana", "claim", metaAt(1), host.Claim{Slug: "ana", Account: "acc_1", Agent: "agt_1"}); err != nil {
				t.Error(err)
			}
			w.fates = func(commit domain.Commit) fate {
				if commit.Stream.Kind() == "host" {
					return refused
				}
				return arrives
			}
		}, "finish the claim", []string{"turn_1"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			w := newWatch()
			w.opens(t, "boot_gone", "turn_1", later(time.Hour))
			test.spoil(w)
			if err := w.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("swept: %v", err)
			}
			w.interruptedAre(t, test.ended...)
		})
	}
}

func TestLeftClaimsAreFinishedAfterFiveMinutes(t *testing.T) {
	w := newWatch()
	hosts := commands.Handler[host.Command, host.Event, host.State]{Store: w.store(), Aggregate: host.Aggregate}
	if _, err := hosts.Handle(t.Context(), "ana", "claim", metaAt(1), host.Claim{Slug: "ana", Account: "acc_1", Agent: "agt_nobody"}); err != nil {
		t.Fatal(err)
	}
	w.left.claims = []commands.LeftClaim{{Slug: "ana", Account: "acc_1", Agent: "agt_nobody"}}
	w.look(t)
	if !w.left.before.Equal(later(-5 * time.Minute)) {
		t.Errorf("claims before %v were asked for", w.left.before)
	}
	if names := routes(t, w.memory); len(names) != 0 {
		t.Errorf("names %+v", names)
	}
	last := w.commits()[1].Commit
	if last.Account != "acc_1" || last.Actor.ID != "sweeper" || last.Events[0].Type != "host.released" {
		t.Errorf("given back by %+v", last)
	}
	create(t, w.memory, 2, commands.CreateAgent{Slug: "ana", Settings: agent.Settings{Name: "Ana", Model: "echo"}})
}

func TestASweeperGoesOnAfterALookThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		boots := &nodes{beats: map[string]int64{}}
		left := &leftovers{memory: m, err: errNoWord}
		sweeper := commands.NewSweeper(commands.SweeperConfig{Logger: slog.New(slog.DiscardHandler)}, m.store(), boots, left, commands.NewAgents(m.store()))
		ctx, stop := context.WithCancel(t.Context())
		var parties sync.WaitGroup
		parties.Go(func() {
			if err := sweeper.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		parties.Go(func() {
			if err := commands.Beat(ctx, boots, "boot_1", 5*time.Second, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		})
		<-time.After(31 * time.Second)
		synctest.Wait()
		boots.mu.Lock()
		boots.err = errNoWord // neither party may stop for that
		boots.mu.Unlock()
		<-time.After(10 * time.Second)
		synctest.Wait()
		boots.mu.Lock()
		if boots.reads != 9 || boots.beats["boot_1"] != 9 {
			t.Errorf("%d looks and %d life signs in 41 seconds", boots.reads, boots.beats["boot_1"])
		}
		boots.mu.Unlock()
		stop()
		parties.Wait()
	})
}
