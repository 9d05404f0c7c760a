package api

// This file stands between the routes of conversations and their commands and queries. Texts come sealed from the read
// model, and are opened for this one answer.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

// ConversationCommands resolves and reopens conversations.
type ConversationCommands interface {
	Resolve(ctx context.Context, meta commands.Meta, stream domain.StreamID) error
	Reopen(ctx context.Context, meta commands.Meta, stream domain.StreamID) error
	Erase(ctx context.Context, meta commands.Meta, stream domain.StreamID) error
}

// ConversationQueries reads conversations, sealed.
type ConversationQueries interface {
	List(ctx context.Context, account string, filter projections.ConversationFilter, page projections.Page) ([]projections.Conversation, *projections.Cursor, error)
	Get(ctx context.Context, account, agentID, mac string) (projections.Conversation, error)
	Messages(ctx context.Context, account string, stream domain.StreamID, page projections.MessagePage) ([]projections.Message, *projections.MessageCursor, error)
}

// Keyring opens what was sealed.
type Keyring interface {
	// Open opens texts; of one whose data key was destroyed, erased is true.
	Open(ctx context.Context, texts []domain.Sealed) (plain [][]byte, erased []bool, err error)
	// Index is the part of a stream's name that stands for a client's conversation id.
	Index(clientID string) string
	// Unwrap makes a data key of what a query has read from the keyring's table.
	Unwrap(id string, wrapped []byte) (commands.DataKey, error)
}

