package commands_test

// This file stands at the command: accounts, their keys, and conversations between their turns.

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
)

// withAgent is a memory in which an account has an agent.
func withAgent(t *testing.T, account, id string) *memory {
	t.Helper()
	m := newMemory()
	handler := commands.Handler[agent.Command, agent.Event, agent.State]{Store: m.store(), Aggregate: agent.Aggregate}
	meta := metaAt(99)
	meta.Account = account
	if _, err := handler.Handle(t.Context(), id, "create", meta, agent.Create{Created: agent.Created{
		Account: account, Slug: "ventas", Settings: agent.Settings{Name: "Ventas", Model: "echo"},
	}}); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAKeyIsBoundToAgentsOfItsAccount(t *testing.T) {
	m := withAgent(t, "acc_1", "agt_1")
	keys := commands.NewKeys(m.store())
	in := commands.IssueKey{Name: "a", Environment: "test", Scopes: []apikey.Scope{apikey.Chat}, Issuer: apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}}
	for sentence, ids := range map[string][]string{"an agent that there is not": {"agt_1", "agt_2"}, "what is no agent": {"x"}} {
		in.AgentIDs = ids
		if _, err := keys.Issue(t.Context(), metaAt(1), in); err == nil {
			t.Errorf("bound to %s", sentence)
		} else {
			refusedAs(t, err, "invalid_request")
		}
	}
	in.AgentIDs = []string{"agt_1"}
	stranger := metaAt(2)
	stranger.Account = "acc_2"
	_, err := keys.Issue(t.Context(), stranger, in)
	refusedAs(t, err, "invalid_request")
	shown, err := keys.Issue(t.Context(), metaAt(3), in)
	if err != nil {
		t.Fatal(err)
	}
	agents := commands.Handler[agent.Command, agent.Event, agent.State]{Store: m.store(), Aggregate: agent.Aggregate}
	if _, err := agents.Handle(t.Context(), "agt_1", "delete", metaAt(4), agent.Delete{Account: "acc_1"}); err != nil {
		t.Fatal(err)
	}
	if again, err := keys.Issue(t.Context(), metaAt(3), in); err != nil || again != shown {
		t.Errorf("a retry after the agent is gone: %v", err)
	}
	_, err = keys.Issue(t.Context(), metaAt(5), in)
	refusedAs(t, err, "invalid_request")
	name := "tienda"
	if err := keys.Describe(t.Context(), metaAt(6), shown.ID, &name, nil); err != nil {
		t.Error(err)
	}
	refusedAs(t, keys.Describe(t.Context(), stranger, shown.ID, &name, nil), "key_not_found")
}

func TestAKeyIsShownAndNeverKept(t *testing.T) {
	m := withAgent(t, "acc_1", "agt_1")
	keys := commands.NewKeys(m.store())
	in := commands.IssueKey{
		Name: "web shop", Environment: "live", Scopes: []apikey.Scope{apikey.Chat}, AgentIDs: []string{"agt_1"}, ExpiresAt: noon.Add(time.Hour),
		IPAllow: []string{"10.0.0.0/8"}, Metadata: map[string]string{"team": "sur"}, Issuer: apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}, IssuedBy: "k1",
	}
	shown, err := keys.Issue(t.Context(), metaAt(1), in)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := apikey.Parse(shown.Key)
	if err != nil || parsed.PublicID != shown.ID || parsed.Environment != "live" {
		t.Fatalf("shown %+v: %v", parsed, err)
	}
	issued := m.accepted(t, "apikey")[0].(apikey.Issued)
	if !bytes.Equal(issued.Hash, parsed.Hash()) || issued.Hint != parsed.Hint() || issued.Account != "acc_1" || issued.IssuedBy != "k1" ||
		issued.Name != in.Name || !issued.ExpiresAt.Equal(in.ExpiresAt) || !slices.Equal(issued.AgentIDs, in.AgentIDs) || issued.Metadata["team"] != "sur" {
		t.Errorf("issued %+v", issued)
	}
	m.holdsNowhere(t, shown.Key, shown.Key[20:40])
	if again, err := keys.Issue(t.Context(), metaAt(1), in); err != nil || again != shown || len(m.commits()) != 2 {
		t.Errorf("a retry shows %+v, %v", again.ID, err)
	}
	if other, err := keys.Issue(t.Context(), metaAt(2), in); err != nil || other.Key == shown.Key || other.ID == shown.ID {
		t.Errorf("another request shows %+v, %v", other.ID, err)
	}
}

