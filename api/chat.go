package api

// This file stands at the front of a chat turn: one question to the primary says who asks, whom, and what has been said;
// the decision to let the message in is made on that, and the turn starts from it.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/projections"
)

// ChatRequest is the body of a chat. openapi.yaml says that exactly one of Message and Query is there, and checks it.
type ChatRequest struct {
	Message        *string   `json:"message,omitempty"`
	Query          *string   `json:"query,omitempty"`
	ConversationID *string   `json:"conversationId,omitempty"`
	Streaming      *bool     `json:"streaming,omitempty"`
	OnDisconnect   *string   `json:"onDisconnect,omitempty"`
	OnBusy         *string   `json:"onBusy,omitempty"`
	Metadata       *Metadata `json:"metadata,omitempty"`
}

// Turns runs turns.
type Turns interface {
	// Begin returns once the message has been accepted; commands.ErrStale asks for another look and another try.
	Begin(ctx context.Context, meta commands.Meta, turn commands.Turn) (*commands.Live, error)
	// Queue takes a place before a busy conversation, or refuses.
	Queue(ctx context.Context, conversation domain.StreamID) (*commands.Waiter, error)
	// Running returns a turn that runs on this node, nil if it does not.
	Running(turn string) *commands.Live
}

// Blanks are conversations that nobody has begun, whose ids and data keys lie ready.
type Blanks interface {
	// Take takes one that was made for the agent behind a door, which is its id or its slug.
	Take(door string) (commands.Blank, bool)
	// GiveBack is for one that nothing was done with.
	GiveBack(door string, blank commands.Blank)
	// Begun says that a conversation without an id of its client's has begun.
	Begun(ctx context.Context, door, agent string)
}

// ChatQueries answers what a turn begins with.
type ChatQueries interface {
	Admit(ctx context.Context, admission projections.Admission) (projections.Admitted, error)
}

const (
	// maxTurnAttempts bounds how often a turn is tried because others' commits came first. The next look nearly always
	// finds their turn open, and answers conversation_busy.
	maxTurnAttempts = 5
	// admitTimeout bounds the question who asks, which stands before everything: 0.3 ms where Postgres is well. One that
	// hangs is then as good as down, and the caller hears it while they still listen.
	admitTimeout = 2 * time.Second
)

// ChatOnHost implements ServerInterface.
func (s *Server) ChatOnHost(w http.ResponseWriter, r *http.Request, _ ChatOnHostParams) {
	s.chat(w, r, projections.Admission{Slug: exchangeOf(r).slug}, false)
}

// ChatStreamOnHost implements ServerInterface.
func (s *Server) ChatStreamOnHost(w http.ResponseWriter, r *http.Request, _ ChatStreamOnHostParams) {
	s.chat(w, r, projections.Admission{Slug: exchangeOf(r).slug}, true)
}

// ChatByID implements ServerInterface.
func (s *Server) ChatByID(w http.ResponseWriter, r *http.Request, agentID AgentID, _ ChatByIDParams) {
	s.chat(w, r, projections.Admission{AgentID: agentID}, false)
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request, to projections.Admission, streamed bool) {
	x := exchangeOf(r)
	x.refused = true // until the turn is accepted
	in, err := decode[ChatRequest](x)
	if err == nil {
		err = worthAnswering(in)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	streamed = streamed || or(in.Streaming, false)
	turn, err := s.begin(r, to, or(in.ConversationID, ""), commands.Turn{
		Text: or(in.Message, or(in.Query, "")), Metadata: or(in.Metadata, nil), Streamed: streamed, Sole: r.Header.Get(idempotencyHeader) == "",
		Continue: or(in.OnDisconnect, "cancel") == "continue" || r.Header.Get(idempotencyHeader) != "",
	}, or(in.OnBusy, "refuse") == "queue")
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case streamed:
		s.stream(w, r, turn, 0, newTurnEvents(s, w, r, turn, true))
	default:
		reply, err := s.reply(r, turn)
		s.answer(w, r, http.StatusOK, ChatReply{
			Response: reply.Text, ConversationID: reply.ConversationID, MessageID: reply.MessageID, AgentID: turn.agent,
			Model: reply.Model, Usage: usageOf(reply.Usage), FinishReason: finishOf(reply.Finish), CreatedAt: Timestamp(reply.CreatedAt),
		}, err)
	}
}

