package account

// This file stands at the commit: what can have happened to an account.

import "time"

// Event is one of the facts below.
type Event interface{ evolve(State) State }

// Opened starts an account.
type Opened struct {
	Name   string `json:"name"`
	Plan   Plan   `json:"plan"`
	Custom Limits `json:"custom,omitzero"` // overrides the plan's limits where not zero
}

// PlanChanged moves the account to another plan, or gives it other limits of its own.
type PlanChanged struct {
	Plan   Plan   `json:"plan"`
	Custom Limits `json:"custom,omitzero"`
}

// Suspended stops every key of the account until Resumed.
type Suspended struct {
	Reason string `json:"reason,omitempty"`
}

// Resumed ends a suspension.
type Resumed struct{}

// Erased ends the account for good: none of its keys works any more, and everything that was said in it is to be forgotten.
type Erased struct {
	Erasure string    `json:"erasure"` // its id, by which one asks whether it is done
	At      time.Time `json:"at"`
}

func (e Opened) evolve(State) State {
	return State{Opened: true, Name: e.Name, Plan: e.Plan, Custom: e.Custom}
}

func (e PlanChanged) evolve(s State) State {
	s.Plan, s.Custom = e.Plan, e.Custom
	return s
}

func (e Suspended) evolve(s State) State {
	s.Suspended = true
	return s
}

func (e Resumed) evolve(s State) State {
	s.Suspended = false
	return s
}

func (e Erased) evolve(s State) State {
	return State{Opened: true, Plan: s.Plan, Custom: s.Custom, Suspended: true, Erased: true}
}
