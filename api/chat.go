package api

// This file stands at the front of a chat turn: one question to the primary says who asks, whom, and what has been said;
// the decision to let the message in is made on that, and the turn starts from it.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/projections"
)

// ChatRequest is the body of a chat. openapi.yaml says that exactly one of Message and Query is there, and checks it.
type ChatRequest struct {
	Message        *string   `json:"message,omitempty"`
	Query          *string   `json:"query,omitempty"`
	ConversationID *string   `json:"conversationId,omitempty"`
	Streaming      *bool     `json:"streaming,omitempty"`
	Metadata       *Metadata `json:"metadata,omitempty"`
}

// Turns runs turns.
type Turns interface {
	// Send returns the reply once it is durable; commands.ErrStale asks for another look and another try.
	Send(ctx context.Context, meta commands.Meta, turn commands.Turn) (commands.Reply, error)
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
func (s *Server) ChatOnHost(w http.ResponseWriter, r *http.Request) {
	s.chat(w, r, projections.Admission{Slug: exchangeOf(r).slug})
}

// ChatByID implements ServerInterface.
func (s *Server) ChatByID(w http.ResponseWriter, r *http.Request, agentID AgentID) {
	s.chat(w, r, projections.Admission{AgentID: agentID})
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request, to projections.Admission) {
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
	reply, err := s.turn(r, to, in)
	s.recordTurn(x, reply, err)
	s.answer(w, r, http.StatusOK, ChatReply{
		Response: reply.Text, ConversationID: reply.ConversationID, MessageID: reply.MessageID, AgentID: x.record.AgentID,
		Model: reply.Model, Usage: Usage(reply.Usage), CreatedAt: Timestamp(reply.CreatedAt),
	}, err)
}

// turn asks and sends, again where others' commits came in between.
func (s *Server) turn(r *http.Request, to projections.Admission, in ChatRequest) (commands.Reply, error) {
	x := exchangeOf(r)
	conversation := or(in.ConversationID, x.inputs.ID("conv"))
	to.PublicID, to.Mac, to.Command = x.key.PublicID, s.config.Keyring.Index(conversation), x.inputs.Command("receive")
	for attempt := 1; ; attempt++ {
		admitted, err := s.admitted(r, to)
		if err != nil {
			return commands.Reply{}, err
		}
		if admitted.Snapshot.Version > 0 {
			x.record.ConversationID, x.record.Owner = conversation, string(admitted.Stream)
		}
		turn := commands.Turn{
			Conversation: conversation, Mac: to.Mac, Snapshot: admitted.Snapshot, AgentID: admitted.Agent.ID,
			Settings: admitted.Agent.Settings, Text: or(in.Message, or(in.Query, "")), Metadata: or(in.Metadata, nil),
		}
		for _, said := range admitted.History {
			turn.History = append(turn.History, commands.SealedMessage{Role: commands.Role(said.Role), Text: said.Text})
		}
		if turn.DataKey, err = s.dataKey(admitted.Key); err != nil {
			return commands.Reply{}, err
		}
		reply, err := s.config.Turns.Send(r.Context(), x.meta(r), turn)
		if _, failed := errors.AsType[*commands.ModelError](err); err == nil || failed || errors.Is(err, commands.ErrClientGone) {
			x.record.ConversationID, x.record.Owner = conversation, string(admitted.Stream)
			x.refused = false
		}
		if attempt == maxTurnAttempts || !errors.Is(err, commands.ErrStale) {
			return reply, err
		}
	}
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
	return found, nil
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

func (s *Server) recordTurn(x *exchange, reply commands.Reply, err error) {
	if err != nil {
		return
	}
	x.record.Model, x.record.FirstToken = reply.Model, reply.FirstReply
	x.record.InputTokens, x.record.OutputTokens = reply.Usage.InputTokens, reply.Usage.OutputTokens
	if reply.DataKey != nil {
		x.record.Sealer = reply.DataKey
	}
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
