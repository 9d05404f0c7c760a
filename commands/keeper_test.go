package commands

// This file tests how often running turns' text is written.

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/domain"
)

// openKey seals nothing.
type openKey struct{}

func (openKey) ID() string                           { return "dk_1" }
func (openKey) Seal(plain []byte) domain.Sealed      { return domain.Sealed{Key: "dk_1", Data: plain} }
func (openKey) Open(s domain.Sealed) ([]byte, error) { return s.Data, nil }

// writes counts the turns in each write.
type writes struct {
	mu    sync.Mutex
	turns []int
}

func (w *writes) Keep(_ context.Context, pieces []TurnPiece) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turns = append(w.turns, len(pieces))
	return nil
}

// soFar is the writes until now.
func (w *writes) soFar() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.turns)
}

func (w *writes) Read(context.Context, string, int) ([]TurnPiece, error) { return nil, nil }
func (w *writes) Forget(context.Context, ...string) error                { return nil }

// speak begins turns that say a token every 10 ms for a second.
func speak(t *testing.T, k *keeper, turns int) {
	for range turns {
		live := NewLive("turn", "conv", "agt", "msg", time.Now())
		live.DataKey = openKey{}
		live.keptBy(t.Context(), k)
		live.open()
		go func() {
			for range 100 {
				live.Say("a")
				time.Sleep(10 * time.Millisecond) // of the bubble's clock
			}
		}()
	}
}

func TestTheMoreTurnsSpeakTheFewerWritesThereAreForEach(t *testing.T) {
	for turns, want := range map[int][2]int{1: {95, 105}, 64: {24, 30}} {
		synctest.Test(t, func(t *testing.T) {
			w := &writes{}
			k := newKeeper(w, slog.New(slog.DiscardHandler))
			speak(t, k, turns)
			time.Sleep(time.Millisecond)
			first := len(w.soFar()) // as many as there are first words, perhaps
			time.Sleep(2 * time.Second)
			if got := len(w.soFar()) - first; got < want[0] || got > want[1] {
				t.Errorf("what %d turns say in a second takes %d writes", turns, got)
			}
			k.close()
		})
	}
}

func TestAFirstWordWaitsForNobodyAndHurriesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &writes{}
		k := newKeeper(w, slog.New(slog.DiscardHandler))
		speak(t, k, 64)
		time.Sleep(501 * time.Millisecond)
		live := NewLive("turn_2", "conv", "agt", "msg", time.Now())
		live.DataKey = openKey{}
		live.keptBy(t.Context(), k)
		live.open()
		before := len(w.soFar())
		live.Say("¡Hola!")
		synctest.Wait() // without time passing
		since := w.soFar()[before:]
		if step, _ := live.look(0); step.Text != "¡Hola!" || !slices.Equal(since, []int{1}) {
			t.Errorf("%q is shown at once, after writes about %v turns", step.Text, since)
		}
		time.Sleep(time.Second)
		k.close()
	})
}
