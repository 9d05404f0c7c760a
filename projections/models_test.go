package projections_test

// This file tests the read models of accounts, agents, hosts and keys: given commits, then what the questions answer.

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/host"
	"github.com/nidohq/nido/projections"
)

func pointer[T any](value T) *T { return &value }

func wantNotFound(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, projections.ErrNotFound) {
		t.Errorf("%s: %v, want ErrNotFound", what, err)
	}
}

func wantEqual[T any](t *testing.T, what string, got, want T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if difference := cmp.Diff(want, got); difference != "" {
		t.Errorf("%s (-want +got):\n%s", what, difference)
	}
}

func TestAnAccountStandsAsItsEventsLeftIt(t *testing.T) {
	db := newDatabase(t)
	accounts := projections.NewAccounts(db.pool)
	if exist, err := accounts.Exist(t.Context()); err != nil || exist {
		t.Errorf("an empty installation: %v, %v, want no account", exist, err)
	}
	var story log
	db.apply(t, story.add(commit(account.Aggregate, "acc_1", 0, "c1", noon, account.Opened{Name: "Café", Plan: account.Free})))
	want := projections.Account{ID: "acc_1", Name: "Café", Plan: account.Free, OpenedAt: noon, ChangedAt: noon}
	got, err := accounts.Get(t.Context(), "acc_1")
	wantEqual(t, "opened", got, want, err)
	if got.Limits() != (account.Limits{PerMinute: 10, PerDay: 1000}) {
		t.Errorf("limits %+v, want the plan's", got.Limits())
	}

	db.apply(t,
		story.add(commit(account.Aggregate, "acc_1", 1, "c2", noon.Add(time.Hour), account.PlanChanged{Plan: account.Scale, Custom: account.Limits{PerMinute: 7}})),
		story.add(commit(account.Aggregate, "acc_1", 2, "c3", noon.Add(2*time.Hour), account.Suspended{Reason: "unpaid"})))
	want.Plan, want.PerMinute, want.Suspended, want.Reason, want.ChangedAt = account.Scale, 7, true, "unpaid", noon.Add(2*time.Hour)
	got, err = accounts.Get(t.Context(), "acc_1")
	wantEqual(t, "suspended", got, want, err)
	if got.Limits() != (account.Limits{PerMinute: 7}) {
		t.Errorf("limits %+v, want the account's own", got.Limits())
	}

	db.apply(t, story.add(commit(account.Aggregate, "acc_1", 3, "c4", noon.Add(3*time.Hour), account.Resumed{})))
	want.Suspended, want.Reason, want.ChangedAt = false, "", noon.Add(3*time.Hour)
	got, err = accounts.Get(t.Context(), "acc_1")
	wantEqual(t, "resumed", got, want, err)

	db.apply(t, story.add(commit(account.Aggregate, "acc_1", 4, "c5", noon.Add(4*time.Hour), account.Erased{Erasure: "era_1", At: noon.Add(4 * time.Hour)})))
	want.Name, want.Suspended, want.ErasedAt, want.ChangedAt = "", true, pointer(noon.Add(4*time.Hour)), noon.Add(4*time.Hour)
	got, err = accounts.Get(t.Context(), "acc_1")
	wantEqual(t, "erased", got, want, err)
	if exist, err := accounts.Exist(t.Context()); err != nil || !exist {
		t.Errorf("%v, %v, want an account", exist, err)
	}
	_, err = accounts.Get(t.Context(), "acc_2")
	wantNotFound(t, "another id", err)
}

