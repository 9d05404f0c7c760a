// Package domaintest tells an aggregate's tests in its own words: given these events, when this command comes, then
// these events follow, or a refusal, or nothing. It also keeps the golden files of stored events and checks what holds
// for every aggregate whatever it is about.
//
// It stands beside the decision and is imported by tests only.
package domaintest

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/nidohq/nido/domain"
)

// Stories is a table of an aggregate's decisions: a sentence, and what must hold.
type Stories map[string]func(*testing.T)

// Run tells each story in a subtest named by its sentence.
func (s Stories) Run(t *testing.T) {
	t.Helper()
	for _, sentence := range slices.Sorted(maps.Keys(s)) {
		t.Run(sentence, s[sentence])
	}
}

// Teller tells stories about one aggregate.
type Teller[C, E, S any] struct{ aggregate domain.Aggregate[C, E, S] }

// About returns the teller of an aggregate's stories.
func About[C, E, S any](aggregate domain.Aggregate[C, E, S]) Teller[C, E, S] {
	return Teller[C, E, S]{aggregate}
}

// Past is what has happened to a stream so far.
type Past[C, E, S any] struct {
	aggregate domain.Aggregate[C, E, S]
	events    []E
}

// Given begins a story: these events have happened. No events are the empty stream.
func (a Teller[C, E, S]) Given(events ...E) Past[C, E, S] {
	return Past[C, E, S]{a.aggregate, events}
}

// Asked is a command on its way to the decider.
type Asked[C, E, S any] struct {
	past    Past[C, E, S]
	command C
}

// When goes on: this command comes.
func (p Past[C, E, S]) When(command C) Asked[C, E, S] { return Asked[C, E, S]{p, command} }

// Then ends a story: exactly these events follow.
func (a Asked[C, E, S]) Then(want ...E) func(*testing.T) {
	return func(t *testing.T) {
		got, err := a.decide(t)
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("decided\n%#v\nnot\n%#v", got, want)
		}
	}
}

// ThenNothing ends a story: there is nothing new to say, and nothing to refuse.
func (a Asked[C, E, S]) ThenNothing() func(*testing.T) {
	return func(t *testing.T) {
		if got, err := a.decide(t); err != nil || len(got) != 0 {
			t.Fatalf("decided %#v, %v, and not nothing", got, err)
		}
	}
}

// ThenRefused ends a story: the command is refused with this code, for this field ("" for none in particular).
func (a Asked[C, E, S]) ThenRefused(code, field string) func(*testing.T) {
	return func(t *testing.T) {
		got, err := a.decide(t)
		refusal, ok := errors.AsType[*domain.Refusal](err)
		switch {
		case !ok:
			t.Fatalf("decided %#v, %v, and did not refuse", got, err)
		case len(got) != 0:
			t.Fatalf("refused, and yet decided %#v", got)
		case refusal.Code != code || refusal.Field != field:
			t.Fatalf("refused with code %q for field %q, not %q for %q", refusal.Code, refusal.Field, code, field)
		case refusal.Message == "":
			t.Fatal("the refusal does not say why")
		}
	}
}

// decide takes the way of production: events and state come from their stored form.
func (a Asked[C, E, S]) decide(t *testing.T) ([]E, error) {
	t.Helper()
	state := Fold(t, a.past.aggregate, a.past.events)
	return a.past.aggregate.Decider.Decide(a.command, state)
}

// Failer is a test, or a property under check.
type Failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Fold stores events, reads them back, folds them, and stores and reads the state: what a decision will be based on.
func Fold[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], events []E) S {
	t.Helper()
	stored, err := aggregate.Codec.Encode(events)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	folded, err := aggregate.Fold(nil, nil, stored)
	if err != nil {
		t.Fatalf("fold: %v", err)
	}
	return Restore(t, aggregate, folded.State)
}

// Restore stores a state and reads it back.
func Restore[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], state any) S {
	t.Helper()
	data, err := aggregate.EncodeState(state)
	if err != nil {
		t.Fatalf("encode state: %v", err)
	}
	restored, err := aggregate.DecodeState(data)
	if err != nil {
		t.Fatalf("decode state: %v", err)
	}
	return restored
}
