package commands

// This file stands at the command: opening accounts with their first key, plans, suspension, erasure.

import (
	"context"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
)

// Accounts runs the commands on accounts.
type Accounts struct {
	accounts Handler[account.Command, account.Event, account.State]
	keys     *Keys
}

// NewAccounts wires the handlers.
func NewAccounts(store Store, keys *Keys) *Accounts {
	return &Accounts{
		accounts: Handler[account.Command, account.Event, account.State]{Store: store, Aggregate: account.Aggregate},
		keys:     keys,
	}
}

// OpenAccount asks for an account.
type OpenAccount struct {
	ID     string // empty: drawn
	Name   string
	Plan   account.Plan
	Custom account.Limits
	Scopes []apikey.Scope // of its first key; none means all but admin
}

// OpenedAccount is the account and the one sight of its first key.
type OpenedAccount struct {
	ID  string
	Key IssuedKey
}

// Open opens an account and issues its first key.
func (a *Accounts) Open(ctx context.Context, meta Meta, in OpenAccount) (OpenedAccount, error) {
	id := in.ID
	if id == "" {
		id = meta.Inputs.ID("acc")
	}
	scopes := in.Scopes
	if len(scopes) == 0 {
		scopes = apikey.AccountScopes()
	}
	own := meta
	own.Account = id // the commits belong to the account that they open
	if _, err := a.accounts.Handle(ctx, id, "open", own, account.Open{Name: in.Name, Plan: in.Plan, Custom: in.Custom}); err != nil {
		return OpenedAccount{}, err
	}
	key, err := a.keys.Issue(ctx, own, IssueKey{
		Name: "first key", Environment: "live", Scopes: scopes,
		Issuer: apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}, IssuedBy: meta.Actor.ID,
	})
	if err != nil {
		return OpenedAccount{}, err
	}
	return OpenedAccount{ID: id, Key: key}, nil
}

// ChangePlan moves an account to a plan, if it names one, and to these custom limits, if it names any, at once.
func (a *Accounts) ChangePlan(ctx context.Context, meta Meta, id string, plan account.Plan, custom *account.Limits) error {
	_, err := a.handle(ctx, meta, id, "change plan", account.ChangePlan{Plan: plan, Custom: custom})
	return err
}

// Suspend stops every key of an account.
func (a *Accounts) Suspend(ctx context.Context, meta Meta, id, reason string) error {
	_, err := a.handle(ctx, meta, id, "suspend", account.Suspend{Reason: reason})
	return err
}

// Resume ends a suspension.
func (a *Accounts) Resume(ctx context.Context, meta Meta, id string) error {
	_, err := a.handle(ctx, meta, id, "resume", account.Resume{})
	return err
}

// Erase ends an account: once it has returned, no node accepts any of its keys. The Eraser does the rest.
func (a *Accounts) Erase(ctx context.Context, meta Meta, id string) error {
	_, err := a.handle(ctx, meta, id, "erase", account.Erase{Erasure: meta.Inputs.ID("era"), At: meta.Inputs.Now})
	return err
}

func (a *Accounts) handle(ctx context.Context, meta Meta, id, step string, command account.Command) (Result[account.Event, account.State], error) {
	meta.Account = id
	return a.accounts.Handle(ctx, id, step, meta, command)
}
