package commands

// This file tests what turns rest for, where many speak at once.

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// overhear begins turns whose models say a token every 10 ms for a second; each reads all that was said when it does not
// rest. It returns how often they read, and by how much what a reader sees was late at most.
func overhear(t *testing.T, k *keeper, turns int) (reads *atomic.Int64, late *atomic.Int64) {
	reads, late = new(atomic.Int64), new(atomic.Int64)
	for range turns {
		began := time.Now()
		live := NewLive("turn", "conv", "agt", "msg", began)
		live.DataKey = openKey{}
		live.keptBy(t.Context(), k)
		live.open()
		go func() {
			for said := 0; said < 100; {
				live.rest(t.Context())
				if came := int(time.Since(began) / (10 * time.Millisecond)); came > said {
					reads.Add(1)
					for ; said < came; said++ {
						live.Say("a")
					}
				} else {
					time.Sleep(10*time.Millisecond - time.Since(began)%(10*time.Millisecond)) // of the bubble's clock
				}
			}
			live.End(Reply{}, nil)
		}()
		go func() {
			for seen := 0; ; {
				step, err := live.Next(t.Context(), seen, nil)
				if err != nil || step.End != nil {
					return
				}
				since := time.Since(began) - time.Duration(seen+1)*10*time.Millisecond // when the first of them was said
				late.Store(max(late.Load(), int64(since)))
				seen += len(step.Text)
			}
		}()
	}
	return reads, late
}

func TestManyTurnsReadTheirModelsOnceAFrameAndFewAtOnce(t *testing.T) {
	for turns, want := range map[int]struct {
		least, most int64 // reads of each
		late        time.Duration
	}{4: {100, 100, keepPause}, 64: {20, 35, longKeepPause + keepPause}} {
		synctest.Test(t, func(t *testing.T) {
			k := newKeeper(&writes{}, slog.New(slog.DiscardHandler))
			reads, late := overhear(t, k, turns)
			time.Sleep(3 * time.Second)
			if each := reads.Load() / int64(turns); each < want.least || each > want.most {
				t.Errorf("each of %d turns reads its model %d times in a second", turns, each)
			}
			if late := time.Duration(late.Load()); late > want.late {
				t.Errorf("a token of one of %d turns is seen %v after it was said", turns, late)
			}
			k.close()
		})
	}
}

func TestAModelIsReadOnWhenItsFirstWordIsShownOrAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(&writes{}, slog.New(slog.DiscardHandler))
		live := NewLive("turn", "conv", "agt", "msg", time.Now())
		live.DataKey, live.begun = openKey{}, false
		began := time.Now()
		rested := func(want time.Duration, what string) {
			t.Helper()
			live.rest(t.Context())
			if rested := time.Since(began); rested != want {
				t.Errorf("%s it has rested for %v in all", what, rested)
			}
		}
		rested(0, "with nothing said")
		live.Say("¡Hola!")
		rested(longestRest, "while its message is not accepted")
		time.AfterFunc(time.Millisecond, func() {
			live.keptBy(t.Context(), k)
			live.open()
		})
		rested(longestRest+time.Millisecond, "with its first word shown")
		live.Say(" ¿Qué tal?")
		rested(longestRest+time.Millisecond, "where nobody else speaks")
		live.End(Reply{}, nil)
		k.close()
	})
}

func TestNobodyRestsForAKeeperThatDoesNotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f frames
		f.end(10 * time.Millisecond)
		began := time.Now()
		f.rest(t.Context())
		f.rest(t.Context()) // of the next frame the keeper does not say when it ends
		f.rest(t.Context())
		if rested := time.Since(began); rested != 10*time.Millisecond+longKeepPause {
			t.Errorf("three rests take %v", rested)
		}
		f.end(10 * time.Millisecond)
		f.rest(t.Context())
		if rested := time.Since(began); rested != 20*time.Millisecond+longKeepPause {
			t.Errorf("all rests take %v once it writes again", rested)
		}
	})
}

func TestWhoIsStoppedDoesNotRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f frames
		f.end(time.Hour)
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, stop)
		began := time.Now()
		f.rest(ctx)
		if rested := time.Since(began); rested != time.Millisecond {
			t.Errorf("it rests for %v", rested)
		}
	})
}
