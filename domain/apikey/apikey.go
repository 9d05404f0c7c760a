// Package apikey is the aggregate of a key: issued with scopes, bindings and an expiry, rotated, and revoked. The key itself
// is nowhere in it, only the SHA-256 of it.
//
// Its stream is apikey-<public id>; the public id is the part of the key that may be seen.
package apikey

import (
	"time"

	"github.com/nidohq/nido/domain"
)

// Aggregate is the key's rules and stored events.
var Aggregate = domain.Aggregate[Command, Event, State]{
	Kind:        "apikey",
	StateSchema: 3,
	Decider: domain.Decider[Command, Event, State]{
		Decide: func(c Command, s State) ([]Event, error) { return c.decide(s) },
		Evolve: func(s State, e Event) State { return e.evolve(s) },
	},
	Codec: domain.NewCodec(
		domain.List[Event, Issued]("key.issued"),
		domain.List[Event, Rotated]("key.rotated"),
		domain.List[Event, Revoked]("key.revoked"),
		domain.List[Event, Described]("key.described"),
	),
}

// State is what a later decision asks about.
type State struct {
	Account  string            `json:"account,omitempty"`
	Scopes   []Scope           `json:"scopes,omitempty"`
	AgentIDs []string          `json:"agentIds,omitempty"`
	IPAllow  []string          `json:"ipAllow,omitempty"`
	Expires  time.Time         `json:"expires,omitzero"`
	Name     string            `json:"name,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Secret   string            `json:"secret,omitempty"` // SHA-256 of the newest, in hexadecimal
	Graces   []time.Time       `json:"graces,omitempty"` // when each of the secrets before it stops working, the oldest first
	Revoked  bool              `json:"revoked,omitempty"`
}

// grant is what the key may do.
func (s State) grant() Grant {
	return Grant{Scopes: s.Scopes, AgentIDs: s.AgentIDs, IPAllow: s.IPAllow, Expires: s.Expires}
}
