package commands

// This file stands behind an erasure that is in the log: the policy that carries it out in every store. Whatever dies at
// whichever step, somebody begins it again from its first step; each of them may be done twice.

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// Erasure is something to be forgotten, as the log asks for it.
type Erasure struct {
	ID      string
	Stream  domain.StreamID // of the conversation or the account
	Account string
}

// Erasures is the ledger of what is to be forgotten and how far that has come.
type Erasures interface {
	// TakeUp writes down what the log asks for and nobody has taken up yet.
	// It returns how many there were.
	TakeUp(ctx context.Context) (int, error)
	// Open lists what is not done.
	Open(ctx context.Context) ([]Erasure, error)
	// Claim takes erasures that are not done, of accounts or of conversations; nobody else gets them before the lease ends.
	Claim(ctx context.Context, accounts bool, limit int, lease time.Duration) ([]Erasure, error)
	// Keep prolongs a claim.
	Keep(ctx context.Context, lease time.Duration, ids ...string) error
	Destroyed(ctx context.Context, ids ...string) error
	Done(ctx context.Context, ids ...string) error
	Failed(ctx context.Context, why error, ids ...string) error
	// ForgetConversations and ForgetAccount drop what Postgres keeps beside the read models.
	ForgetConversations(ctx context.Context, streams []string) error
	ForgetAccount(ctx context.Context, account string) error
}

// Destroyer destroys data keys, and their owners' right to any.
type Destroyer interface {
	Destroy(ctx context.Context, owners ...string) error
	// Named lists the ids of the keys that owners have or had.
	Named(ctx context.Context, owners ...string) ([]string, error)
}

// Analytics is the one store in which texts stand in the open.
type Analytics interface {
	// Now is its clock.
	Now(ctx context.Context) (time.Time, error)
	// Settled waits until nothing comes in any more that was opened before a time of that clock.
	Settled(ctx context.Context, since time.Time) error
	ForgetConversations(ctx context.Context, gone []GoneConversation) error
	ForgetAccount(ctx context.Context, account string) error
}

// GoneConversation is a conversation whose keys have been destroyed.
type GoneConversation struct {
	Account, Agent, Stream string
	Keys                   []string
}

// Belongings finds what an account has.
type Belongings interface {
	// Conversations calls each for pieces of the list of an account's conversations.
	Conversations(ctx context.Context, account string, each func(streams []domain.StreamID) error) error
	Agents(ctx context.Context, account string) ([]string, error)
	Keys(ctx context.Context, account string) ([]string, error)
	// Left lists conversations of accounts whose erasure is done.
	Left(ctx context.Context) ([]OfAccount, error)
}

// OfAccount is a conversation and whose it is.
type OfAccount struct {
	Stream  domain.StreamID
	Account string
}

// EraserConfig is how patient the eraser is.
type EraserConfig struct {
	Every  time.Duration // between two looks; default 1 second
	Lease  time.Duration // a claim that is not renewed for so long is another's; default 15 seconds
	Clock  Clock         // default time.Now
	Logger *slog.Logger
}

// Eraser is the policy. Any number of them may run.
type Eraser struct {
	EraserConfig
	ledger     Erasures
	keys       Destroyer
	analytics  Analytics
	belongings Belongings
	chat       Handler[conversation.Command, conversation.Event, conversation.State]
	agents     *Agents
	apiKeys    *Keys
}

const (
	// eraseBatch is how many conversations are erased together: they wait for the same moment, and their rows are blanked by
	// few statements.
	eraseBatch = 2000
	// eraseRounds is how many of these may be under way: what is asked for behind the first must not wait for its end.
	eraseRounds = 3
	// eraseWriters is how many conversations of an account get their event at a time.
	eraseWriters = 64
	// eraseAtOnce is how many conversations an account may have without a first pass over the analytics while their events
	// are being written: so many take a second or two.
	eraseAtOnce = 5000
	// leftEvery is the pause between two looks for what came in after its account was erased.
	leftEvery = 15 * time.Second
)

// NewEraser wires an eraser.
func NewEraser(config EraserConfig, store Store, ledger Erasures, keys Destroyer, analytics Analytics, belongings Belongings, agents *Agents, apiKeys *Keys) *Eraser {
	setDefault(&config.Every, time.Second)
	setDefault(&config.Lease, 15*time.Second)
	if config.Clock == nil {
		config.Clock = time.Now
	}
	return &Eraser{
		EraserConfig: config, ledger: ledger, keys: keys, analytics: analytics, belongings: belongings, agents: agents, apiKeys: apiKeys,
		chat: Handler[conversation.Command, conversation.Event, conversation.State]{Store: store, Aggregate: conversation.Aggregate},
	}
}

// Run erases until the context ends. Accounts have a way of their own: a large one must not hold up a conversation.
func (e *Eraser) Run(ctx context.Context) error {
	var ways sync.WaitGroup
	for range eraseRounds {
		ways.Go(func() { e.every(ctx, e.Every, e.conversations) })
	}
	ways.Go(func() { e.every(ctx, e.Every, e.accounts) })
	ways.Go(func() { e.every(ctx, leftEvery, e.left) })
	ways.Wait()
	return nil
}

