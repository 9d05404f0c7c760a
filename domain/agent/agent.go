// Package agent is the aggregate of a hosted agent: created with settings, configured, paused, resumed, deleted.
//
// Its stream is agent-<agent id>. Every configuration is a numbered version that can be read and restored later.
package agent

import (
	"cmp"
	"maps"

	"github.com/nidohq/nido/domain"
)

// Aggregate is the agent's rules and stored events.
var Aggregate = domain.Aggregate[Command, Event, State]{
	Kind:        "agent",
	StateSchema: 1,
	Decider: domain.Decider[Command, Event, State]{
		Decide: func(c Command, s State) ([]Event, error) { return c.decide(s) },
		Evolve: func(s State, e Event) State { return e.evolve(s) },
	},
	Codec: domain.NewCodec(
		domain.List[Event, Created]("agent.created"),
		domain.List[Event, Configured]("agent.configured"),
		domain.List[Event, Paused]("agent.paused"),
		domain.List[Event, Resumed]("agent.resumed"),
		domain.List[Event, Deleted]("agent.deleted"),
	),
}

// Status says whether an agent answers.
type Status string

// The statuses.
const (
	Active Status = "active"
	Halted Status = "paused"
	Gone   Status = "deleted"
)

// Settings is what an agent is told to be. Absent numbers mean the provider's or Nido's default.
type Settings struct {
	Name            string            `json:"name"`
	Instructions    string            `json:"instructions,omitempty"`
	Model           string            `json:"model"`
	Temperature     *float64          `json:"temperature,omitempty"`     // 0 to 2
	MaxOutputTokens *int              `json:"maxOutputTokens,omitempty"` // tokens of one reply
	HistoryLimit    *int              `json:"historyLimit,omitempty"`    // earlier messages that a turn sends along
	Metadata        map[string]string `json:"metadata,omitempty"`
	RateLimit       *RateLimit        `json:"rateLimit,omitempty"`
}

// RateLimit bounds one agent; zero means as the account's plan has it.
type RateLimit struct {
	PerMinute int64 `json:"perMinute,omitempty"`
	PerDay    int64 `json:"perDay,omitempty"`
}

// DefaultHistoryLimit is how many earlier messages a turn sends along where the agent does not say.
const DefaultHistoryLimit = 40

// History is how many earlier messages a turn sends along.
func (s Settings) History() int {
	if s.HistoryLimit == nil {
		return DefaultHistoryLimit
	}
	return *s.HistoryLimit
}

// State is what a later decision asks about.
type State struct {
	Account  string   `json:"account,omitempty"`
	Slug     string   `json:"slug,omitempty"`
	Status   Status   `json:"status,omitempty"`
	Version  int      `json:"version,omitempty"` // of the settings, from 1
	Settings Settings `json:"settings,omitzero"`
}

// Changes is a partial Settings: nil means as it was, a name in Clear sets that field back to its default.
type Changes struct {
	Name            *string            `json:"name,omitempty"`
	Instructions    *string            `json:"instructions,omitempty"`
	Model           *string            `json:"model,omitempty"`
	Temperature     *float64           `json:"temperature,omitempty"`
	MaxOutputTokens *int               `json:"maxOutputTokens,omitempty"`
	HistoryLimit    *int               `json:"historyLimit,omitempty"`
	Metadata        *map[string]string `json:"metadata,omitempty"`
	RateLimit       *RateLimit         `json:"rateLimit,omitempty"`
	Clear           []Field            `json:"clear,omitempty"`
}

// Field names a setting that can be cleared, as the API spells it.
type Field string

// The settings that can be cleared.
const (
	Temperature     Field = "temperature"
	MaxOutputTokens Field = "maxOutputTokens"
	HistoryLimit    Field = "historyLimit"
	Metadata        Field = "metadata"
	RateLimits      Field = "rateLimit"
)

// Apply returns the settings with the changes made.
func (c Changes) Apply(to Settings) Settings {
	for _, field := range c.Clear {
		switch field {
		case Temperature:
			to.Temperature = nil
		case MaxOutputTokens:
			to.MaxOutputTokens = nil
		case HistoryLimit:
			to.HistoryLimit = nil
		case Metadata:
			to.Metadata = nil
		case RateLimits:
			to.RateLimit = nil
		}
	}
	if c.Name != nil {
		to.Name = *c.Name
	}
	if c.Instructions != nil {
		to.Instructions = *c.Instructions
	}
	if c.Model != nil {
		to.Model = *c.Model
	}
	if c.Metadata != nil && *c.Metadata != nil { // a nil map is stored as null and read as absent
		to.Metadata = maps.Clone(*c.Metadata)
	}
	to.Temperature = cmp.Or(c.Temperature, to.Temperature)
	to.MaxOutputTokens = cmp.Or(c.MaxOutputTokens, to.MaxOutputTokens)
	to.HistoryLimit = cmp.Or(c.HistoryLimit, to.HistoryLimit)
	to.RateLimit = cmp.Or(c.RateLimit, to.RateLimit)
	return to.normal()
}

// normal gives settings that mean the same one form. Metadata without entries is no metadata: the stored state cannot
// tell the two apart, and a decision must not either, or it would find something new in the same command each time.
func (s Settings) normal() Settings {
	if len(s.Metadata) == 0 {
		s.Metadata = nil
	}
	return s
}

// Replace returns the changes that turn any settings into exactly these: what restoring an old version asks for.
func Replace(with Settings) Changes {
	changes := Changes{
		Name: &with.Name, Instructions: &with.Instructions, Model: &with.Model,
		Temperature: with.Temperature, MaxOutputTokens: with.MaxOutputTokens, HistoryLimit: with.HistoryLimit,
		RateLimit: with.RateLimit,
		Clear:     []Field{Temperature, MaxOutputTokens, HistoryLimit, Metadata, RateLimits},
	}
	if with.Metadata != nil {
		changes.Metadata = &with.Metadata
	}
	return changes
}
