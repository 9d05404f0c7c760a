package domain

// This file stands at the decision: what every aggregate is made of, and how a fold runs over it.

import (
	"encoding/json"
	"fmt"
)

// Decider is one aggregate's rules. Decide answers a command with events, with nothing (there is nothing new to say)
// or with a *Refusal; Evolve folds one event. The zero State is the empty stream.
type Decider[C, E, S any] struct {
	Decide func(command C, state S) ([]E, error)
	Evolve func(state S, event E) S
}

// Aggregate is a kind of stream: its rules, its stored events, and the schema number of its stored State.
// Raise StateSchema whenever State's JSON changes: start then rebuilds the snapshots before it serves.
type Aggregate[C, E, S any] struct {
	Kind        string
	StateSchema int
	Decider     Decider[C, E, S]
	Codec       Codec[E]
}

// Stream names the stream of one aggregate of this kind.
func (a Aggregate[C, E, S]) Stream(name string) StreamID { return NewStreamID(a.Kind, name) }

// DecodeState reads a snapshot's state; empty input is the empty stream.
func (a Aggregate[C, E, S]) DecodeState(data []byte) (S, error) {
	var state S
	if len(data) == 0 {
		return state, nil
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return state, fmt.Errorf("decode state of %s: %w", a.Kind, err)
	}
	return state, nil
}

// Folded is what folding one commit leaves: the decoded events and the state behind the last of them, and both as
// read models see them, without type parameters.
type Folded struct {
	Events []any // the aggregate's event structs
	State  any   // the aggregate's State after the commit
}

// Folder is an aggregate as a projector sees it.
type Folder interface {
	FoldKind() (kind string, stateSchema int)
	// Fold decodes a commit's events and folds them onto a state: the Folded.State of the commit before, or nil and
	// the stored JSON, or nothing for the empty stream. Its errors wrap ErrUndecodable where an event cannot be read.
	Fold(before any, beforeJSON []byte, events []Stored) (Folded, error)
	// EncodeState gives a Folded.State the JSON under which its snapshot is kept.
	EncodeState(state any) ([]byte, error)
}

// FoldKind implements Folder.
func (a Aggregate[C, E, S]) FoldKind() (string, int) { return a.Kind, a.StateSchema }

// Fold implements Folder.
func (a Aggregate[C, E, S]) Fold(before any, beforeJSON []byte, events []Stored) (Folded, error) {
	state, ok := before.(S)
	if !ok {
		var err error
		if state, err = a.DecodeState(beforeJSON); err != nil {
			return Folded{}, err
		}
	}
	folded := Folded{Events: make([]any, len(events))}
	for i, stored := range events {
		event, err := a.Codec.Decode(stored)
		if err != nil {
			return Folded{}, err
		}
		state = a.Decider.Evolve(state, event)
		folded.Events[i] = event
	}
	folded.State = state
	return folded, nil
}

// EncodeState implements Folder.
func (a Aggregate[C, E, S]) EncodeState(state any) ([]byte, error) {
	data, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode state of %s: %w", a.Kind, err)
	}
	return data, nil
}