func TestARotatedKeyKeepsItsIDAndShowsAnotherSecretOnce(t *testing.T) {
	m := newMemory()
	keys := commands.NewKeys(m.store())
	admin := apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}
	first, err := keys.Issue(t.Context(), metaAt(1), commands.IssueKey{Name: "web shop", Environment: "test", Scopes: []apikey.Scope{apikey.Chat}, Issuer: admin})
	if err != nil {
		t.Fatal(err)
	}
	in := commands.RotateKey{ID: first.ID, Environment: "test", Grace: time.Hour, Issuer: admin, By: "k1"}
	second, err := keys.Rotate(t.Context(), metaAt(2), in)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := apikey.Parse(second.Key)
	if err != nil || parsed.PublicID != first.ID || second.ID != first.ID || parsed.Environment != "test" || second.Key == first.Key {
		t.Fatalf("shown %v: %v", parsed, err)
	}
	rotated := m.accepted(t, "apikey")[1].(apikey.Rotated)
	if !bytes.Equal(rotated.Hash, parsed.Hash()) || rotated.Hint != parsed.Hint() || !rotated.GraceUntil.Equal(noon.Add(time.Hour)) || rotated.RotatedBy != "k1" {
		t.Errorf("rotated %+v", rotated)
	}
	m.holdsNowhere(t, second.Key, second.Key[20:40])
	if again, err := keys.Rotate(t.Context(), metaAt(2), in); err != nil || again != second || len(m.commits()) != 2 {
		t.Errorf("a retry shows %+v, %v", again.ID, err)
	}
	if third, err := keys.Rotate(t.Context(), metaAt(3), in); err != nil || third.Key == second.Key || third.ID != first.ID {
		t.Errorf("another rotation shows %+v, %v", third.ID, err)
	}
	for sentence, id := range map[string]string{"an unknown key": "abcdefghijkl", "what is no id": "key", "another stream's name": "abcdefghijk/"} {
		in.ID = id
		shown, err := keys.Rotate(t.Context(), metaAt(4), in)
		refusedAs(t, err, "key_not_found")
		if shown != (commands.IssuedKey{}) {
			t.Errorf("%s was shown a secret", sentence)
		}
	}
}

func TestAKeyThatIsRefusedIsNotShown(t *testing.T) {
	m := newMemory()
	keys := commands.NewKeys(m.store())
	admin := apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}
	for code, in := range map[string]commands.IssueKey{
		"invalid_request": {Name: "web shop", Environment: "prod", Scopes: []apikey.Scope{apikey.Chat}, Issuer: admin},
		"grant_exceeded":  {Name: "web shop", Environment: "test", Scopes: []apikey.Scope{apikey.Admin}, Issuer: apikey.Grant{Scopes: []apikey.Scope{apikey.Chat}}},
	} {
		shown, err := keys.Issue(t.Context(), metaAt(1), in)
		refusedAs(t, err, code)
		if shown != (commands.IssuedKey{}) || len(m.commits()) != 0 {
			t.Errorf("%s, and yet shown or kept", code)
		}
	}
	m.fates = func(domain.Commit) fate { return lost }
	shown, err := keys.Issue(t.Context(), metaAt(1), commands.IssueKey{Name: "a", Environment: "test", Scopes: []apikey.Scope{apikey.Chat}, Issuer: admin})
	if !errors.Is(err, commands.ErrUnknownOutcome) || shown != (commands.IssuedKey{}) {
		t.Errorf("shown before it is known to exist: %v", err)
	}
}

