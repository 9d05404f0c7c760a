package commands_test

// This file stands at the command: what the handler makes of every answer of the log, the fold and the decider.

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
)

type tallyHandler = commands.Handler[add, added, tally]

func tallying(m *memory) tallyHandler {
	return tallyHandler{Store: m.store(), Aggregate: tallies}
}

func metaAt(seed byte) commands.Meta {
	return commands.Meta{
		Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "k1"}, Trace: "00-trace-01",
		Inputs: commands.Inputs{Seed: [32]byte{seed}, Now: noon},
	}
}

// rival commits on the same base, before the commit that it comes ahead of.
func rival(m *memory) func(domain.Commit) {
	return func(commit domain.Commit) {
		commit.Command = "cmd_of_a_rival_" + commit.Command
		m.arrive(commit)
	}
}

func TestACommandBecomesOneCommit(t *testing.T) {
	m := newMemory()
	result, err := tallying(m).Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
	if err != nil || result.Already || result.Version != 1 || !slices.Equal(result.State.Names, []string{"a", "a'"}) || len(result.Events) != 2 {
		t.Fatalf("%+v, %v", result, err)
	}
	records := m.commits()
	if len(records) != 1 {
		t.Fatalf("%d commits", len(records))
	}
	meta, commit := metaAt(1), records[0].Commit
	if commit.Stream != "tally-s" || commit.Base != 0 || commit.Command != meta.Inputs.Command("add") || commit.Account != "acc_1" ||
		commit.Actor != meta.Actor || commit.Trace != meta.Trace || !commit.Time.Equal(noon) || len(commit.Events) != 2 {
		t.Fatalf("%+v", commit)
	}
}

func TestARetryFindsItsCommit(t *testing.T) {
	for sentence, first := range map[string]fate{"after an answer": arrives, "after no answer": unheard, "after the fold's silence": unfolded} {
		t.Run(sentence, func(t *testing.T) {
			m := newMemory()
			m.fates = func(domain.Commit) fate { return first }
			_, err := tallying(m).Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
			if (first == arrives) != (err == nil) || (first != arrives && !errors.Is(err, commands.ErrUnknownOutcome)) {
				t.Fatalf("the first answer is %v", err)
			}
			again, err := tallying(m).Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
			if err != nil || !again.Already || again.Version != 1 || len(again.Events) != 0 || len(again.State.Names) != 2 {
				t.Fatalf("the retry: %+v, %v", again, err)
			}
			if len(m.commits()) != 1 {
				t.Fatalf("%d commits", len(m.commits()))
			}
			other, err := tallying(m).Handle(t.Context(), "s", "another step", metaAt(1), add{Name: "b"})
			if first == arrives && (err != nil || other.Already || other.Version != 2) {
				t.Fatalf("another step of the same request: %+v, %v", other, err)
			}
		})
	}
}

func TestACommandThatLosesIsDecidedAgain(t *testing.T) {
	m := newMemory()
	beat := rival(m)
	m.before = func(commit domain.Commit) {
		if commit.Base < 3 {
			beat(commit)
		}
	}
	var attempts []int
	handler := tallying(m)
	handler.BackOff = func(_ context.Context, attempt int) error { attempts = append(attempts, attempt); return nil }
	result, err := handler.Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
	if err != nil || result.Version != 4 || len(result.State.Names) != 8 || result.Already {
		t.Fatalf("%+v, %v", result, err)
	}
	if !slices.Equal(attempts, []int{1, 2, 3}) {
		t.Errorf("waited before attempts %v", attempts)
	}
}

func TestACommandThatKeepsLosingGivesUp(t *testing.T) {
	m := newMemory()
	m.before = rival(m)
	waits := 0
	handler := tallying(m)
	handler.BackOff = func(context.Context, int) error { waits++; return nil }
	_, err := handler.Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
	if !errors.Is(err, commands.ErrConflict) {
		t.Fatalf("answered %v", err)
	}
	if tries := len(m.commits()) / 2; tries != waits+1 || tries < 3 || tries > 30 {
		t.Errorf("tried %d times, waited %d times", tries, waits)
	}
	if handler.Queue.Lanes() != 0 {
		t.Error("the queue still knows the stream")
	}
}

