package commands

// This file stands behind an account's erasure that is in the log: all its conversations, its keys and its agents.

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// eraseAccount destroys all keys of the account first: a million messages are unreadable within seconds, and only then it
// begins what takes its time.
func (e *Eraser) eraseAccount(ctx context.Context, erasure Erasure) error {
	count, err := e.destroyAll(ctx, erasure)
	if err != nil {
		return err
	}
	if err := e.ledger.Destroyed(ctx, erasure.ID); err != nil {
		return err
	}
	if err := e.close(ctx, erasure); err != nil {
		return err
	}
	early := make(chan error, 1)
	go func() {
		if count <= eraseAtOnce {
			early <- nil
			return
		}
		early <- e.blank(ctx, erasure.Account)
	}()
	ended := e.endAll(ctx, erasure)
	if err := errors.Join(ended, <-early); err != nil {
		return err
	}
	if err := e.ledger.ForgetAccount(ctx, erasure.Account); err != nil {
		return err
	}
	return e.blank(ctx, erasure.Account)
}

func (e *Eraser) blank(ctx context.Context, account string) error {
	if err := e.settled(ctx); err != nil {
		return err
	}
	return e.analytics.ForgetAccount(ctx, account)
}

// destroyAll destroys the account's own key and those of all its conversations.
func (e *Eraser) destroyAll(ctx context.Context, erasure Erasure) (count int, err error) {
	if err := e.keys.Destroy(ctx, erasure.Account); err != nil {
		return 0, err
	}
	err = e.belongings.Conversations(ctx, erasure.Account, func(streams []domain.StreamID) error {
		count += len(streams)
		return e.destroy(ctx, streams)
	})
	return count, err
}

func (e *Eraser) destroy(ctx context.Context, streams []domain.StreamID) error {
	owners := make([]string, len(streams))
	for i, stream := range streams {
		owners[i] = string(stream)
	}
	return e.keys.Destroy(ctx, owners...)
}

// close revokes the account's keys and deletes its agents. None of them works any more since the account was erased; this
// says so on their own streams, and gives their names back.
func (e *Eraser) close(ctx context.Context, erasure Erasure) error {
	keys, err := e.belongings.Keys(ctx, erasure.Account)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := e.apiKeys.Revoke(ctx, e.meta(erasure.Account), key, "the account has been erased"); err != nil {
			return err
		}
	}
	agents, err := e.belongings.Agents(ctx, erasure.Account)
	if err != nil {
		return err
	}
	for _, agent := range agents {
		if err := e.agents.Delete(ctx, e.meta(erasure.Account), agent); err != nil {
			return err
		}
	}
	return nil
}

// endAll gives every conversation its end, until there is none left.
func (e *Eraser) endAll(ctx context.Context, erasure Erasure) error {
	for {
		ended := 0
		err := e.belongings.Conversations(ctx, erasure.Account, func(streams []domain.StreamID) error {
			ended += len(streams)
			if err := e.destroy(ctx, streams); err != nil { // those that came meanwhile
				return err
			}
			return e.endEach(ctx, erasure, streams)
		})
		if err != nil || ended == 0 {
			return err
		}
	}
}

func (e *Eraser) endEach(ctx context.Context, erasure Erasure, streams []domain.StreamID) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	next := make(chan domain.StreamID)
	var writers sync.WaitGroup
	for range min(eraseWriters, len(streams)) {
		writers.Go(func() {
			for stream := range next {
				if err := e.end(ctx, erasure, stream); err != nil {
					giveUp(err)
				}
			}
		})
	}
	for _, stream := range streams {
		select {
		case next <- stream:
		case <-ctx.Done():
		}
	}
	close(next)
	writers.Wait()
	return context.Cause(ctx)
}

func (e *Eraser) end(ctx context.Context, erasure Erasure, stream domain.StreamID) error {
	meta := e.meta(erasure.Account)
	_, err := e.chat.Handle(ctx, stream.Name(), "erase", meta, conversation.Erase{
		Account: erasure.Account, Erasure: erasure.ID, At: meta.Inputs.Now, WithAccount: true,
	})
	if err != nil {
		return fmt.Errorf("erase a conversation of the account: %w", err)
	}
	return nil
}

// left erases conversations that came in after their account had been erased: their turns were admitted before that.
func (e *Eraser) left(ctx context.Context) error {
	found, err := e.belongings.Left(ctx)
	if err != nil {
		return err
	}
	for _, one := range found {
		meta := e.meta(one.Account)
		_, err := e.chat.Handle(ctx, one.Stream.Name(), "erase", meta, conversation.Erase{
			Account: one.Account, Erasure: meta.Inputs.ID("era"), At: meta.Inputs.Now,
		})
		if err != nil {
			return fmt.Errorf("erase what is left of an account: %w", err)
		}
	}
	return nil
}
