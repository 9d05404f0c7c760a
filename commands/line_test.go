package commands_test

// This file stands before a turn: what becomes of messages whose conversation is busy.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// standing is a chat before whose conversations messages may wait.
func standing(t *testing.T) (*talk, *places) {
	t.Helper()
	c := &talk{memory: newMemory(), keyring: newKeyring(), model: &model{script: says("¡Hola, ", "Ana!")}}
	p := &places{memory: c.memory, taken: map[string]domain.StreamID{}}
	logger := slog.New(slog.DiscardHandler)
	c.chat = commands.NewChat(commands.ChatConfig{
		Boot: "boot_1", TotalTimeout: time.Hour, EndTimeout: 15 * time.Second, Logger: logger,
		Line: commands.NewLine(commands.LineConfig{Places: p, OpenTurns: p, Waited: p.waited, Logger: logger}),
	}, c.store(), c.keyring, c.model)
	t.Cleanup(c.chat.Close)
	return c, p
}

// busied opens a turn that says nothing until its client leaves.
func (c *talk) busied(t *testing.T) (leave func()) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	c.script = silence("", new(error))
	if _, err := c.chat.Begin(ctx, metaAt(200), c.turn(t, "la primera")); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return leave
}

// queued sends a message that waits, as the API does.
func (c *talk) queued(ctx context.Context, t *testing.T, i byte) error {
	var waiter *commands.Waiter
	defer func() {
		if waiter != nil {
			waiter.Leave(ctx)
		}
	}()
	for {
		live, err := c.chat.Begin(ctx, metaAt(i), c.turn(t, fmt.Sprintf("mensaje %d", i)))
		if err == nil {
			live.Release()
			return nil
		}
		if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != "conversation_busy" {
			return err
		}
		if waiter == nil {
			if waiter, err = c.chat.Queue(ctx, chatStream); err != nil {
				return err
			}
		}
		if err := waiter.Await(ctx); err != nil {
			return err
		}
	}
}

func isBusy(err error) bool {
	refusal, ok := errors.AsType[*domain.Refusal](err)
	return ok && refusal.Code == "conversation_busy"
}

func TestMessagesThatWaitBecomeTurnsOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		leave := c.busied(t)
		c.script = says("¡Hola!") // 100 ms
		var all sync.WaitGroup
		errs := make([]error, 20)
		for i := range errs {
			all.Go(func() { errs[i] = c.queued(t.Context(), t, byte(i+1)) })
			synctest.Wait() // they come one after the other
		}
		refused := 0
		for _, err := range errs {
			if isBusy(err) {
				refused++
			}
		}
		if refused != 4 || p.left() != 16 || c.chat.Line.Waiting() != 16 {
			t.Errorf("%d were refused at once, %d wait", refused, p.left())
		}
		leave()
		all.Wait()
		c.chat.Drain(t.Context())
		turns := 0
		for _, event := range c.accepted(t, "conversation") {
			switch event.(type) {
			case conversation.MessageReceived:
				turns++
			}
		}
		// No call was made for nothing: one waiter tries at a time.
		if calls := c.calls.Load(); turns != 17 || calls != 17 || len(c.commits()) != 34 || p.left() != 0 {
			t.Errorf("%d turns from %d calls and %d commits, %d still wait", turns, calls, len(c.commits()), p.left())
		}
		if p.longest < 1500*time.Millisecond || p.longest > 1700*time.Millisecond {
			t.Errorf("16 turns of 100 ms took %v", p.longest)
		}
	})
}

func TestAMessageWaitsForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		defer c.busied(t)()
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				start := time.Now()
				err := c.queued(t.Context(), t, byte(i+1))
				if waited := time.Since(start); !isBusy(err) || waited != time.Minute {
					t.Errorf("%v after %v", err, waited)
				}
			})
		}
		all.Wait()
		if p.left() != 0 || c.calls.Load() != 1 {
			t.Errorf("%d wait, %d calls", p.left(), c.calls.Load())
		}
		// One head looks, ten times a second.
		if looks := p.looks.Load(); looks > 601 {
			t.Errorf("%d looks in a minute", looks)
		}
	})
}

func TestAClientThatLeavesGivesItsPlaceToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		leave := c.busied(t)
		c.script = says("¡Hola!")
		ctx, goAway := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := c.queued(ctx, t, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if err := c.queued(t.Context(), t, 2); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		goAway()
		synctest.Wait()
		if p.left() != 1 {
			t.Errorf("%d wait", p.left())
		}
		leave()
		all.Wait()
	})
}

func TestTheEndOfATurnOnAnotherNodeIsSeenWithinATenthOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := standing(t)
		elsewhere, p := standing(t)
		elsewhere.memory, p.memory = c.memory, c.memory
		elsewhere.keyring = c.keyring
		logger := slog.New(slog.DiscardHandler)
		elsewhere.chat = commands.NewChat(commands.ChatConfig{
			Boot: "boot_2", TotalTimeout: time.Hour, EndTimeout: 15 * time.Second, Logger: logger,
			Line: commands.NewLine(commands.LineConfig{Places: p, OpenTurns: p, Waited: p.waited, Logger: logger}),
		}, c.store(), c.keyring, elsewhere.model)
		t.Cleanup(elsewhere.chat.Close)
		leave := c.busied(t)
		var ended time.Time
		var all sync.WaitGroup
		all.Go(func() {
			if err := elsewhere.queued(t.Context(), t, 1); err != nil {
				t.Error(err)
			}
			if late := time.Since(ended); late > 110*time.Millisecond {
				t.Errorf("it went on %v later", late)
			}
		})
		<-time.After(10*time.Second + 37*time.Millisecond)
		ended = time.Now()
		leave()
		all.Wait()
		elsewhere.chat.Drain(t.Context())
	})
}

func TestANodeThatStopsSendsAwayWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		leave := c.busied(t)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if err := c.queued(t.Context(), t, byte(i+1)); !errors.Is(err, commands.ErrUnavailable) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		go c.chat.Drain(t.Context())
		all.Wait()
		if time.Since(start) != 0 || p.left() != 0 {
			t.Errorf("after %v, %d still wait", time.Since(start), p.left())
		}
		if err := c.queued(t.Context(), t, 9); !errors.Is(err, commands.ErrUnavailable) {
			t.Errorf("whoever comes later gets %v", err)
		}
		leave()
		synctest.Wait()
	})
}

func TestWhoWaitsHearsThatTheStoresAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		leave := c.busied(t)
		p.blind = errors.New("connection reset")
		waiter, err := c.chat.Queue(t.Context(), chatStream)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := waiter.Await(t.Context()); err != nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		waiter.Leave(t.Context())
		p.err = errors.New("connection refused")
		if _, err := c.chat.Queue(t.Context(), chatStream); !errors.Is(err, commands.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		leave()
		synctest.Wait()
	})
}