func TestACallerThatLeavesBetweenAttemptsEndsThem(t *testing.T) {
	m := newMemory()
	ctx, leave := context.WithCancel(t.Context())
	m.before = rival(m)
	handler := tallying(m)
	handler.BackOff = func(ctx context.Context, _ int) error { leave(); return context.Cause(ctx) }
	_, err := handler.Handle(ctx, "s", "add", metaAt(1), add{Name: "a"})
	if !errors.Is(err, commands.ErrConflict) || !errors.Is(err, context.Canceled) || len(m.commits()) != 2 {
		t.Fatalf("answered %v after %d commits", err, len(m.commits()))
	}
}

func TestAttemptsAreApartByMillisecondsUnlessToldOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.before = rival(m)
		handler := tallying(m)
		handler.BackOff = nil
		start := time.Now()
		if _, err := handler.Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"}); !errors.Is(err, commands.ErrConflict) {
			t.Fatalf("answered %v", err)
		}
		if took := time.Since(start); took == 0 || took > 500*time.Millisecond {
			t.Errorf("all attempts together took %v", took)
		}
	})
}

func TestErrorsOfTheStoresArePassedOn(t *testing.T) {
	broken := errors.New("connection reset")
	for sentence, test := range map[string]struct {
		spoil   func(*memory)
		want    error
		notWant error
		commits int
	}{
		"a publish without an answer is unknown": {func(m *memory) { m.fates = func(domain.Commit) fate { return lost } },
			commands.ErrUnknownOutcome, commands.ErrUnavailable, 0},
		"a fold without an answer is unknown": {func(m *memory) { m.fates = func(domain.Commit) fate { return unfolded } },
			commands.ErrUnknownOutcome, commands.ErrUnavailable, 1},
		"the fold's error is kept": {func(m *memory) { m.fates = func(domain.Commit) fate { return unfolded } },
			errNoWord, commands.ErrConflict, 1},
		"a log that cannot be reached is unavailable": {func(m *memory) { m.fates = func(domain.Commit) fate { return refused } },
			commands.ErrUnavailable, commands.ErrUnknownOutcome, 0},
		"a stream that cannot be read is unavailable": {func(m *memory) { m.loadErr = broken },
			commands.ErrUnavailable, commands.ErrUnknownOutcome, 0},
		"the store's error is kept": {func(m *memory) { m.loadErr = broken }, broken, commands.ErrUnknownOutcome, 0},
	} {
		t.Run(sentence, func(t *testing.T) {
			m := newMemory()
			test.spoil(m)
			_, err := tallying(m).Handle(t.Context(), "s", "add", metaAt(1), add{Name: "a"})
			if !errors.Is(err, test.want) || errors.Is(err, test.notWant) {
				t.Fatalf("answered %v", err)
			}
			if len(m.commits()) != test.commits {
				t.Fatalf("%d commits", len(m.commits()))
			}
		})
	}
}

func TestARefusalAndNothingNewAppendNothing(t *testing.T) {
	m := newMemory()
	accounts := commands.Handler[account.Command, account.Event, account.State]{Store: m.store(), Aggregate: account.Aggregate}
	_, err := accounts.Handle(t.Context(), "acc_1", "suspend", metaAt(1), account.Suspend{})
	if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != "account_not_found" {
		t.Fatalf("answered %v", err)
	}
	if len(m.commits()) != 0 {
		t.Fatal("a refused command reached the log")
	}
	if _, err := accounts.Handle(t.Context(), "acc_1", "open", metaAt(2), account.Open{Name: "Acme", Plan: account.Free}); err != nil {
		t.Fatal(err)
	}
	result, err := accounts.Handle(t.Context(), "acc_1", "resume", metaAt(3), account.Resume{})
	if err != nil || result.Already || result.Version != 1 || len(result.Events) != 0 || result.State.Name != "Acme" {
		t.Fatalf("nothing new: %+v, %v", result, err)
	}
	if len(m.commits()) != 1 {
		t.Fatal("nothing new reached the log")
	}
}

func TestAStateThatCannotBeReadIsNoEmptyStream(t *testing.T) {
	if known, err := tallying(newMemory()).Know(domain.Snapshot{Version: 3, State: []byte(`{"Names":7}`)}); err == nil {
		t.Fatalf("read as %+v", known)
	}
}
