// Package host is the aggregate of a name under which an agent is reached: a slug below the base domain, later a
// customer's own domain. The host stream alone decides who has a name: uniqueness is the stream's name.
//
// Its stream is host-<slug>. A name is claimed before its agent exists, bound once the agent has been created, and
// released when the agent is deleted or when the creation never came to its end.
package host

import (
	"regexp"

	"github.com/nidohq/nido/domain"
)

// Aggregate is the host's rules and stored events.
var Aggregate = domain.Aggregate[Command, Event, State]{
	Kind:        "host",
	StateSchema: 1,
	Decider: domain.Decider[Command, Event, State]{
		Decide: func(c Command, s State) ([]Event, error) { return c.decide(s) },
		Evolve: func(s State, e Event) State { return e.evolve(s) },
	},
	Codec: domain.NewCodec(
		domain.List[Event, Claimed]("host.claimed"),
		domain.List[Event, Bound]("host.bound"),
		domain.List[Event, Released]("host.released"),
	),
}

// State is who holds the name, if anybody.
type State struct {
	Account string `json:"account,omitempty"`
	Agent   string `json:"agent,omitempty"`
	Bound   bool   `json:"bound,omitempty"`
}

// Slug is the form of a slug: one DNS label (RFC 1123), at most 63 characters.
var Slug = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Reserved are the labels that Nido keeps for itself below its base domain.
var Reserved = map[string]bool{
	"www": true, "api": true, "app": true, "admin": true, "docs": true, "status": true, "mail": true, "nido": true,
	"static": true, "assets": true, "cdn": true, "auth": true, "login": true, "support": true, "billing": true,
}

// Event is one of the facts below.
type Event interface{ evolve(State) State }

// Claimed gives the name to an agent that is about to be created.
type Claimed struct {
	Account string `json:"account"`
	Agent   string `json:"agent"`
}

// Bound routes the name to its agent, which exists by now.
type Bound struct {
	Agent string `json:"agent"`
}

// Released makes the name free again.
type Released struct {
	Agent string `json:"agent"`
}

func (e Claimed) evolve(State) State { return State{Account: e.Account, Agent: e.Agent} }

func (e Bound) evolve(s State) State {
	s.Bound = true
	return s
}

func (e Released) evolve(State) State { return State{} }

// Command is one of the commands below.
type Command interface {
	decide(State) ([]Event, error)
}

// Claim asks for the name before the agent is created.
type Claim struct{ Slug, Account, Agent string }

// Bind routes the name to the agent once it has been created.
type Bind struct{ Agent string }

// Release gives the name back: its agent was deleted.
type Release struct{ Agent string }

// Sweep gives back a claim whose agent was never created. A bound name stays.
type Sweep struct{ Agent string }

func (c Claim) decide(s State) ([]Event, error) {
	switch {
	case !Slug.MatchString(c.Slug):
		return nil, domain.RefuseField("slug", "invalid_request", "slug must be 1 to 63 of a-z, 0-9 and inner hyphens", "slug debe tener de 1 a 63 caracteres de a-z y 0-9, y guiones solo por dentro")
	case Reserved[c.Slug]:
		return nil, domain.RefuseField("slug", "slug_taken", "the slug %q is reserved", "el slug %q está reservado", c.Slug)
	case s.Agent == c.Agent && s.Account == c.Account:
		return nil, nil
	case s.Agent != "":
		return nil, domain.RefuseField("slug", "slug_taken", "the slug %q is taken", "el slug %q ya está en uso", c.Slug)
	}
	return []Event{Claimed{Account: c.Account, Agent: c.Agent}}, nil
}

func (c Bind) decide(s State) ([]Event, error) {
	switch {
	case !s.heldBy(c.Agent):
		return nil, domain.RefuseField("slug", "slug_taken", "the claim on this slug was given back before the agent was ready; try again", "la reserva de este slug se liberó antes de que el agente estuviera listo; hay que reintentar")
	case s.Bound:
		return nil, nil
	}
	return []Event{Bound(c)}, nil
}

func (c Release) decide(s State) ([]Event, error) {
	if !s.heldBy(c.Agent) {
		return nil, nil
	}
	return []Event{Released(c)}, nil
}

func (c Sweep) decide(s State) ([]Event, error) {
	if !s.heldBy(c.Agent) || s.Bound {
		return nil, nil
	}
	return []Event{Released(c)}, nil
}

// heldBy reports whether the agent has claimed the name; nobody holds a free one.
func (s State) heldBy(agent string) bool { return s.Agent != "" && s.Agent == agent }
