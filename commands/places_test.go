package commands_test

// This file stands before a turn: two nodes before whose one conversation messages wait.

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// places count waiters in memory, and say which of a memory's conversations are busy.
type places struct {
	*memory
	mu      sync.Mutex
	taken   map[string]domain.StreamID
	order   []string      // in which places were taken
	err     error         // of taking a place
	blind   error         // of looking
	looks   atomic.Int32  // at open turns
	waits   []string      // how they went
	longest time.Duration // of them
}

func (p *places) Take(_ context.Context, conversation domain.StreamID, waiter string, most int, _ time.Duration) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, stream := range p.taken {
		if stream == conversation {
			count++
		}
	}
	if count < most && p.err == nil {
		p.taken[waiter], p.order = conversation, append(p.order, waiter)
	}
	return count < most, p.err
}

func (p *places) Eldest(_ context.Context, conversation domain.StreamID) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, waiter := range p.order {
		if p.taken[waiter] == conversation {
			return waiter, p.err
		}
	}
	return "", p.err
}

func (p *places) Leave(_ context.Context, waiter string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, waiter)
	return nil
}

func (p *places) Busy(_ context.Context, conversations []domain.StreamID) (busy []domain.StreamID, err error) {
	p.looks.Add(1)
	if p.blind != nil {
		return nil, p.blind
	}
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	for _, id := range conversations {
		if stream := p.streams[id]; stream != nil && stream.state.(conversation.State).Turn != nil {
			busy = append(busy, id)
		}
	}
	return busy, nil
}

func (p *places) waited(how string, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits, p.longest = append(p.waits, how), max(p.longest, waited)
}

func (p *places) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.taken)
}

// beside is another node, with the same stores.
func (c *talk) beside(t *testing.T, p *places) *talk {
	t.Helper()
	other, logger := &talk{memory: c.memory, keyring: c.keyring, model: &model{script: says("¡Hola!")}}, slog.New(slog.DiscardHandler)
	other.chat = commands.NewChat(commands.ChatConfig{
		Boot: "boot_2", TotalTimeout: time.Hour, EndTimeout: 15 * time.Second, Logger: logger,
		Line: commands.NewLine(commands.LineConfig{Places: p, OpenTurns: p, Waited: p.waited, Logger: logger}),
	}, c.store(), c.keyring, other.model)
	t.Cleanup(other.chat.Close)
	return other
}

func TestANodeWithMessagesAlwaysWaitingGivesWayToAnOlderOneOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		other := c.beside(t, p)
		leave := c.busied(t)
		c.script = says("¡Hola!") // 100 ms
		var all sync.WaitGroup
		start := time.Now()
		waited := time.Duration(0)
		all.Go(func() {
			if err := other.queued(t.Context(), t, 199); err != nil {
				t.Error(err)
			}
			waited = time.Since(start)
		})
		synctest.Wait()
		for crowd := range byte(3) { // each sends its next message when the one before has come in
			all.Go(func() {
				for i := range byte(50) {
					if err := c.queued(t.Context(), t, 1+3*i+crowd); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		synctest.Wait()
		leave()
		all.Wait()
		t.Logf("a message that waited first came in after %v, those behind it took %v", waited, time.Since(start))
		if waited > 2*time.Second || time.Since(start) < 15*time.Second {
			t.Errorf("a message that waited first came in after %v, those behind it took %v", waited, time.Since(start))
		}
		other.chat.Drain(t.Context())
		c.chat.Drain(t.Context())
	})
}

func TestNobodyWaitsTwiceForAPlaceOfADeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := standing(t)
		if took, err := p.Take(t.Context(), chatStream, "wait_of_the_dead", 16, time.Hour); !took || err != nil {
			t.Fatal(took, err)
		}
		leave := c.busied(t)
		c.script = says("¡Hola!")
		var all sync.WaitGroup
		all.Go(func() {
			if err := c.queued(t.Context(), t, 1); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		start := time.Now()
		leave()
		all.Wait()
		if waited := time.Since(start); waited > 300*time.Millisecond {
			t.Errorf("it went on after %v", waited)
		}
		<-time.After(time.Second) // of the test's clock: its turn has ended
		gone, goAway := context.WithCancel(t.Context())
		leave = c.busied(t)
		all.Go(func() {
			if err := c.queued(gone, t, 2); err == nil {
				t.Error("one who left came in")
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait() // it gives way now
		goAway()
		all.Wait()
	})
}