func TestAnAccountIsOpenedWithItsFirstKey(t *testing.T) {
	m := newMemory()
	keys := commands.NewKeys(m.store())
	accounts := commands.NewAccounts(m.store(), keys)
	in := commands.OpenAccount{Name: "Acme", Plan: account.Pro}
	m.fates = func(commit domain.Commit) fate {
		if commit.Stream.Kind() == "apikey" {
			return refused
		}
		return arrives
	}
	if _, err := accounts.Open(t.Context(), metaAt(1), in); !errors.Is(err, commands.ErrUnavailable) {
		t.Fatalf("answered %v", err)
	}
	m.fates = nil
	account1, err := accounts.Open(t.Context(), metaAt(1), in) // a retry goes on where it stopped
	if err != nil {
		t.Fatal(err)
	}
	if types := typesOf(m.commits()); !slices.Equal(types, []string{"account.opened", "key.issued"}) {
		t.Errorf("commits %q", types)
	}
	for _, record := range m.commits() {
		if record.Account != account1.ID {
			t.Errorf("%s belongs to %q", record.Events[0].Type, record.Account)
		}
	}
	issued := m.accepted(t, "apikey")[0].(apikey.Issued)
	if issued.Account != account1.ID || !slices.Equal(issued.Scopes, apikey.AccountScopes()) || issued.IssuedBy != "k1" || issued.Environment != "live" {
		t.Errorf("the first key is %+v", issued)
	}
	again, err := accounts.Open(t.Context(), metaAt(1), in)
	if err != nil || again != account1 {
		t.Errorf("a retry opened %+v, %v", again.ID, err)
	}
	named, err := accounts.Open(t.Context(), metaAt(2), commands.OpenAccount{ID: "default", Name: "Own", Plan: account.Enterprise, Scopes: []apikey.Scope{apikey.Admin}})
	if err != nil || named.ID != "default" || m.accepted(t, "apikey")[1].(apikey.Issued).Scopes[0] != apikey.Admin {
		t.Errorf("opened %+v, %v", named.ID, err)
	}
	_, err = accounts.Open(t.Context(), metaAt(3), commands.OpenAccount{ID: "default", Name: "Other", Plan: account.Free})
	refusedAs(t, err, "account_exists")
}

func TestAnAccountsLaterLife(t *testing.T) {
	m := newMemory()
	keys := commands.NewKeys(m.store())
	accounts := commands.NewAccounts(m.store(), keys)
	opened, err := accounts.Open(t.Context(), metaAt(1), commands.OpenAccount{Name: "Acme", Plan: account.Free})
	if err != nil {
		t.Fatal(err)
	}
	custom := account.Limits{PerMinute: 7}
	for i, step := range []func(commands.Meta) error{
		func(meta commands.Meta) error {
			return accounts.ChangePlan(t.Context(), meta, opened.ID, account.Pro, &custom)
		},
		func(meta commands.Meta) error { return accounts.Suspend(t.Context(), meta, opened.ID, "unpaid") },
		func(meta commands.Meta) error { return accounts.Resume(t.Context(), meta, opened.ID) },
	} {
		if err := step(metaAt(byte(i + 2))); err != nil {
			t.Fatal(err)
		}
	}
	want := []any{
		account.Opened{Name: "Acme", Plan: account.Free}, account.PlanChanged{Plan: account.Pro, Custom: custom},
		account.Suspended{Reason: "unpaid"}, account.Resumed{},
	}
	if events := m.accepted(t, "account"); !slices.Equal(events, want) {
		t.Errorf("events %+v", events)
	}
	refusedAs(t, accounts.Suspend(t.Context(), metaAt(9), "acc_nobody", ""), "account_not_found")

	owner, stranger := metaAt(10), metaAt(11)
	owner.Account = opened.ID
	refusedAs(t, keys.Revoke(t.Context(), stranger, opened.Key.ID, "leaked"), "key_not_found")
	for range 2 {
		if err := keys.Revoke(t.Context(), owner, opened.Key.ID, "leaked"); err != nil {
			t.Fatal(err)
		}
	}
	if events := m.accepted(t, "apikey"); len(events) != 2 || events[1] != (apikey.Revoked{Reason: "leaked"}) {
		t.Errorf("events %+v", events)
	}
}

func TestAConversationIsResolvedAndReopened(t *testing.T) {
	m := newMemory()
	handler := commands.Handler[conversation.Command, conversation.Event, conversation.State]{Store: m.store(), Aggregate: conversation.Aggregate}
	receive := conversation.Receive{Start: conversation.Started{Account: "acc_1", Agent: "agt_1"}, MessageReceived: conversation.MessageReceived{Turn: "turn_1"}}
	if _, err := handler.Handle(t.Context(), chatStream.Name(), "receive", metaAt(1), receive); err != nil {
		t.Fatal(err)
	}
	conversations := commands.NewConversations(m.store())
	for seed := range byte(2) {
		if err := conversations.Resolve(t.Context(), metaAt(2+seed), chatStream); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range byte(2) {
		if err := conversations.Reopen(t.Context(), metaAt(4+seed), chatStream); err != nil {
			t.Fatal(err)
		}
	}
	if events := m.accepted(t, "conversation")[2:]; !slices.Equal(events, []any{conversation.Resolved{At: noon}, conversation.Reopened{At: noon}}) {
		t.Errorf("events %+v", events)
	}
	stranger := metaAt(9)
	stranger.Account = "acc_2"
	refusedAs(t, conversations.Resolve(t.Context(), stranger, chatStream), "conversation_not_found")
	refusedAs(t, conversations.Reopen(t.Context(), stranger, chatStream), "conversation_not_found")
}