// begin asks and opens the turn, again where others' commits came in between, and where it is to wait while another one is
// open. Where the same request opened it before, it is that turn which is followed. Without a client's id for it the
// conversation is a new one.
func (s *Server) begin(r *http.Request, to projections.Admission, conversation string, turn commands.Turn, waits bool) (followed, error) {
	if conversation != "" {
		to.Mac = s.config.Keyring.Index(conversation)
		return s.beginIn(r, to, conversation, turn, waits)
	}
	door, blank, ready := cmp.Or(to.AgentID, to.Slug), commands.Blank{}, false
	if turn.Sole { // a request that may come again finds the id in its seed
		blank, ready = s.config.Blanks.Take(door)
	}
	if ready {
		conversation, to.Mac, to.Key = blank.ID, blank.Mac, blank.Key
	} else {
		conversation = exchangeOf(r).inputs.ID("conv")
		to.Mac = s.config.Keyring.Index(conversation)
	}
	begun, err := s.beginIn(r, to, conversation, turn, waits)
	switch {
	case err == nil && turn.Sole:
		s.config.Blanks.Begun(r.Context(), door, begun.agent)
	case err != nil && ready && !exchangeOf(r).decided:
		s.config.Blanks.GiveBack(door, blank)
	}
	return begun, err
}

func (s *Server) beginIn(r *http.Request, to projections.Admission, conversation string, turn commands.Turn, waits bool) (followed, error) {
	x := exchangeOf(r)
	var waiter *commands.Waiter
	defer func() {
		if waiter != nil {
			waiter.Leave(r.Context())
		}
	}()
	to.PublicID, to.Command = x.key.PublicID, x.inputs.Command("receive")
	for attempt := 1; ; attempt++ {
		admitted, err := s.admitted(r, to)
		if err != nil {
			return followed{}, err
		}
		if admitted.Erased && admitted.Snapshot.Committed == 0 {
			if to.Mac, err = s.next(r.Context(), x.caller.Account, admitted.Agent.ID, conversation); err != nil {
				return followed{}, err
			}
			attempt-- // nobody was quicker
			continue
		}
		if admitted.Snapshot.Version > 0 {
			x.record.ConversationID, x.record.Owner = conversation, string(admitted.Stream)
		}
		if admitted.Snapshot.Committed > 0 {
			x.refused = false
			x.leave() // it follows a turn that another request has begun
			return s.find(r, x.inputs.ID("turn"))
		}
		turn.Conversation, turn.Mac, turn.Snapshot = conversation, to.Mac, admitted.Snapshot
		turn.Ending = s.gates.chats.back
		turn.AgentID, turn.Settings, turn.History = admitted.Agent.ID, admitted.Agent.Settings, nil
		for _, said := range admitted.History {
			turn.History = append(turn.History, commands.SealedMessage{Role: commands.Role(said.Role), Text: said.Text})
		}
		if turn.DataKey, err = s.dataKey(admitted.Key); err != nil {
			return followed{}, err
		}
		x.decided = true
		ctx := r.Context()
		if turn.Streamed && s.config.Returned != nil {
			ctx = x.attend(r) // the stream may outlast the request's goroutine
		}
		live, err := s.config.Turns.Begin(ctx, x.meta(r), turn)
		if err == nil {
			x.record.ConversationID, x.record.Owner = conversation, string(admitted.Stream)
			if live.DataKey != nil {
				x.record.Sealer = live.DataKey
			}
			x.refused = false
			x.leave() // what it waits for now is the model
			return ofThisNode(live), nil
		}
		switch {
		case waits && isBusy(err):
			x.leave()
			if waiter, err = s.wait(r, waiter, admitted.Stream); err != nil {
				return followed{}, err
			}
			attempt = 0
		case attempt == maxTurnAttempts || !errors.Is(err, commands.ErrStale):
			return followed{}, err
		}
	}
}

