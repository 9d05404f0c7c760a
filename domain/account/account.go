// Package account is the aggregate of a customer: opened on a plan, moved between plans, suspended, resumed, erased.
//
// Its stream is account-<account id>.
package account

import (
	"github.com/nidohq/nido/domain"
)

// Plan names a price list entry; what it allows per minute and day is in Plan.Limits.
type Plan string

// The plans. Scale and Enterprise have no limits of their own but those that the account was given.
const (
	Free       Plan = "free"
	Starter    Plan = "starter"
	Pro        Plan = "pro"
	Scale      Plan = "scale"
	Enterprise Plan = "enterprise"
)

// Limits bounds what an account's keys and agents may do; zero means unlimited.
type Limits struct {
	PerMinute int64 `json:"perMinute,omitempty"` // requests in any 60 seconds, per key and per agent
	PerDay    int64 `json:"perDay,omitempty"`    // requests of the whole account since midnight UTC
}

// Limits returns what the plan allows, and whether there is such a plan.
func (p Plan) Limits() (Limits, bool) {
	switch p {
	case Free:
		return Limits{PerMinute: 10, PerDay: 1_000}, true
	case Starter:
		return Limits{PerMinute: 60, PerDay: 10_000}, true
	case Pro:
		return Limits{PerMinute: 300, PerDay: 100_000}, true
	case Scale, Enterprise:
		return Limits{}, true
	}
	return Limits{}, false
}

// Aggregate is the account's rules and stored events.
var Aggregate = domain.Aggregate[Command, Event, State]{
	Kind:        "account",
	StateSchema: 3,
	Decider: domain.Decider[Command, Event, State]{
		Decide: func(c Command, s State) ([]Event, error) { return c.decide(s) },
		Evolve: func(s State, e Event) State { return e.evolve(s) },
	},
	Codec: domain.NewCodec(
		domain.List[Event, Opened]("account.opened"),
		domain.List[Event, PlanChanged]("account.plan_changed"),
		domain.List[Event, Suspended]("account.suspended"),
		domain.List[Event, Resumed]("account.resumed"),
		domain.List[Event, LimitReached]("limit.reached"),
		domain.List[Event, Erased]("account.erased"),
	),
}

// State is what a later decision asks about.
type State struct {
	Opened    bool    `json:"opened,omitempty"`
	Name      string  `json:"name,omitempty"`
	Plan      Plan    `json:"plan,omitempty"`
	Custom    Limits  `json:"custom,omitzero"`
	Suspended bool    `json:"suspended,omitempty"`
	Reached   Reached `json:"reached,omitzero"`
	Erased    bool    `json:"erased,omitempty"` // for good
}
