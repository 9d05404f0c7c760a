package conversation

// This file stands at the commit: what can have happened in a conversation. Texts are sealed.

import (
	"time"

	"github.com/nidohq/nido/domain"
)

// Event is one of the facts below.
type Event interface{ evolve(State) State }

// Started opens a conversation, in the same commit as its first message.
type Started struct {
	Account  string        `json:"account"`
	Agent    string        `json:"agent"`
	Key      string        `json:"key"`               // id of the data key that seals the conversation's texts
	ID       domain.Sealed `json:"id"`                // the id that the client knows it by
	Metadata domain.Sealed `json:"metadata,omitzero"` // JSON object of what the client attached
	IDMAC    string        `json:"idMac"`             // HMAC of that id: finds it without naming the agent
}

// MessageReceived is what the person said; it opens a turn.
type MessageReceived struct {
	Turn     string        `json:"turn"`
	Message  string        `json:"message"` // the message's id
	Text     domain.Sealed `json:"text"`
	Boot     string        `json:"boot"` // the boot of the node that works on the turn
	Received time.Time     `json:"received"`
	Deadline time.Time     `json:"deadline"`
}

// ReplyCompleted ends a turn with the agent's whole reply.
type ReplyCompleted struct {
	Turn       string        `json:"turn"`
	Message    string        `json:"message"`
	Text       domain.Sealed `json:"text"`
	Model      string        `json:"model"`
	Usage      Usage         `json:"usage"`
	FirstReply time.Duration `json:"firstReplyNs"` // from the message to the first token
	FullReply  time.Duration `json:"fullReplyNs"`  // from the message to the last token
	Finish     Finish        `json:"finish,omitempty"`
	At         time.Time     `json:"at"`
}

// ReplyFailed ends a turn without a whole reply; what had been generated is kept.
type ReplyFailed struct {
	Turn    string        `json:"turn"`
	Message string        `json:"message"`
	Text    domain.Sealed `json:"text,omitzero"`
	Model   string        `json:"model,omitempty"`
	Usage   Usage         `json:"usage"`
	Code    string        `json:"code"` // an error code of the API: "interrupted", "upstream_timeout", …
	At      time.Time     `json:"at"`
}

// ReplyCancelled ends a turn whose client went away; what had been generated is kept.
type ReplyCancelled struct {
	Turn    string        `json:"turn"`
	Message string        `json:"message"`
	Text    domain.Sealed `json:"text,omitzero"`
	Model   string        `json:"model,omitempty"`
	Usage   Usage         `json:"usage"`
	At      time.Time     `json:"at"`
}

// Resolved says that the conversation needs nothing more.
type Resolved struct {
	At time.Time `json:"at"`
}

// Reopened says that it does again: somebody asked, or a new message came.
type Reopened struct {
	At        time.Time `json:"at"`
	ByMessage bool      `json:"byMessage,omitempty"`
}

// Erased says that everything said in the conversation is to be forgotten, and its data keys destroyed. It ends an open
// turn. It is the last event of its stream.
type Erased struct {
	Erasure     string    `json:"erasure"` // its id, by which one asks whether it is done
	At          time.Time `json:"at"`
	Turn        string    `json:"turn,omitempty"`        // the open turn that it ended
	WithAccount bool      `json:"withAccount,omitempty"` // as a part of erasing the account
}

func (e Started) evolve(State) State {
	return State{Account: e.Account, Agent: e.Agent, Key: e.Key, Status: Open}
}

func (e MessageReceived) evolve(s State) State {
	s.Turn = &OpenTurn{ID: e.Turn, Boot: e.Boot, Received: e.Received, Deadline: e.Deadline}
	s.Turns++
	return s
}

func (e ReplyCompleted) evolve(s State) State { return s.closed() }
func (e ReplyFailed) evolve(s State) State    { return s.closed() }
func (e ReplyCancelled) evolve(s State) State { return s.closed() }

func (e Resolved) evolve(s State) State {
	s.Status = Settled
	return s
}

func (e Reopened) evolve(s State) State {
	s.Status = Open
	return s
}

func (e Erased) evolve(s State) State {
	return State{Account: s.Account, Agent: s.Agent, Turns: s.Turns, Erased: true}
}

func (s State) closed() State {
	s.Turn = nil
	return s
}