func (e *Eraser) every(ctx context.Context, pause time.Duration, work func(context.Context) error) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if err := work(ctx); err != nil && ctx.Err() == nil {
			e.Logger.WarnContext(ctx, "erasure not finished; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// conversations erases what is there to be erased by now.
func (e *Eraser) conversations(ctx context.Context) error {
	if _, err := e.ledger.TakeUp(ctx); err != nil {
		return err
	}
	claimed, err := e.ledger.Claim(ctx, false, eraseBatch, e.Lease)
	if err != nil || len(claimed) == 0 {
		return err
	}
	return e.work(ctx, claimed, e.eraseConversations)
}

func (e *Eraser) accounts(ctx context.Context) error {
	claimed, err := e.ledger.Claim(ctx, true, 1, e.Lease)
	if err != nil || len(claimed) == 0 {
		return err
	}
	return e.work(ctx, claimed, func(ctx context.Context, claimed []Erasure) error { return e.eraseAccount(ctx, claimed[0]) })
}

// work does the steps of claimed erasures while it keeps the claim, and notes what came of them.
func (e *Eraser) work(ctx context.Context, claimed []Erasure, steps func(context.Context, []Erasure) error) error {
	ids := make([]string, len(claimed))
	for i, one := range claimed {
		ids[i] = one.ID
	}
	working, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		e.keep(working, ids)
	}()
	err := steps(ctx, claimed)
	stop()
	<-kept
	if err == nil {
		if err = e.ledger.Done(ctx, ids...); err == nil {
			e.Logger.InfoContext(ctx, "erased", "erasures", len(ids), "first", ids[0])
		}
	}
	if err != nil {
		noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Lease)
		defer cancel()
		return errors.Join(err, e.ledger.Failed(noting, err, ids...))
	}
	return nil
}

// keep renews a claim. Where that does not work somebody else may begin, too, which does no harm.
func (e *Eraser) keep(ctx context.Context, ids []string) {
	ticker := time.NewTicker(e.Lease / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := e.ledger.Keep(ctx, e.Lease, ids...); err != nil && ctx.Err() == nil {
			e.Logger.WarnContext(ctx, "claim on erasures not renewed", "error", err)
		}
	}
}

// eraseConversations: first the keys, so that nothing sealed can be opened any more, wherever it is and on whatever way it
// still comes; then what stands in the open, when nobody can add to it.
func (e *Eraser) eraseConversations(ctx context.Context, claimed []Erasure) error {
	streams, ids := make([]string, len(claimed)), make([]string, len(claimed))
	for i, one := range claimed {
		streams[i], ids[i] = string(one.Stream), one.ID
	}
	if err := e.keys.Destroy(ctx, streams...); err != nil {
		return err
	}
	if err := e.ledger.Destroyed(ctx, ids...); err != nil {
		return err
	}
	gone := make([]GoneConversation, len(claimed))
	for i, one := range claimed {
		named, err := e.keys.Named(ctx, streams[i])
		if err != nil {
			return err
		}
		agent, _, _ := strings.Cut(one.Stream.Name(), ".")
		gone[i] = GoneConversation{Account: one.Account, Agent: agent, Stream: streams[i], Keys: named}
	}
	if err := e.ledger.ForgetConversations(ctx, streams); err != nil {
		return err
	}
	if err := e.settled(ctx); err != nil {
		return err
	}
	if err := e.analytics.ForgetConversations(ctx, gone); err != nil {
		return err
	}
	return e.ledger.ForgetConversations(ctx, streams) // what a turn wrote that was still running
}

// settled waits until every fold that read keys before now has brought in what it opened, or lost the right to.
func (e *Eraser) settled(ctx context.Context) error {
	since, err := e.analytics.Now(ctx)
	if err != nil {
		return err
	}
	return e.analytics.Settled(ctx, since)
}

// Catch destroys the keys of everything that is not done. A node calls it before it answers anything: after a restore
// there may be keys again of what had been erased.
func (e *Eraser) Catch(ctx context.Context) error {
	for {
		taken, err := e.ledger.TakeUp(ctx)
		if err != nil {
			return err
		}
		if taken == 0 {
			break
		}
	}
	open, err := e.ledger.Open(ctx)
	if err != nil {
		return err
	}
	var streams []domain.StreamID
	for _, one := range open {
		if one.Stream.Kind() == conversation.Aggregate.Kind {
			streams = append(streams, one.Stream)
		} else if _, err := e.destroyAll(ctx, one); err != nil {
			return err
		}
	}
	return e.destroy(ctx, streams)
}

func (e *Eraser) meta(account string) Meta {
	return Meta{Account: account, Actor: domain.Actor{Kind: "system", ID: "eraser"}, Inputs: NewInputs(e.Clock())}
}
