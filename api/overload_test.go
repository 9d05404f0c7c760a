package api

// This file tests the door: who is let in, who waits, and how many there is room for.

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var smallGate = gateConfig{
	least: 8, most: 64, target: 10 * time.Millisecond, patience: 40 * time.Millisecond, crowdedPatience: time.Millisecond,
}

// offer is what is sent into a gate with one key, and what came of it.
type offer struct {
	every, during           time.Duration
	served, refused, inVain int
	waited, stood           []time.Duration // of those that were refused, and of those that were not
}

// offered sends requests into a gate at their paces, each of which takes what serving says of how many are inside.
func offered(t *testing.T, g *gate, serving func(inside int) time.Duration, offers map[string]*offer) {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	for whose, o := range offers {
		one := func() {
			arrived := time.Now()
			leave, in := g.enter(t.Context(), whose)
			waited := time.Since(arrived)
			mu.Lock()
			switch {
			case in:
				o.served++
				o.stood = append(o.stood, waited)
			case waited > 0:
				o.inVain++
				fallthrough
			default:
				o.refused++
				o.waited = append(o.waited, waited)
			}
			mu.Unlock()
			if !in {
				return
			}
			g.mu.Lock()
			inside := g.inside
			g.mu.Unlock()
			time.Sleep(serving(inside))
			leave()
		}
		group.Go(func() {
			for began := time.Now(); time.Since(began) < o.during; time.Sleep(o.every) { // of synctest's clock
				group.Go(one)
			}
		})
	}
	group.Wait()
	if g.inside != 0 || g.waiting.count != 0 || len(g.waiting.queues) != 0 || len(g.waiting.turns) != 0 {
		t.Errorf("%d inside and %d waiting of nobody", g.inside, g.waiting.count)
	}
}

// busy is a node that does eight at a time in 4 ms each; more take longer, and no more get done: 2,000 a second.
func busy(inside int) time.Duration {
	return max(4*time.Millisecond, time.Duration(inside)*500*time.Microsecond)
}

func TestANodeThatIsOfferedTwiceWhatItCanDoDoesWhatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(smallGate)
		half := &offer{every: time.Millisecond, during: 2 * time.Second}
		if offered(t, &g, busy, map[string]*offer{"a": half}); half.refused > 20 {
			t.Errorf("at half of what it can do, %d were served and %d refused", half.served, half.refused)
		}
		twice := &offer{every: 250 * time.Microsecond, during: 4 * time.Second}
		offered(t, &g, busy, map[string]*offer{"a": twice})
		if twice.served < 7000 || twice.served > 9000 {
			t.Errorf("of 16,000 in 4 s, %d were served and %d refused, %d of them late", twice.served, twice.refused, twice.inVain)
		}
		if g.limit > 30 {
			t.Errorf("there is room for %.0f, of whom each takes %v", g.limit, busy(int(g.limit)))
		}
		slices.Sort(twice.waited)
		if late := twice.waited[len(twice.waited)*99/100]; late > 0 {
			t.Errorf("one in a hundred heard only after %v that there is no room", late)
		}
	})
}

func TestWhereThereIsNoEndToThemTheLineIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(workGate)
		node := func(int) time.Duration { return 90 * time.Millisecond } // 1,066 a second
		o := &offer{every: 500 * time.Microsecond, during: 2 * time.Second}
		offered(t, &g, node, map[string]*offer{"a": o})
		slices.Sort(o.stood)
		if most := o.stood[len(o.stood)-1]; most > 190*time.Millisecond {
			t.Errorf("somebody stood in line for %v", most)
		}
		if o.inVain > 0 || o.served < 2000 {
			t.Errorf("%d were served and %d refused, %d of them late", o.served, o.refused, o.inVain)
		}
	})
}

func TestALineIsNoLongerThanItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(workGate)
		slow := func(int) time.Duration { return rand.N(480 * time.Millisecond) } // 400 a second
		o := &offer{every: 2 * time.Millisecond, during: 5 * time.Second}
		offered(t, &g, slow, map[string]*offer{"a": o})
		slices.Sort(o.stood)
		if most := o.stood[len(o.stood)-1]; most > workGate.patience+100*time.Millisecond {
			t.Errorf("somebody stood in line for %v", most)
		}
		if late := o.inVain; late > o.refused/100 {
			t.Errorf("of %d who were refused %d had waited", o.refused, late)
		}
	})
}

