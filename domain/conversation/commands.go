package conversation

// This file stands at the decision: what one can ask of a conversation, each command with its own rule.

import (
	"time"

	"github.com/nidohq/nido/domain"
)

// Command is one of the commands below.
type Command interface {
	decide(State) ([]Event, error)
}

// Receive takes a message in and opens a turn. Start is used where the stream is empty.
type Receive struct {
	Start Started
	MessageReceived
}

// Complete ends the turn with a whole reply.
type Complete struct{ ReplyCompleted }

// Fail ends the turn without one.
type Fail struct{ ReplyFailed }

// Cancel ends the turn because its client went away.
type Cancel struct{ ReplyCancelled }

// Resolve says that nothing more is needed.
type Resolve struct {
	Account string
	At      time.Time
}

// Reopen takes that back.
type Reopen struct {
	Account string
	At      time.Time
}

// Erase has everything that was said forgotten.
type Erase struct {
	Account     string
	Erasure     string
	At          time.Time
	WithAccount bool
}

func (c Receive) decide(s State) ([]Event, error) {
	switch {
	case s.Erased && s.Account == c.Start.Account && s.Agent == c.Start.Agent:
		return nil, erased()
	case s.Turn != nil && s.Turn.ID == c.Turn:
		return nil, nil
	case s.Turn != nil:
		return nil, domain.Refuse("conversation_busy", "the agent is still answering the message before; try again when it has", "el agente todavía está respondiendo el mensaje anterior; hay que reintentar cuando termine")
	case s.Account == "":
		return []Event{c.Start, c.MessageReceived}, nil
	case s.Account != c.Start.Account || s.Agent != c.Start.Agent:
		return nil, notFound()
	case s.Status == Settled:
		return []Event{Reopened{At: c.Received, ByMessage: true}, c.MessageReceived}, nil
	}
	return []Event{c.MessageReceived}, nil
}

func (c Complete) decide(s State) ([]Event, error) { return s.end(c.Turn, c.ReplyCompleted) }
func (c Fail) decide(s State) ([]Event, error)     { return s.end(c.Turn, c.ReplyFailed) }
func (c Cancel) decide(s State) ([]Event, error)   { return s.end(c.Turn, c.ReplyCancelled) }

// end gives an open turn its one end. A turn that is not open has had it: whoever asks again reads that one.
func (s State) end(turn string, end Event) ([]Event, error) {
	if s.Erased {
		return nil, erased()
	}
	if s.Turn == nil || s.Turn.ID != turn {
		return nil, domain.Refuse("turn_closed", "this turn has ended already", "este turno ya terminó")
	}
	return []Event{end}, nil
}

func (c Resolve) decide(s State) ([]Event, error) {
	switch {
	case s.Account == "" || s.Account != c.Account || s.Erased:
		return nil, notFound()
	case s.Status == Settled:
		return nil, nil
	}
	return []Event{Resolved{At: c.At}}, nil
}

func (c Reopen) decide(s State) ([]Event, error) {
	switch {
	case s.Account == "" || s.Account != c.Account || s.Erased:
		return nil, notFound()
	case s.Status == Open:
		return nil, nil
	}
	return []Event{Reopened{At: c.At}}, nil
}

func (c Erase) decide(s State) ([]Event, error) {
	switch {
	case s.Account == "" || s.Account != c.Account:
		return nil, notFound()
	case s.Erased:
		return nil, nil
	}
	erased := Erased{Erasure: c.Erasure, At: c.At, WithAccount: c.WithAccount}
	if s.Turn != nil {
		erased.Turn = s.Turn.ID
	}
	return []Event{erased}, nil
}

func erased() error {
	return domain.Refuse("conversation_erased", "the conversation has been erased", "la conversación fue borrada")
}

func notFound() error {
	return domain.Refuse("conversation_not_found", "there is no such conversation", "no existe esa conversación")
}