// isBusy reports whether another turn is open.
func isBusy(err error) bool {
	refusal, ok := errors.AsType[*domain.Refusal](err)
	return ok && refusal.Code == "conversation_busy"
}

// wait holds a message back until its conversation may be free. It was counted when it came, and not again; whether its key
// is still good is asked again when it goes on, and its time is that at which it goes on, from which its turn's runs.
func (s *Server) wait(r *http.Request, waiter *commands.Waiter, conversation domain.StreamID) (_ *commands.Waiter, err error) {
	if waiter == nil {
		if waiter, err = s.config.Turns.Queue(r.Context(), conversation); err != nil {
			return nil, err
		}
	}
	if err := waiter.Await(r.Context()); err != nil {
		return waiter, err
	}
	exchangeOf(r).inputs.Now = s.config.Clock().UTC().Truncate(time.Microsecond)
	return waiter, nil
}

// reply waits for the turn's end. A client that goes away ends the turn by itself, or wants it to go on.
func (s *Server) reply(r *http.Request, turn followed) (commands.Reply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.config.ChatTimeout)
	defer cancel()
	var end commands.TurnEnd
	var err error
	if turn.live != nil {
		end, err = turn.live.Ended(ctx)
	} else if step, lost := turn.Next(ctx, math.MaxInt, nil); lost != nil {
		err = lost
	} else {
		end = *step.End // there is no text behind that offset
	}
	if err != nil {
		return commands.Reply{}, err
	}
	exchangeOf(r).ended(end)
	return end.Reply, end.Err
}

// admitted asks the question and lets the message in, or not. A key that is missing or wrong is told so before anything
// is said about agents.
func (s *Server) admitted(r *http.Request, to projections.Admission) (projections.Admitted, error) {
	x := exchangeOf(r)
	ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
	defer cancel()
	found, err := s.config.Chats.Admit(ctx, to)
	if err != nil {
		return found, fmt.Errorf("admit the message: %w", err)
	}
	if err := s.admit(r, x.op, or(found.Caller, projections.Caller{})); err != nil {
		return found, err
	}
	switch {
	case found.Agent == nil && to.AgentID == "":
		return found, problem("host_not_found")
	case found.Agent == nil:
		return found, problem("agent_not_found")
	}
	x.record.AgentID = found.Agent.ID
	if err := reaches(x, found.Agent.ID); err != nil {
		return found, err
	}
	if found.Agent.Status == agent.Halted {
		return found, problem("agent_paused")
	}
	return found, s.count(r, found)
}

// dataKey is what seals the conversation, nil for a new one.
func (s *Server) dataKey(found *projections.WrappedKey) (commands.DataKey, error) {
	switch {
	case found == nil:
		return nil, nil
	case found.Missing:
		return nil, fmt.Errorf("the keyring has never had data key %s of %s", found.ID, found.Owner)
	case found.Destroyed:
		return nil, problem("conversation_not_found")
	}
	key, err := s.config.Keyring.Unwrap(found.ID, found.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap data key %s: %w", found.ID, err)
	}
	return key, nil
}

// worthAnswering refuses a message of nothing but space.
func worthAnswering(in ChatRequest) error {
	field, text := "message", or(in.Message, "")
	if in.Query != nil {
		field, text = "query", *in.Query
	}
	if strings.TrimSpace(text) == "" {
		return invalid(field, field+" must not be empty.", field+" no puede estar vacío.")
	}
	return nil
}
