package agent

// This file stands at the decision: what one can ask of an agent, each command with its own rule.

import (
	"math"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/nidohq/nido/domain"
)

// Bounds of the settings.
const (
	MaxNameLength         = 200     // characters
	MaxInstructionsLength = 128_000 // characters
	MaxModelLength        = 200     // characters
	MaxMaxOutputTokens    = 1_000_000
	MaxHistoryLimit       = 200 // messages
	MaxMetadata           = 50  // entries
	MaxMetadataKey        = 64  // characters
	MaxMetadataValue      = 512 // characters
)

// Command is one of the commands below. Each names the account that asks; another account's agent does not exist.
type Command interface {
	decide(State) ([]Event, error)
}

// Create brings the agent into the world.
type Create struct{ Created }

// Configure changes settings.
type Configure struct {
	Account  string
	Changes  Changes
	Restores int // the earlier version that Changes restore, 0 for none
}

// Pause stops the agent from answering.
type Pause struct{ Account string }

// Resume lets it answer again.
type Resume struct{ Account string }

// Delete ends the agent.
type Delete struct{ Account string }

func (c Create) decide(s State) ([]Event, error) {
	if s.Account != "" {
		return nil, nil
	}
	if err := c.Settings.check(); err != nil {
		return nil, err
	}
	return []Event{c.Created}, nil
}

func (c Configure) decide(s State) ([]Event, error) {
	after := c.Changes.Apply(s.Settings)
	switch {
	case !s.belongsTo(c.Account):
		return nil, notFound()
	case reflect.DeepEqual(after, s.Settings):
		return nil, nil
	}
	if err := after.check(); err != nil {
		return nil, err
	}
	return []Event{Configured{Version: s.Version + 1, Changes: c.Changes, Restores: c.Restores}}, nil
}

func (c Pause) decide(s State) ([]Event, error) {
	switch {
	case !s.belongsTo(c.Account):
		return nil, notFound()
	case s.Status == Halted:
		return nil, nil
	}
	return []Event{Paused{}}, nil
}

func (c Resume) decide(s State) ([]Event, error) {
	switch {
	case !s.belongsTo(c.Account):
		return nil, notFound()
	case s.Status == Active:
		return nil, nil
	}
	return []Event{Resumed{}}, nil
}

func (c Delete) decide(s State) ([]Event, error) {
	switch {
	case s.Account != "" && s.Account == c.Account && s.Status == Gone:
		return nil, nil
	case !s.belongsTo(c.Account):
		return nil, notFound()
	}
	return []Event{Deleted{}}, nil
}

func (s State) belongsTo(account string) bool {
	return s.Account != "" && s.Account == account && s.Status != Gone
}

func (s Settings) check() error {
	switch {
	case strings.TrimSpace(s.Name) == "":
		return invalid("name", "name must not be empty", "name no puede estar vacío")
	case utf8.RuneCountInString(s.Name) > MaxNameLength:
		return invalid("name", "name must have at most %d characters", "name debe tener como máximo %d caracteres", MaxNameLength)
	case utf8.RuneCountInString(s.Instructions) > MaxInstructionsLength:
		return invalid("instructions", "instructions must have at most %d characters", "instructions debe tener como máximo %d caracteres", MaxInstructionsLength)
	case strings.TrimSpace(s.Model) == "":
		return invalid("model", "model must not be empty", "model no puede estar vacío")
	case utf8.RuneCountInString(s.Model) > MaxModelLength:
		return invalid("model", "model must have at most %d characters", "model debe tener como máximo %d caracteres", MaxModelLength)
	case s.Temperature != nil && (math.IsNaN(*s.Temperature) || *s.Temperature < 0 || *s.Temperature > 2):
		return invalid("temperature", "temperature must lie between 0 and 2", "temperature debe estar entre 0 y 2")
	case s.MaxOutputTokens != nil && (*s.MaxOutputTokens < 1 || *s.MaxOutputTokens > MaxMaxOutputTokens):
		return invalid("maxOutputTokens", "maxOutputTokens must lie between 1 and %d", "maxOutputTokens debe estar entre 1 y %d", MaxMaxOutputTokens)
	case s.HistoryLimit != nil && (*s.HistoryLimit < 0 || *s.HistoryLimit > MaxHistoryLimit):
		return invalid("historyLimit", "historyLimit must lie between 0 and %d", "historyLimit debe estar entre 0 y %d", MaxHistoryLimit)
	case s.RateLimit != nil && (s.RateLimit.PerMinute < 0 || s.RateLimit.PerDay < 0):
		return invalid("rateLimit", "rateLimit must not be negative", "rateLimit no puede tener valores negativos")
	case len(s.Metadata) > MaxMetadata:
		return invalid("metadata", "metadata must have at most %d entries", "metadata debe tener como máximo %d entradas", MaxMetadata)
	}
	for key, value := range s.Metadata {
		if key == "" || utf8.RuneCountInString(key) > MaxMetadataKey || utf8.RuneCountInString(value) > MaxMetadataValue {
			return invalid("metadata", "metadata keys must have 1 to %d characters, values at most %d", "las claves de metadata deben tener de 1 a %d caracteres y los valores como máximo %d", MaxMetadataKey, MaxMetadataValue)
		}
	}
	return nil
}

func invalid(field, english, spanish string, args ...any) error {
	return domain.RefuseField(field, "invalid_request", english, spanish, args...)
}

func notFound() error {
	return domain.Refuse("agent_not_found", "there is no such agent", "no existe ese agente")
}
