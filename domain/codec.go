package domain

// This file stands between decision and log: how an event gets its stored name, and how old ones are still read.

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// ErrUndecodable marks a record that no codec can read. It stops a projector; it is never skipped by itself.
var ErrUndecodable = errors.New("undecodable event")

// Upcaster turns an event's stored JSON of one schema number into that of the next.
type Upcaster func(old json.RawMessage) (json.RawMessage, error)

// Listing is one line of a codec table: a Go type, its stored name and schema number.
type Listing[E any] struct {
	name      string
	schema    int
	goType    reflect.Type
	upcasters []Upcaster
	decode    func(json.RawMessage) (E, error)
}

// List puts the event T into an aggregate's codec table. The schema number is one more than the count of upcasters,
// which are given oldest first, so that a number cannot be raised without saying how to read what was written before.
func List[E, T any](name string, upcasters ...Upcaster) Listing[E] {
	return Listing[E]{
		name: name, schema: len(upcasters) + 1, goType: reflect.TypeFor[T](), upcasters: upcasters,
		decode: func(data json.RawMessage) (E, error) {
			var event T
			err := json.Unmarshal(data, &event)
			return any(event).(E), err
		},
	}
}

// Codec translates one aggregate's events to and from their stored form.
type Codec[E any] struct {
	byName map[string]Listing[E]
	byType map[reflect.Type]Listing[E]
}

// NewCodec builds a codec from its table. It panics on a name or a type listed twice: a mistake in our own tables.
func NewCodec[E any](table ...Listing[E]) Codec[E] {
	codec := Codec[E]{byName: map[string]Listing[E]{}, byType: map[reflect.Type]Listing[E]{}}
	for _, line := range table {
		_, nameTaken := codec.byName[line.name]
		_, typeTaken := codec.byType[line.goType]
		if nameTaken || typeTaken {
			panic(fmt.Sprintf("codec: %s (%v) is listed twice", line.name, line.goType))
		}
		codec.byName[line.name], codec.byType[line.goType] = line, line
	}
	return codec
}

// Encode gives events their stored names and JSON.
func (c Codec[E]) Encode(events []E) ([]Stored, error) {
	stored := make([]Stored, len(events))
	for i, event := range events {
		line, ok := c.byType[reflect.TypeOf(event)]
		if !ok {
			return nil, fmt.Errorf("encode %T: not listed in the codec", event)
		}
		data, err := json.Marshal(event)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", line.name, err)
		}
		stored[i] = Stored{Type: line.name, Schema: line.schema, Data: data}
	}
	return stored, nil
}

// Decode reads one stored event, lifting it to today's schema first. Its errors wrap ErrUndecodable.
func (c Codec[E]) Decode(stored Stored) (E, error) {
	var none E
	line, ok := c.byName[stored.Type]
	if !ok {
		return none, fmt.Errorf("%w: unknown type %q", ErrUndecodable, stored.Type)
	}
	if stored.Schema < 1 || stored.Schema > line.schema {
		return none, fmt.Errorf("%w: %s has schema %d, this binary knows 1 to %d", ErrUndecodable, stored.Type, stored.Schema, line.schema)
	}
	data := stored.Data
	for _, upcast := range line.upcasters[stored.Schema-1:] {
		var err error
		if data, err = upcast(data); err != nil {
			return none, fmt.Errorf("%w: upcast %s from schema %d: %w", ErrUndecodable, stored.Type, stored.Schema, err)
		}
	}
	event, err := line.decode(data)
	if err != nil {
		return none, fmt.Errorf("%w: %s: %w", ErrUndecodable, stored.Type, err)
	}
	return event, nil
}

// Types lists the stored names and their current schema numbers, for documentation and golden files.
func (c Codec[E]) Types() map[string]int {
	types := make(map[string]int, len(c.byName))
	for name, line := range c.byName {
		types[name] = line.schema
	}
	return types
}