func TestAnAgentStandsAsItsEventsLeftIt(t *testing.T) {
	db := newDatabase(t)
	agents := projections.NewAgents(db.pool)
	first := agent.Settings{Name: "Ventas", Instructions: "Sos amable", Model: "echo", Metadata: map[string]string{"a": "1"}}
	second := first
	second.Model, second.HistoryLimit = "gpt", pointer(6)
	var story log
	db.apply(t,
		story.add(commit(agent.Aggregate, "agt_1", 0, "c1", noon, agent.Created{Account: "acc_1", Slug: "ventas", Settings: first})),
		story.add(commit(agent.Aggregate, "agt_1", 1, "c2", noon.Add(time.Hour), agent.Configured{
			Version: 2, Changes: agent.Changes{Model: pointer("gpt"), HistoryLimit: pointer(6)},
		})))
	want := projections.Agent{
		ID: "agt_1", Account: "acc_1", Slug: "ventas", Status: agent.Active, Version: 2, Settings: second, CreatedAt: noon, ChangedAt: noon.Add(time.Hour),
	}
	got, err := agents.Get(t.Context(), "acc_1", "agt_1")
	wantEqual(t, "configured", got, want, err)
	_, err = agents.Get(t.Context(), "acc_2", "agt_1")
	wantNotFound(t, "another account's", err)

	db.apply(t,
		story.add(commit(agent.Aggregate, "agt_1", 2, "c3", noon.Add(2*time.Hour), agent.Paused{})),
		story.add(commit(agent.Aggregate, "agt_1", 3, "c4", noon.Add(3*time.Hour), agent.Configured{Version: 3, Changes: agent.Replace(first), Restores: 1})))
	want.Status, want.Version, want.Settings, want.ChangedAt = agent.Halted, 3, first, noon.Add(3*time.Hour)
	got, err = agents.Get(t.Context(), "acc_1", "agt_1")
	wantEqual(t, "paused and restored", got, want, err)

	versions, err := agents.Versions(t.Context(), "acc_1", "agt_1", 0, 10)
	wantEqual(t, "versions", versions, []projections.AgentVersion{
		{Version: 3, Settings: first, Restores: 1, Actor: "key", ActorID: "k1", At: noon.Add(3 * time.Hour)},
		{Version: 2, Settings: second, Actor: "key", ActorID: "k1", At: noon.Add(time.Hour)},
		{Version: 1, Settings: first, Actor: "key", ActorID: "k1", At: noon},
	}, err)
	below, err := agents.Versions(t.Context(), "acc_1", "agt_1", 3, 1)
	wantEqual(t, "the next page of versions", below, versions[1:2], err)
	one, err := agents.Version(t.Context(), "acc_1", "agt_1", 2)
	wantEqual(t, "one version", one, versions[1], err)
	_, err = agents.Version(t.Context(), "acc_2", "agt_1", 2)
	wantNotFound(t, "another account's version", err)

	db.apply(t, story.add(commit(agent.Aggregate, "agt_1", 4, "c5", noon.Add(4*time.Hour), agent.Deleted{})))
	_, err = agents.Get(t.Context(), "acc_1", "agt_1")
	wantNotFound(t, "deleted", err)
	if left, _, err := agents.List(t.Context(), "acc_1", nil, projections.Page{Limit: 10}); err != nil || len(left) != 0 {
		t.Errorf("the list after the deletion: %v, %v", left, err)
	}
}