func TestThoseWhoComeBackWhenTheyAreAnsweredAreNoCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(workGate)
		var group sync.WaitGroup
		for i := range 300 { // 96 inside and 204 waiting, again and again
			group.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				for range 30 {
					leave, in := g.enter(t.Context(), "a")
					if !in {
						t.Error("refused")
						return
					}
					time.Sleep(90 * time.Millisecond)
					leave()
				}
			})
		}
		group.Wait()
	})
}

func TestAKeyThatSendsFarTooMuchTakesThePlacesFromItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(smallGate)
		loud := &offer{every: 100 * time.Microsecond, during: 2 * time.Second}
		quiet := &offer{every: 10 * time.Millisecond, during: 2 * time.Second}
		offered(t, &g, busy, map[string]*offer{"loud": loud, "quiet": quiet})
		if quiet.refused > 2 {
			t.Errorf("of those who ask for a twentieth of what can be done, %d were served and %d refused", quiet.served, quiet.refused)
		}
		if loud.served < 3000 {
			t.Errorf("of those who ask for five times what can be done, %d were served in two seconds", loud.served)
		}
	})
}

func TestWhatComesAtOnceIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(workGate)
		var group sync.WaitGroup
		for range 280 { // 96 inside, and what is let in within a quarter of a second
			group.Go(func() {
				leave, in := g.enter(t.Context(), "a")
				if !in {
					t.Error("refused")
					return
				}
				time.Sleep(90 * time.Millisecond)
				leave()
			})
		}
		group.Wait()
	})
}

func TestWhatIsSlowByItselfKeepsItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(smallGate)
		far := func(int) time.Duration { return 50 * time.Millisecond } // a cluster on another continent
		for _, o := range []*offer{{every: 30 * time.Millisecond, during: 10 * time.Second}, {every: 2 * time.Millisecond, during: 5 * time.Second}} {
			offered(t, &g, far, map[string]*offer{"a": o}) // the gate opens as far as is needed
		}
		last := &offer{every: 2 * time.Millisecond, during: 10 * time.Second}
		if offered(t, &g, far, map[string]*offer{"a": last}); last.refused > last.served/10 {
			t.Errorf("%d were served and %d refused, with room for %.0f", last.served, last.refused, g.limit)
		}
	})
}

func TestOneThatLeavesTheLineTakesNoRoom(t *testing.T) {
	g := newGate(gateConfig{least: 1, most: 1, target: time.Second, patience: time.Minute})
	leave, in := g.enter(t.Context(), "a")
	if !in {
		t.Fatal("refused by an empty node")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, in := g.enter(ctx, "a"); in {
		t.Error("let in beside another")
	}
	leave()
	if leave, in = g.enter(t.Context(), "a"); !in {
		t.Fatal("refused behind one that has left")
	}
	leave()
}

func TestAnEndIsLoadUntilItTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(gateConfig{least: 1, most: 1, target: time.Second, patience: time.Millisecond})
		ended, stuck := g.back(), g.back()
		if _, in := g.enter(t.Context(), "a"); in || g.inside != 2 {
			t.Errorf("let in beside two ends, with %d inside", g.inside)
		}
		ended()
		time.Sleep(stuckAfter + time.Millisecond)
		if leave, in := g.enter(t.Context(), "a"); !in {
			t.Error("an end that is stuck shuts the door")
		} else {
			leave()
		}
		if stuck(); g.inside != 0 {
			t.Errorf("%d inside of nobody", g.inside)
		}
	})
}

func TestRefusalsAreCountedInTheLogAndNotListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server.gates.rest.limit = 0
		key := w.key(accountScopes)
		for range 100 {
			if answer := w.do(request{method: "GET", path: "/api/agents", key: key}); answer.Code != http.StatusServiceUnavailable {
				t.Fatal(answer.Code, answer.Body)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if lines := strings.Count(w.logged.String(), "\n"); lines != 25 || !strings.Contains(w.logged.String(), `"requests":4`) {
			t.Errorf("100 refusals in 27 seconds are %d lines: %s", lines, w.logged)
		}
	})
}
