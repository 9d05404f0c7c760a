package api

// This file stands between the routes that erase and their commands: what is asked for here is in the log when the
// answer goes out, and gone from every store some seconds later. ADR 17 has the whole way.

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// ErasureQueries knows what was erased.
type ErasureQueries interface {
	// Get returns an account's erasure, or anybody's where no account is named; or projections.ErrNotFound.
	Get(ctx context.Context, account, id string) (projections.Erasure, error)
	// Of returns the erasure of a stream, or projections.ErrNotFound.
	Of(ctx context.Context, stream domain.StreamID) (projections.Erasure, error)
	// Generations says how many of some conversations have been erased, by their agents.
	Generations(ctx context.Context, account, agentID string, macs []string) (map[string]int, error)
}

// EraseConversation implements ServerInterface. One that was erased before, and not begun anew since, has its erasure.
func (s *Server) EraseConversation(w http.ResponseWriter, r *http.Request, id ConversationID, params EraseConversationParams) {
	x := exchangeOf(r)
	stream := domain.StreamID("")
	found, err := s.conversation(r, id, params.AgentID)
	if p, ok := errors.AsType[*Problem](err); ok && p.Code == "conversation_not_found" && x.record.Owner != "" {
		if stream = domain.StreamID(x.record.Owner); x.caller.Grant().Reaches(agentOf(stream)) {
			err = nil
		}
	} else if err == nil {
		stream, err = found.Stream, s.config.ConversationCommands.Erase(r.Context(), x.meta(r), found.Stream)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	x.forgotten = true
	s.answerErasure(w, r, stream)
}

// EraseAccount implements ServerInterface.
func (s *Server) EraseAccount(w http.ResponseWriter, r *http.Request, id AccountID, _ EraseAccountParams) {
	x := exchangeOf(r)
	if id == x.caller.Account {
		s.refuse(w, r, invalid("id", "An account cannot erase itself.", "Una cuenta no puede borrarse a sí misma."))
		return
	}
	if err := s.config.AccountCommands.Erase(r.Context(), x.meta(r), id); err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerErasure(w, r, accountStream(id))
}

func accountStream(id string) domain.StreamID { return domain.NewStreamID("account", id) }

func (s *Server) answerErasure(w http.ResponseWriter, r *http.Request, stream domain.StreamID) {
	erasure, err := s.config.Erasures.Of(r.Context(), stream)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Location", "/api/erasures/"+erasure.ID)
	s.answer(w, r, http.StatusAccepted, erasureOut(erasure), nil)
}

// GetErasure implements ServerInterface. Who may erase accounts may ask about all of them.
func (s *Server) GetErasure(w http.ResponseWriter, r *http.Request, id ErasureID) {
	x := exchangeOf(r)
	account := x.caller.Account
	if x.caller.Grant().Has("admin") {
		account = ""
	}
	erasure, err := s.config.Erasures.Get(r.Context(), account, id)
	if err == nil && erasure.Stream.Kind() == "conversation" && !x.caller.Grant().Reaches(agentOf(erasure.Stream)) {
		err = problem("erasure_not_found")
	}
	s.answer(w, r, http.StatusOK, erasureOut(erasure), notFoundAs(err, "erasure_not_found"))
}

func erasureOut(e projections.Erasure) Erasure {
	out := Erasure{
		ID: e.ID, Of: ErasureOf(e.Stream.Kind()), Status: Running, RequestedAt: Timestamp(e.RequestedAt), DoneAt: someTimeAt(e.DoneAt),
	}
	if e.DoneAt != nil {
		out.Status = Done
	}
	return out
}

// A conversation that was erased is gone for good; its stream takes nothing any more. What a client says later under the
// same id begins another conversation, on a stream of its own: the id's next generation.

// generationChunk is how many generations are looked at together.
const generationChunk = 32

// mac stands for one generation of a client's id in the names of streams. No client's id has a line break in it.
func (s *Server) mac(id string, generation int) string {
	if generation == 0 {
		return s.config.Keyring.Index(id)
	}
	return s.config.Keyring.Index(id + "\n" + strconv.Itoa(generation))
}

// generations says how many generations of an id have been erased, agent by agent.
func (s *Server) generations(ctx context.Context, account, agentID, id string) (map[string]int, error) {
	all := map[string]int{}
	for from := 0; ; from += generationChunk {
		macs := make([]string, generationChunk)
		for i := range macs {
			macs[i] = s.mac(id, from+i)
		}
		erased, err := s.config.Erasures.Generations(ctx, account, agentID, macs)
		if err != nil {
			return nil, err
		}
		more := false
		for agent, count := range erased {
			all[agent] += count
			more = more || count == generationChunk
		}
		if !more {
			return all, nil
		}
	}
}

// next is what stands for the generation of an id that has not been erased.
func (s *Server) next(ctx context.Context, account, agentID, id string) (string, error) {
	erased, err := s.generations(ctx, account, agentID, id)
	return s.mac(id, erased[agentID]), err
}

// named finds the conversation that goes by an id now, or projections.ErrNotFound, or projections.ErrAmbiguous; and the
// last one of each agent that did before and was erased.
func (s *Server) named(ctx context.Context, account, agentID, id string) (projections.Conversation, []domain.StreamID, error) {
	found, err := s.config.Conversations.Get(ctx, account, agentID, s.mac(id, 0))
	if err == nil && agentID != "" || err != nil && !errors.Is(err, projections.ErrNotFound) {
		return found, nil, err
	}
	erased, failed := s.generations(ctx, account, agentID, id)
	if failed != nil {
		return found, nil, failed
	}
	var streams []domain.StreamID
	for agent, count := range erased {
		streams = append(streams, projections.ConversationStream(agent, s.mac(id, count-1)))
		later, missing := s.config.Conversations.Get(ctx, account, agent, s.mac(id, count))
		switch {
		case errors.Is(missing, projections.ErrNotFound):
		case missing != nil:
			return found, nil, missing
		case err == nil:
			return found, nil, projections.ErrAmbiguous
		default:
			found, err = later, nil
		}
	}
	slices.Sort(streams)
	return found, streams, err
}

// agentOf is the agent in a conversation's name.
func agentOf(stream domain.StreamID) string {
	agent, _, _ := strings.Cut(stream.Name(), ".")
	return agent
}
