package api

// This file stands between the routes of accounts and their commands and queries.

import (
	"context"
	"errors"
	"net/http"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

// AccountCommands changes accounts.
type AccountCommands interface {
	Open(ctx context.Context, meta commands.Meta, in commands.OpenAccount) (commands.OpenedAccount, error)
	ChangePlan(ctx context.Context, meta commands.Meta, id string, plan account.Plan, custom *account.Limits) error
	Suspend(ctx context.Context, meta commands.Meta, id, reason string) error
	Resume(ctx context.Context, meta commands.Meta, id string) error
	Erase(ctx context.Context, meta commands.Meta, id string) error
}

// AccountQueries reads accounts.
type AccountQueries interface {
	Get(ctx context.Context, id string) (projections.Account, error)
	List(ctx context.Context, page projections.Page) ([]projections.Account, *projections.Cursor, error)
}

// OpenAccount implements ServerInterface.
func (s *Server) OpenAccount(w http.ResponseWriter, r *http.Request, _ OpenAccountParams) {
	x := exchangeOf(r)
	in, err := decode[AccountOpen](x)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	opened, err := s.config.AccountCommands.Open(r.Context(), x.meta(r), commands.OpenAccount{
		Name: in.Name, Plan: account.Plan(or(in.Plan, Free)), Custom: limitsIn(in.Limits),
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.account(r, opened.ID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	key, err := s.config.Keys.Get(r.Context(), opened.ID, opened.Key.ID)
	w.Header().Set("Location", "/api/accounts/"+opened.ID)
	s.answer(w, r, http.StatusCreated, OpenedAccount{
		ID: found.ID, Name: found.Name, Plan: found.Plan, Limits: found.Limits, CustomLimits: found.CustomLimits,
		Suspended: found.Suspended, CreatedAt: found.CreatedAt, Key: issuedKey(s.key(key), opened.Key.Key),
	}, err)
}

// ListAccounts implements ServerInterface.
func (s *Server) ListAccounts(w http.ResponseWriter, r *http.Request, params ListAccountsParams) {
	from, err := page(r, params.Limit, params.Cursor)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, next, err := s.config.Accounts.List(r.Context(), from)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	data := make([]Account, len(found))
	for i, one := range found {
		data[i] = accountOut(one)
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, AccountList{Data: data, NextCursor: cursor}, err)
}

// GetAccount implements ServerInterface.
func (s *Server) GetAccount(w http.ResponseWriter, r *http.Request, id AccountID) {
	found, err := s.account(r, id)
	s.answer(w, r, http.StatusOK, found, err)
}

// ChangeAccount implements ServerInterface. What the request does not name stays as it is.
func (s *Server) ChangeAccount(w http.ResponseWriter, r *http.Request, id AccountID, _ ChangeAccountParams) {
	x := exchangeOf(r)
	in, err := decode[AccountPatch](x)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var custom *account.Limits
	if in.Limits != nil {
		custom = new(limitsIn(in.Limits))
	}
	err = s.config.AccountCommands.ChangePlan(r.Context(), x.meta(r), id, account.Plan(or(in.Plan, "")), custom)
	s.answerAccount(w, r, id, err)
}

// SuspendAccount implements ServerInterface.
func (s *Server) SuspendAccount(w http.ResponseWriter, r *http.Request, id AccountID, _ SuspendAccountParams) {
	x := exchangeOf(r)
	in, err := decode[Reason](x)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if id == x.caller.Account {
		s.refuse(w, r, invalid("id", "An account cannot suspend itself.", "Una cuenta no puede suspenderse a sí misma."))
		return
	}
	s.answerAccount(w, r, id, s.config.AccountCommands.Suspend(r.Context(), x.meta(r), id, or(in.Reason, "")))
}

// ResumeAccount implements ServerInterface.
func (s *Server) ResumeAccount(w http.ResponseWriter, r *http.Request, id AccountID, _ ResumeAccountParams) {
	s.answerAccount(w, r, id, s.config.AccountCommands.Resume(r.Context(), exchangeOf(r).meta(r), id))
}

// answerAccount answers a command with the account behind it.
func (s *Server) answerAccount(w http.ResponseWriter, r *http.Request, id string, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.account(r, id)
	s.answer(w, r, http.StatusOK, found, err)
}

func (s *Server) account(r *http.Request, id string) (Account, error) {
	found, err := s.config.Accounts.Get(r.Context(), id)
	return accountOut(found), notFoundAs(err, "account_not_found")
}

// notFoundAs names what was not found.
func notFoundAs(err error, code string) error {
	if errors.Is(err, projections.ErrNotFound) {
		return problem(code)
	}
	return err
}

func accountOut(a projections.Account) Account {
	return Account{
		ID: a.ID, Name: a.Name, Plan: Plan(a.Plan), Limits: limitsOut(a.Limits()),
		CustomLimits: limitsOut(account.Limits{PerMinute: a.PerMinute, PerDay: a.PerDay}),
		Suspended:    a.Suspended, ErasedAt: someTimeAt(a.ErasedAt), CreatedAt: Timestamp(a.OpenedAt),
	}
}

func limitsIn(limits *Limits) account.Limits {
	if limits == nil {
		return account.Limits{}
	}
	return account.Limits{PerMinute: or(limits.PerMinute, 0), PerDay: or(limits.PerDay, 0)}
}

func limitsOut(limits account.Limits) Limits {
	return Limits{PerMinute: &limits.PerMinute, PerDay: &limits.PerDay}
}
