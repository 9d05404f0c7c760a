// Package conversation is the aggregate of one conversation between an agent and somebody: started with its first
// message, then turn by turn, resolved, reopened, erased.
//
// Its stream is conversation-<agent id>.<HMAC of the client's id>: clients choose conversation ids, and those may be
// personal. For the same reason every text in the events is sealed. One turn is open at a time, and every received
// message gets exactly one end.
package conversation

import (
	"time"

	"github.com/nidohq/nido/domain"
)

// Aggregate is the conversation's rules and stored events.
var Aggregate = domain.Aggregate[Command, Event, State]{
	Kind:        "conversation",
	StateSchema: 2,
	Decider: domain.Decider[Command, Event, State]{
		Decide: func(c Command, s State) ([]Event, error) { return c.decide(s) },
		Evolve: func(s State, e Event) State { return e.evolve(s) },
	},
	Codec: domain.NewCodec(
		domain.List[Event, Started]("conversation.started"),
		domain.List[Event, MessageReceived]("message.received"),
		domain.List[Event, ReplyCompleted]("reply.completed"),
		domain.List[Event, ReplyFailed]("reply.failed"),
		domain.List[Event, ReplyCancelled]("reply.cancelled"),
		domain.List[Event, Resolved]("conversation.resolved"),
		domain.List[Event, Reopened]("conversation.reopened"),
		domain.List[Event, Erased]("conversation.erased"),
	),
}

// Status says whether a conversation waits for anything more.
type Status string

// The statuses.
const (
	Open    Status = "open"
	Settled Status = "resolved"
)

// State is what a later decision asks about.
type State struct {
	Account string    `json:"account,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Key     string    `json:"key,omitempty"` // the data key that seals its texts
	Status  Status    `json:"status,omitempty"`
	Turn    *OpenTurn `json:"turn,omitempty"` // the open turn, nil between turns
	Turns   int       `json:"turns,omitempty"`
	Erased  bool      `json:"erased,omitempty"` // for good: what comes under its id belongs to the next stream
}

// OpenTurn is a received message that has no end yet.
type OpenTurn struct {
	ID       string    `json:"id"`
	Boot     string    `json:"boot"`     // the node that works on it
	Received time.Time `json:"received"` // when its message came in
	Deadline time.Time `json:"deadline"` // past this anybody may end it
}

// Usage counts a reply's tokens.
type Usage struct {
	InputTokens  int64 `json:"inputTokens"`
	OutputTokens int64 `json:"outputTokens"`
	// Estimated says that the provider did not tell all of it: it told none, or the reply broke off before it did.
	Estimated bool `json:"estimated,omitempty"`
}

// Finish says why a whole reply ends where it does; empty where the provider does not say.
type Finish string

// The reasons.
const (
	FinishStop     Finish = "stop"           // the model was done, or came to a text before which it was to stop
	FinishLength   Finish = "length"         // it had no tokens left
	FinishFiltered Finish = "content_filter" // the provider withheld the rest
)
