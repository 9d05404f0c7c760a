package agent

// This file stands at the commit: what can have happened to an agent.

// Event is one of the facts below.
type Event interface{ evolve(State) State }

// Created brings an agent into the world, with version 1 of its settings.
type Created struct {
	Account string `json:"account"`
	Slug    string `json:"slug"` // the label below the base domain under which it is reached
	Settings
}

// Configured changes the settings; what it does not name stays.
type Configured struct {
	Version  int     `json:"version"` // of the settings behind this event
	Changes  Changes `json:"changes"`
	Restores int     `json:"restores,omitempty"` // the earlier version that was rolled back to, if one was
}

// Paused stops the agent from answering until Resumed.
type Paused struct{}

// Resumed lets a paused agent answer again.
type Resumed struct{}

// Deleted ends the agent for good. Its conversations stay readable.
type Deleted struct{}

func (e Created) evolve(State) State {
	return State{Account: e.Account, Slug: e.Slug, Status: Active, Version: 1, Settings: e.Settings.normal()}
}

func (e Configured) evolve(s State) State {
	s.Version, s.Settings = e.Version, e.Changes.Apply(s.Settings)
	return s
}

func (e Paused) evolve(s State) State {
	s.Status = Halted
	return s
}

func (e Resumed) evolve(s State) State {
	s.Status = Active
	return s
}

func (e Deleted) evolve(s State) State {
	s.Status = Gone
	return s
}