// ListConversations implements ServerInterface. The answer is an array, so the next page is named in the header.
func (s *Server) ListConversations(w http.ResponseWriter, r *http.Request, params ListConversationsParams) {
	x := exchangeOf(r)
	x.record.AgentID = or(params.AgentID, "")
	from, err := page(r, params.Limit, params.Cursor)
	if err == nil && params.AgentID != nil {
		err = reaches(x, *params.AgentID)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, next, err := s.config.Conversations.List(r.Context(), x.caller.Account, projections.ConversationFilter{
		Agent: or(params.AgentID, ""), Only: bound(x), Status: conversation.Status(or(params.Status, "")),
		From: or(params.From, noTime), To: or(params.To, noTime),
	}, from)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	conversations, err := s.open(r.Context(), found)
	if err == nil {
		err = s.linkNext(w, r, next)
	}
	s.answer(w, r, http.StatusOK, conversations, err)
}

// GetConversation implements ServerInterface.
func (s *Server) GetConversation(w http.ResponseWriter, r *http.Request, id ConversationID, params GetConversationParams) {
	s.answerConversation(w, r, id, params.AgentID)
}

// ListMessages implements ServerInterface.
func (s *Server) ListMessages(w http.ResponseWriter, r *http.Request, id ConversationID, params ListMessagesParams) {
	after, err := readCursor[projections.MessageCursor](r, params.Cursor)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.conversation(r, id, params.AgentID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	messages, next, err := s.config.Conversations.Messages(r.Context(), found.Account, found.Stream,
		projections.MessagePage{Limit: or(params.Limit, defaultPage), After: after})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	data, err := s.openMessages(r.Context(), messages)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, MessageList{Data: data, NextCursor: cursor}, err)
}

// ResolveConversation implements ServerInterface.
func (s *Server) ResolveConversation(w http.ResponseWriter, r *http.Request, id ConversationID, params ResolveConversationParams) {
	s.changeConversation(w, r, id, params.AgentID, s.config.ConversationCommands.Resolve)
}

// ReopenConversation implements ServerInterface.
func (s *Server) ReopenConversation(w http.ResponseWriter, r *http.Request, id ConversationID, params ReopenConversationParams) {
	s.changeConversation(w, r, id, params.AgentID, s.config.ConversationCommands.Reopen)
}

func (s *Server) changeConversation(w http.ResponseWriter, r *http.Request, id string, agentID *string, command func(context.Context, commands.Meta, domain.StreamID) error) {
	found, err := s.conversation(r, id, agentID)
	if err == nil {
		err = command(r.Context(), exchangeOf(r).meta(r), found.Stream)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answerConversation(w, r, id, agentID)
}

func (s *Server) answerConversation(w http.ResponseWriter, r *http.Request, id string, agentID *string) {
	found, err := s.conversation(r, id, agentID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	opened, err := s.open(r.Context(), []projections.Conversation{found})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.answer(w, r, http.StatusOK, opened[0], nil)
}

// conversation finds one by the id that its client knows it by. The request log's line then belongs to it, and is
// forgotten with it.
func (s *Server) conversation(r *http.Request, id string, agentID *string) (projections.Conversation, error) {
	x := exchangeOf(r)
	if agentID != nil {
		if err := reaches(x, *agentID); err != nil {
			return projections.Conversation{}, err
		}
	}
	found, erased, err := s.named(r.Context(), x.caller.Account, or(agentID, ""), id)
	if len(erased) == 1 { // what is said of it from now on is to be forgotten too
		x.record.Owner = string(erased[0])
	}
	switch {
	case errors.Is(err, projections.ErrAmbiguous):
		return found, invalid("agentId", "agentId is needed: several agents have a conversation with this id.", "Se necesita agentId: varios agentes tienen una conversación con este id.")
	case err != nil:
		return found, notFoundAs(err, "conversation_not_found")
	case !x.caller.Grant().Reaches(found.Agent):
		return found, problem("conversation_not_found")
	}
	x.record.AgentID, x.record.ConversationID, x.record.Owner = found.Agent, id, string(found.Stream)
	return found, nil
}

// open opens the ids and metadata of conversations, all with one look at the keyring.
func (s *Server) open(ctx context.Context, sealed []projections.Conversation) ([]Conversation, error) {
	texts := make([]domain.Sealed, 0, 2*len(sealed))
	for _, c := range sealed {
		texts = append(texts, c.ID, c.Metadata)
	}
	plain, _, err := s.config.Keyring.Open(ctx, texts)
	if err != nil {
		return nil, fmt.Errorf("open conversations: %w", err)
	}
	opened := make([]Conversation, len(sealed))
	for i, c := range sealed {
		metadata := Metadata{}
		if data := plain[2*i+1]; len(data) > 0 {
			if err := json.Unmarshal(data, &metadata); err != nil {
				return nil, fmt.Errorf("decode a conversation's metadata: %w", err)
			}
		}
		opened[i] = Conversation{
			ID: string(plain[2*i]), AgentID: c.Agent, Status: ConversationStatus(c.Status), MessageCount: int(c.MessageCount),
			CreatedAt: Timestamp(c.CreatedAt), LastMessageAt: Timestamp(c.LastMessageAt), Metadata: metadata,
		}
	}
	return opened, nil
}

func (s *Server) openMessages(ctx context.Context, sealed []projections.Message) ([]Message, error) {
	texts := make([]domain.Sealed, len(sealed))
	for i, m := range sealed {
		texts[i] = m.Text
	}
	plain, erased, err := s.config.Keyring.Open(ctx, texts)
	if err != nil {
		return nil, fmt.Errorf("open messages: %w", err)
	}
	opened := make([]Message, len(sealed))
	for i, m := range sealed {
		opened[i] = Message{
			ID: m.ID, Role: MessageRole(m.Role), Status: MessageStatus(m.Outcome), Model: some(m.Model), Error: some(m.Code), CreatedAt: Timestamp(m.At),
		}
		if text := string(plain[i]); !erased[i] {
			opened[i].Text = &text
		}
		if m.Role == projections.RoleAssistant {
			opened[i].Usage = new(usageOf(m.Usage))
		}
	}
	return opened, nil
}

// linkNext names the next page, if there is one.
func (s *Server) linkNext(w http.ResponseWriter, r *http.Request, place *projections.Cursor) error {
	next, err := writeCursor(r, place)
	if err != nil || next == nil {
		return err
	}
	query := r.URL.Query()
	query.Set("cursor", *next)
	link := url.URL{Path: r.URL.Path, RawQuery: query.Encode()}
	w.Header().Add("Link", "<"+s.config.PublicURL+link.String()+`>; rel="next"`)
	w.Header().Set("X-Next-Cursor", *next)
	return nil
}