func TestListsArePagedNewestFirstAndStableUnderInserts(t *testing.T) {
	db := newDatabase(t)
	agents := projections.NewAgents(db.pool)
	var story log
	create := func(id, account string, at time.Time) {
		db.apply(t, story.add(commit(agent.Aggregate, id, 0, "c_"+id, at, agent.Created{Account: account, Slug: id, Settings: agent.Settings{Name: id, Model: "m"}})))
	}
	for i := range 7 {
		create(fmt.Sprintf("agt_%d", i), "acc_1", noon.Add(time.Duration(i/3)*time.Hour)) // three share an instant
	}
	create("agt_other", "acc_2", noon)
	var seen []string
	page := projections.Page{Limit: 2}
	for {
		found, next, err := agents.List(t.Context(), "acc_1", nil, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range found {
			seen = append(seen, a.ID)
		}
		if next == nil {
			break
		}
		page.After = next
		create(fmt.Sprintf("agt_new%d", len(seen)), "acc_1", noon.Add(24*time.Hour))
	}
	wantEqual(t, "all pages", seen, []string{"agt_6", "agt_5", "agt_4", "agt_3", "agt_2", "agt_1", "agt_0"}, nil)

	bound, next, err := agents.List(t.Context(), "acc_1", []string{"agt_4", "agt_1", "agt_other"}, projections.Page{Limit: 2})
	if err != nil || next != nil || len(bound) != 2 || bound[0].ID != "agt_4" || bound[1].ID != "agt_1" {
		t.Errorf("a bound key's list: %+v, %v, %v", bound, next, err)
	}
	if none, _, err := agents.List(t.Context(), "acc_1", []string{}, page); err != nil || len(none) != 0 {
		t.Errorf("a list of no agents: %+v, %v", none, err)
	}
}

func TestOnlyABoundHostRoutes(t *testing.T) {
	db := newDatabase(t)
	hosts, agents := projections.NewHosts(db.pool), projections.NewAgents(db.pool)
	var story log
	db.apply(t, story.add(commit(host.Aggregate, "ventas", 0, "c1", noon, host.Claimed{Account: "acc_1", Agent: "agt_1"})))
	_, err := hosts.Agent(t.Context(), "ventas")
	wantNotFound(t, "claimed", err)
	unbound, err := hosts.Unbound(t.Context(), noon.Add(time.Minute), 10)
	wantEqual(t, "unbound", unbound, []projections.Host{{Slug: "ventas", Account: "acc_1", Agent: "agt_1", ClaimedAt: noon}}, err)
	unbound, err = hosts.Unbound(t.Context(), noon, 10)
	wantEqual(t, "unbound before it was claimed", unbound, []projections.Host{}, err)

	db.apply(t,
		story.add(commit(agent.Aggregate, "agt_1", 0, "c2", noon, agent.Created{Account: "acc_1", Slug: "ventas", Settings: agent.Settings{Name: "V", Model: "m"}})),
		story.add(commit(host.Aggregate, "ventas", 1, "c3", noon, host.Bound{Agent: "agt_1"})))
	bound, err := hosts.Agent(t.Context(), "ventas")
	wantEqual(t, "bound", bound, projections.Host{Slug: "ventas", Account: "acc_1", Agent: "agt_1", Bound: true, ClaimedAt: noon}, err)
	unbound, err = hosts.Unbound(t.Context(), noon.Add(time.Minute), 10)
	wantEqual(t, "unbound after binding", unbound, []projections.Host{}, err)
	if found, err := agents.BySlug(t.Context(), "acc_1", "ventas"); err != nil || found.ID != "agt_1" {
		t.Errorf("by slug: %+v, %v", found, err)
	}
	_, err = agents.BySlug(t.Context(), "acc_2", "ventas")
	wantNotFound(t, "another account's slug", err)

	db.apply(t,
		story.add(commit(host.Aggregate, "ventas", 2, "c4", noon.Add(time.Hour), host.Released{Agent: "agt_1"})),
		story.add(commit(host.Aggregate, "ventas", 3, "c5", noon.Add(2*time.Hour), host.Claimed{Account: "acc_2", Agent: "agt_2"})),
		story.add(commit(host.Aggregate, "ventas", 4, "c6", noon.Add(2*time.Hour), host.Bound{Agent: "agt_2"})))
	bound, err = hosts.Agent(t.Context(), "ventas")
	wantEqual(t, "taken by another", bound, projections.Host{Slug: "ventas", Account: "acc_2", Agent: "agt_2", Bound: true, ClaimedAt: noon.Add(2 * time.Hour)}, err)
	db.apply(t, story.add(commit(host.Aggregate, "ventas", 5, "c7", noon.Add(3*time.Hour), host.Released{Agent: "agt_2"})))
	_, err = hosts.Agent(t.Context(), "ventas")
	wantNotFound(t, "released", err)
}

func TestAKeyIsFoundWithItsAccount(t *testing.T) {
	db := newDatabase(t)
	keys := projections.NewKeys(db.pool)
	issued := apikey.Issued{
		Account: "acc_1", Name: "first", Environment: "live", Hash: []byte{0, 1, 0xff}, Hint: "wxyz", Scopes: []apikey.Scope{apikey.Chat, apikey.KeysRead},
		AgentIDs: []string{"agt_1"}, ExpiresAt: noon.Add(time.Hour), IPAllow: []string{"10.0.0.0/8"}, Metadata: map[string]string{"k": "v"}, IssuedBy: "root",
	}
	var story log
	db.apply(t,
		story.add(commit(apikey.Aggregate, "k1", 0, "c1", noon, issued)),
		story.add(commit(apikey.Aggregate, "k2", 0, "c2", noon.Add(time.Minute), apikey.Issued{Account: "acc_1", Name: "second", Scopes: []apikey.Scope{apikey.Admin}})))
	_, err := keys.Authenticate(t.Context(), "k1")
	wantNotFound(t, "a key whose account is not there yet", err)
	db.apply(t, story.add(commit(account.Aggregate, "acc_1", 0, "c3", noon, account.Opened{Name: "A", Plan: account.Starter, Custom: account.Limits{PerDay: 5}})))

	caller, err := keys.Authenticate(t.Context(), "k1")
	expires := noon.Add(time.Hour)
	wantEqual(t, "caller", caller, projections.Caller{
		PublicID: "k1", Name: "first", Hash: []byte{0, 1, 0xff}, Scopes: issued.Scopes, AgentIDs: issued.AgentIDs, IPAllow: issued.IPAllow, ExpiresAt: &expires,
		Account: "acc_1", Plan: account.Starter, PerDay: 5, Earlier: [][]byte{}, Graces: []time.Time{},
	}, err)
	if caller.Limits() != (account.Limits{PerMinute: 60, PerDay: 5}) || !caller.Grant().Reaches("agt_1") || caller.Grant().Reaches("agt_2") {
		t.Errorf("limits %+v, grant %+v", caller.Limits(), caller.Grant())
	}
	key, err := keys.Get(t.Context(), "acc_1", "k1")
	want := projections.Key{
		PublicID: "k1", Account: "acc_1", Name: "first", Environment: "live", Hint: "wxyz", Scopes: issued.Scopes, AgentIDs: issued.AgentIDs, IPAllow: issued.IPAllow,
		Metadata: issued.Metadata, IssuedBy: "root", IssuedAt: noon, ExpiresAt: &expires, Graces: []time.Time{},
	}
	wantEqual(t, "key", key, want, err)
	_, err = keys.Get(t.Context(), "acc_2", "k1")
	wantNotFound(t, "another account's key", err)
	_, err = keys.Authenticate(t.Context(), "k3")
	wantNotFound(t, "another key", err)

	db.apply(t,
		story.add(commit(apikey.Aggregate, "k1", 1, "c4", noon.Add(time.Minute), apikey.Revoked{Reason: "lost"})),
		story.add(commit(account.Aggregate, "acc_1", 1, "c5", noon.Add(time.Minute), account.Suspended{})))
	caller, err = keys.Authenticate(t.Context(), "k1")
	if err != nil || caller.RevokedAt == nil || !caller.RevokedAt.Equal(noon.Add(time.Minute)) || !caller.Suspended {
		t.Errorf("after the revocation: %+v, %v", caller, err)
	}
	want.RevokedAt, want.Reason = caller.RevokedAt, "lost"
	listed, next, err := keys.List(t.Context(), "acc_1", projections.Page{Limit: 1})
	if err != nil || next == nil || len(listed) != 1 || listed[0].PublicID != "k2" || listed[0].ExpiresAt != nil || len(listed[0].AgentIDs) != 0 {
		t.Fatalf("the first page: %+v, %v, %v", listed, next, err)
	}
	listed, next, err = keys.List(t.Context(), "acc_1", projections.Page{Limit: 1, After: next})
	wantEqual(t, "the second page", listed, []projections.Key{want}, err)
	if next != nil {
		t.Errorf("there is a third page after %+v", next)
	}
}
