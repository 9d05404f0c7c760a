package account

// This file stands at the decision: what one can ask of an account, each command with its own rule.

import (
	"cmp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/domain"
)

// MaxNameLength is the longest account name, in characters.
const MaxNameLength = 200

// Command is one of the commands below.
type Command interface {
	decide(State) ([]Event, error)
}

// Open starts the account.
type Open struct {
	Name   string
	Plan   Plan
	Custom Limits
}

// ChangePlan moves the account to another plan or gives it other limits of its own. What it leaves out stays as it is when the
// decision is made: two changes at once, of the plan and of the limits, are both kept.
type ChangePlan struct {
	Plan   Plan    // empty: as it is
	Custom *Limits // all of them; nil: as they are
}

// Suspend stops every key of the account.
type Suspend struct{ Reason string }

// Resume ends a suspension.
type Resume struct{}

// Erase has everything forgotten that was said in the account, and ends it.
type Erase struct {
	Erasure string
	At      time.Time
}

func (c Open) decide(s State) ([]Event, error) {
	_, known := c.Plan.Limits()
	switch {
	case strings.TrimSpace(c.Name) == "":
		return nil, domain.RefuseField("name", "invalid_request", "name must not be empty", "name no puede estar vacío")
	case utf8.RuneCountInString(c.Name) > MaxNameLength:
		return nil, domain.RefuseField("name", "invalid_request", "name must have at most %d characters", "name debe tener como máximo %d caracteres", MaxNameLength)
	case !known:
		return nil, unknownPlan(c.Plan)
	case !c.Custom.valid():
		return nil, negativeLimits()
	case s.Opened && s.Name == c.Name && s.Plan == c.Plan && s.Custom == c.Custom:
		return nil, nil
	case s.Opened:
		return nil, domain.Refuse("account_exists", "this account has been opened already", "esta cuenta ya fue abierta")
	}
	return []Event{Opened(c)}, nil
}

func (c ChangePlan) decide(s State) ([]Event, error) {
	changed := PlanChanged{Plan: cmp.Or(c.Plan, s.Plan), Custom: s.Custom}
	if c.Custom != nil {
		changed.Custom = *c.Custom
	}
	_, known := changed.Plan.Limits()
	switch {
	case !s.Opened:
		return nil, notFound()
	case s.Erased:
		return nil, erased()
	case !known:
		return nil, unknownPlan(changed.Plan)
	case !changed.Custom.valid():
		return nil, negativeLimits()
	case s.Plan == changed.Plan && s.Custom == changed.Custom:
		return nil, nil
	}
	return []Event{changed}, nil
}

func (c Suspend) decide(s State) ([]Event, error) {
	switch {
	case !s.Opened:
		return nil, notFound()
	case s.Erased:
		return nil, erased()
	case s.Suspended:
		return nil, nil
	}
	return []Event{Suspended(c)}, nil
}

func (Resume) decide(s State) ([]Event, error) {
	switch {
	case !s.Opened:
		return nil, notFound()
	case s.Erased:
		return nil, erased()
	case !s.Suspended:
		return nil, nil
	}
	return []Event{Resumed{}}, nil
}

func (c Erase) decide(s State) ([]Event, error) {
	switch {
	case !s.Opened:
		return nil, notFound()
	case s.Erased:
		return nil, nil
	}
	return []Event{Erased(c)}, nil
}

func (l Limits) valid() bool { return l.PerMinute >= 0 && l.PerDay >= 0 }

func unknownPlan(p Plan) error {
	return domain.RefuseField("plan", "invalid_request", "plan must be one of free, starter, pro, scale, enterprise, not %q", "plan debe ser free, starter, pro, scale o enterprise, no %q", p)
}

func negativeLimits() error {
	return domain.RefuseField("limits", "invalid_request", "limits must not be negative", "limits no puede tener valores negativos")
}

func erased() error {
	return domain.Refuse("account_erased", "the account has been erased", "la cuenta fue borrada")
}

func notFound() error {
	return domain.Refuse("account_not_found", "there is no such account", "no existe esa cuenta")
}
