package commands

// This file stands at the command: resolving, reopening and erasing conversations. Their turns are in chat.go.

import (
	"context"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// Conversations runs the commands on conversations between their turns.
type Conversations struct {
	handler Handler[conversation.Command, conversation.Event, conversation.State]
}

// NewConversations wires the handler.
func NewConversations(store Store) *Conversations {
	return &Conversations{Handler[conversation.Command, conversation.Event, conversation.State]{Store: store, Aggregate: conversation.Aggregate}}
}

// Resolve says that a conversation needs nothing more.
func (c *Conversations) Resolve(ctx context.Context, meta Meta, stream domain.StreamID) error {
	_, err := c.handler.Handle(ctx, stream.Name(), "resolve", meta, conversation.Resolve{Account: meta.Account, At: meta.Inputs.Now})
	return err
}

// Reopen takes that back.
func (c *Conversations) Reopen(ctx context.Context, meta Meta, stream domain.StreamID) error {
	_, err := c.handler.Handle(ctx, stream.Name(), "reopen", meta, conversation.Reopen{Account: meta.Account, At: meta.Inputs.Now})
	return err
}

// Erase has everything forgotten that was said in a conversation. Once it has returned, nobody reads it any more through
// the API; the Eraser does the rest.
func (c *Conversations) Erase(ctx context.Context, meta Meta, stream domain.StreamID) error {
	_, err := c.handler.Handle(ctx, stream.Name(), "erase", meta, conversation.Erase{
		Account: meta.Account, Erasure: meta.Inputs.ID("era"), At: meta.Inputs.Now,
	})
	return err
}
