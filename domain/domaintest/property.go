package domaintest

// This file stands beside the decision: what holds for every aggregate and every sequence of commands.

import (
	"bytes"
	"errors"
	"reflect"

	"github.com/nidohq/nido/domain"
)

// Step is one command of a sequence and what came of it.
type Step[C, E, S any] struct {
	Command C
	Before  S
	Events  []E
	After   S
	Err     error
}

// Play sends commands one after the other and checks, at each of them, that
//   - the decider answers with events, or nothing, or a *domain.Refusal, never with events and a refusal;
//   - a state decides the same after it has been stored and read;
//   - events say the same after they have been stored and read;
//   - the same command sent once more decides nothing new, or is refused.
//
// look, if not nil, checks what is the aggregate's own.
func Play[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], commands []C, look func(Step[C, E, S])) {
	t.Helper()
	var state S // as a process that folds without pause has it
	for _, command := range commands {
		step := Step[C, E, S]{Command: command, Before: state, After: state}
		step.Events, step.Err = aggregate.Decider.Decide(command, state)
		checkAnswer(t, step)
		restored := Restore(t, aggregate, state)
		events, err := aggregate.Decider.Decide(command, restored)
		if !sameEvents(t, aggregate, events, step.Events) || !reflect.DeepEqual(err, step.Err) {
			t.Fatalf("%#v\ndecides %#v, %v\non a state that was stored, and before %#v, %v", command, events, err, step.Events, step.Err)
		}
		for _, event := range step.Events {
			step.After = aggregate.Decider.Evolve(step.After, event)
		}
		checkStored(t, aggregate, step, restored)
		for _, after := range []S{step.After, Restore(t, aggregate, step.After)} {
			again, err := aggregate.Decider.Decide(command, after)
			if len(again) != 0 {
				t.Fatalf("%#v\nsent once more decides %#v", command, again)
			}
			if _, refused := errors.AsType[*domain.Refusal](err); err != nil && !refused {
				t.Fatalf("%#v\nsent once more answers %v", command, err)
			}
		}
		if look != nil {
			look(step)
		}
		state = step.After
	}
}

func checkAnswer[C, E, S any](t Failer, step Step[C, E, S]) {
	t.Helper()
	if step.Err == nil {
		return
	}
	refusal, refused := errors.AsType[*domain.Refusal](step.Err)
	if !refused || refusal.Code == "" || refusal.Message == "" {
		t.Fatalf("%#v\nanswers %#v, which is no refusal that a caller could read", step.Command, step.Err)
	}
	if len(step.Events) != 0 {
		t.Fatalf("%#v\nis refused, and yet decides %#v", step.Command, step.Events)
	}
}

// checkStored stores and reads the step's events, and folds what was read onto the state that was.
func checkStored[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], step Step[C, E, S], before S) {
	t.Helper()
	stored, err := aggregate.Codec.Encode(step.Events)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	data, err := aggregate.EncodeState(before)
	if err != nil {
		t.Fatalf("encode state: %v", err)
	}
	folded, err := aggregate.Fold(nil, data, stored)
	if err != nil {
		t.Fatalf("fold: %v", err)
	}
	read := make([]E, len(folded.Events))
	for i, event := range folded.Events {
		read[i] = event.(E)
	}
	if !sameEvents(t, aggregate, read, step.Events) {
		t.Fatalf("%#v\nread back as %#v", step.Events, read)
	}
	if !bytes.Equal(encodedState(t, aggregate, folded.State), encodedState(t, aggregate, step.After)) {
		t.Fatalf("%#v\nfolds to %#v once it was stored, and to %#v before", step.Events, folded.State, step.After)
	}
}

// sameEvents compares by what is stored: an empty list and none are one.
func sameEvents[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], a, b []E) bool {
	t.Helper()
	left, err := aggregate.Codec.Encode(a)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	right, err := aggregate.Codec.Encode(b)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return reflect.DeepEqual(left, right)
}

func encodedState[C, E, S any](t Failer, aggregate domain.Aggregate[C, E, S], state any) []byte {
	t.Helper()
	data, err := aggregate.EncodeState(state)
	if err != nil {
		t.Fatalf("encode state: %v", err)
	}
	return data
}
