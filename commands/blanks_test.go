package commands

// This file tests conversations that lie ready before anybody begins them.

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
)

// ahead makes keys, each call taking 10 ms.
type ahead struct {
	mu     sync.Mutex
	owners []string
	calls  int
	fails  error
}

func (a *ahead) Index(id string) string { return "mac-of-" + id }

func (a *ahead) CreateAll(_ context.Context, owners ...string) (ids []string, err error) {
	time.Sleep(10 * time.Millisecond) // of the bubble's clock
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.fails != nil {
		return nil, a.fails
	}
	for _, owner := range owners {
		ids = append(ids, "dk-of-"+owner)
	}
	a.owners = append(a.owners, owners...)
	return ids, nil
}

func (a *ahead) made() (calls, keys int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls, len(a.owners)
}

func blanksIn(t *testing.T, test func(t *testing.T, b *Blanks, keys *ahead)) {
	synctest.Test(t, func(t *testing.T) {
		keys := &ahead{}
		b := NewBlanks(keys, time.Now, slog.New(slog.DiscardHandler))
		test(t, b, keys)
		b.Close()
	})
}

func TestConversationsLieReadyFromTheFirstOneOn(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		if _, ok := b.Take("agt_1"); ok {
			t.Error("one lies ready at a door that nobody has come through")
		}
		b.Begun(t.Context(), "agt_1", "agt_1")
		synctest.Wait()
		if _, ok := b.Take("agt_1"); ok {
			t.Error("one lies ready before its key is durable")
		}
		time.Sleep(20 * time.Millisecond)
		seen := map[string]bool{}
		for range fewBlanks {
			one, ok := b.Take("agt_1")
			if !ok || seen[one.ID] || !strings.HasPrefix(one.ID, "conv_") || one.Mac != "mac-of-"+one.ID || one.Key != "dk-of-conversation-agt_1."+one.Mac {
				t.Errorf("%+v, %v", one, ok)
			}
			seen[one.ID] = true
		}
		if one, ok := b.Take("agt_1"); ok {
			t.Errorf("%+v was never made", one)
		}
		if _, ok := b.Take("agt_2"); ok {
			t.Error("one lies ready for another agent")
		}
	})
}

func TestManyBeginningsNeedFewWrites(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		missed := 0
		for range 1000 {
			if _, ok := b.Take("ventas"); !ok {
				missed++
			}
			b.Begun(t.Context(), "ventas", "agt_1")
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		calls, made := keys.made()
		if missed > 60 || calls > 60 || made > 1000+mostBlanks {
			t.Errorf("a thousand beginnings, 1 ms apart: %d had to wait, %d writes, %d keys", missed, calls, made)
		}
	})
}

func TestOneThatWasNotUsedIsSomebodyElses(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		b.Begun(t.Context(), "ventas", "agt_1")
		time.Sleep(20 * time.Millisecond)
		one, _ := b.Take("ventas")
		b.GiveBack("ventas", one)
		if again, ok := b.Take("ventas"); !ok || again != one {
			t.Errorf("%+v was given back, and %+v taken", one, again)
		}
		b.GiveBack("elsewhere", one) // a door that has been forgotten
		if _, ok := b.Take("elsewhere"); ok {
			t.Error("it lies at a door that is not there")
		}
	})
}

func TestASlugThatMovesTakesNothingAlong(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		b.Begun(t.Context(), "ventas", "agt_1") // these are still being made when it moves
		b.Begun(t.Context(), "ventas", "agt_2")
		time.Sleep(20 * time.Millisecond)
		b.Begun(t.Context(), "ventas", "agt_2")
		time.Sleep(20 * time.Millisecond)
		for range fewBlanks {
			if one, ok := b.Take("ventas"); !ok || !strings.HasPrefix(one.Key, "dk-of-conversation-agt_2.") {
				t.Errorf("%+v, %v", one, ok)
			}
		}
		synctest.Wait()
		if b.count != 0 {
			t.Errorf("%d are counted", b.count)
		}
	})
}

func TestWhatCannotBeMadeIsNotTriedAllTheTime(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		keys.fails = errors.New("connection refused")
		for range 4900 {
			b.Begun(t.Context(), "agt_1", "agt_1")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if calls, _ := keys.made(); calls != 1 || b.count != 0 {
			t.Errorf("%d tries, %d counted", calls, b.count)
		}
		keys.fails = nil
		time.Sleep(blankPatience)
		b.Begun(t.Context(), "agt_1", "agt_1")
		time.Sleep(20 * time.Millisecond)
		if _, ok := b.Take("agt_1"); !ok {
			t.Error("none is made any more")
		}
	})
}

func TestAllThatLieReadyAreBounded(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		for i := range 1000 {
			door := fmt.Sprint("agt_", i)
			b.Begun(t.Context(), door, door)
			time.Sleep(11 * time.Millisecond)
		}
		synctest.Wait()
		lie := 0
		for _, at := range b.doors {
			lie += len(at.ready)
		}
		if lie != b.count || lie > allBlanks || lie < allBlanks/2 {
			t.Errorf("%d lie ready, %d are counted", lie, b.count)
		}
		if _, ok := b.Take("agt_999"); !ok {
			t.Error("none lies ready where one was asked for just now")
		}
		if _, ok := b.Take("agt_0"); ok {
			t.Error("one lies ready where none was asked for the longest")
		}
	})
}

func TestNothingIsMadeBehindTheEnd(t *testing.T) {
	blanksIn(t, func(t *testing.T, b *Blanks, keys *ahead) {
		b.Begun(t.Context(), "agt_1", "agt_1")
		b.Close()
		if calls, _ := keys.made(); calls != 1 {
			t.Errorf("closing does not wait for what is being made: %d", calls)
		}
		b.Begun(t.Context(), "agt_2", "agt_2")
		time.Sleep(20 * time.Millisecond)
		if calls, _ := keys.made(); calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
}
