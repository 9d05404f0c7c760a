package api

// This file is the tests' own: accounts, agents, keys and conversations, what can be asked of them and what is commanded.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

type accountsOf struct{ *world }

func (a accountsOf) Open(context.Context, commands.Meta, commands.OpenAccount) (commands.OpenedAccount, error) {
	return commands.OpenedAccount{ID: "acc_2", Key: commands.IssuedKey{ID: "abcdefghijkl", Key: secretKey}}, a.fail
}

func (a accountsOf) ChangePlan(_ context.Context, _ commands.Meta, _ string, plan account.Plan, custom *account.Limits) error {
	a.plans = append(a.plans, account.ChangePlan{Plan: plan, Custom: custom})
	return a.fail
}
func (a accountsOf) Suspend(context.Context, commands.Meta, string, string) error { return a.fail }
func (a accountsOf) Resume(context.Context, commands.Meta, string) error          { return a.fail }
func (a accountsOf) Erase(context.Context, commands.Meta, string) error           { return a.fail }

func (a accountsOf) Get(_ context.Context, id string) (projections.Account, error) {
	if id == "acc_none" {
		return projections.Account{}, projections.ErrNotFound
	}
	return projections.Account{ID: id, Name: "Sol", Plan: account.Pro, OpenedAt: noon}, nil
}

func (a accountsOf) List(context.Context, projections.Page) ([]projections.Account, *projections.Cursor, error) {
	return []projections.Account{{ID: "acc_1", Name: "Sol", Plan: account.Pro, OpenedAt: noon}}, nil, a.fail
}

type agentsOf struct{ *world }

func (a agentsOf) Create(_ context.Context, meta commands.Meta, in commands.CreateAgent) (string, error) {
	if a.panics {
		panic("a mistake in our own tables")
	}
	if a.fail != nil {
		return "", a.fail
	}
	a.world.created = append(a.world.created, meta)
	id := meta.Inputs.ID("agt")
	a.agents[id] = projections.Agent{ID: id, Account: meta.Account, Slug: "nuevo", Status: agent.Active, Version: 1, Settings: in.Settings, CreatedAt: noon, ChangedAt: noon}
	return id, nil
}

func (a agentsOf) Configure(_ context.Context, _ commands.Meta, id string, changes agent.Changes) error {
	found := a.agents[id]
	found.Settings = changes.Apply(found.Settings)
	a.agents[id] = found
	return a.fail
}

func (a agentsOf) Restore(context.Context, commands.Meta, string, int, agent.Settings) error {
	return a.fail
}
func (a agentsOf) Pause(context.Context, commands.Meta, string) error  { return a.fail }
func (a agentsOf) Resume(context.Context, commands.Meta, string) error { return a.fail }
func (a agentsOf) Delete(context.Context, commands.Meta, string) error { return a.fail }

func (a agentsOf) Get(_ context.Context, account, id string) (projections.Agent, error) {
	found, ok := a.agents[id]
	if !ok || found.Account != account {
		return projections.Agent{}, projections.ErrNotFound
	}
	return found, nil
}

func (a agentsOf) List(_ context.Context, _ string, _ []string, page projections.Page) ([]projections.Agent, *projections.Cursor, error) {
	if page.After != nil {
		return nil, nil, nil
	}
	return []projections.Agent{a.agents["agt_1"]}, &projections.Cursor{At: noon, ID: "agt_1"}, nil
}

func (a agentsOf) Versions(context.Context, string, string, int, int) ([]projections.AgentVersion, error) {
	return []projections.AgentVersion{{Version: 1, Settings: agent.Settings{Name: "Ventas", Model: "echo"}, At: noon}}, nil
}

func (a agentsOf) Version(_ context.Context, _, _ string, version int) (projections.AgentVersion, error) {
	if version > 1 {
		return projections.AgentVersion{}, projections.ErrNotFound
	}
	return projections.AgentVersion{Version: 1, Settings: agent.Settings{Name: "Ventas", Model: "echo"}, At: noon}, nil
}

type keysOf struct{ *world }

func (k keysOf) Issue(_ context.Context, _ commands.Meta, in commands.IssueKey) (commands.IssuedKey, error) {
	k.world.issued = append(k.world.issued, in)
	return commands.IssuedKey{ID: "abcdefghijkl", Key: secretKey}, k.fail
}
func (k keysOf) Rotate(_ context.Context, _ commands.Meta, in commands.RotateKey) (commands.IssuedKey, error) {
	k.world.rotated = append(k.world.rotated, in)
	return commands.IssuedKey{ID: in.ID, Key: secretKey}, k.fail
}
func (k keysOf) Describe(_ context.Context, _ commands.Meta, _ string, name *string, metadata *map[string]string) error {
	k.world.described = append(k.world.described, fmt.Sprint(name != nil, metadata != nil))
	return k.fail
}
func (k keysOf) Revoke(context.Context, commands.Meta, string, string) error { return k.fail }

func (k keysOf) Get(_ context.Context, account, id string) (projections.Key, error) {
	if id == "none" {
		return projections.Key{}, projections.ErrNotFound
	}
	return projections.Key{PublicID: id, Account: account, Name: "web", Environment: "live", Hint: "wxyz", Scopes: []apikey.Scope{apikey.Chat}, IssuedAt: noon}, nil
}

func (k keysOf) List(ctx context.Context, account string, _ projections.Page) ([]projections.Key, *projections.Cursor, error) {
	one, err := k.Get(ctx, account, "abcdefghijkl")
	return []projections.Key{one}, nil, err
}

type deprecationsOf struct{ *world }

func (d deprecationsOf) Used(account, publicID, item string, _ time.Time) {
	d.deprecated[account+" "+publicID+" "+item]++
}

func (d deprecationsOf) Of(_ context.Context, account, publicID string) ([]projections.DeprecatedUse, error) {
	var found []projections.DeprecatedUse
	for name, uses := range d.deprecated {
		if item, own := strings.CutPrefix(name, account+" "+publicID+" "); own {
			at := noon
			found = append(found, projections.DeprecatedUse{Item: item, Uses: uses + 5, LastUsedAt: noon, UsesOfKey: uses, KeyLastUsedAt: &at})
		}
	}
	return append(found, projections.DeprecatedUse{Item: "GET /gone", Uses: 9, LastUsedAt: noon}), nil
}

type conversationsOf struct{ *world }

func (c conversationsOf) Resolve(context.Context, commands.Meta, domain.StreamID) error {
	return c.fail
}
func (c conversationsOf) Reopen(context.Context, commands.Meta, domain.StreamID) error { return c.fail }
func (c conversationsOf) Erase(_ context.Context, _ commands.Meta, stream domain.StreamID) error {
	c.erased = append(c.erased, stream)
	return c.fail
}

func (c conversationsOf) one() projections.Conversation {
	return projections.Conversation{
		Stream: "conversation-agt_1.mac", Account: "acc_1", Agent: "agt_1", ID: domain.Sealed{Key: "dk_1", Data: []byte("conv-123")},
		Metadata: domain.Sealed{Key: "dk_1", Data: []byte(`{"team":"ventas"}`)}, Status: "open", MessageCount: 2, CreatedAt: noon, LastMessageAt: noon,
	}
}

func (c conversationsOf) List(_ context.Context, _ string, _ projections.ConversationFilter, page projections.Page) ([]projections.Conversation, *projections.Cursor, error) {
	if page.After != nil {
		return nil, nil, nil
	}
	return []projections.Conversation{c.one()}, &projections.Cursor{At: noon, ID: "conversation-agt_1.mac"}, nil
}

func (c conversationsOf) Get(_ context.Context, _, agentID, mac string) (projections.Conversation, error) {
	switch {
	case mac == "mac-of-none", strings.HasPrefix(mac, "mac-of-gone"), mac == "mac-of-again":
		return projections.Conversation{}, projections.ErrNotFound
	case mac == "mac-of-twice" && agentID == "":
		return projections.Conversation{}, projections.ErrAmbiguous
	}
	return c.one(), nil
}

func (c conversationsOf) Messages(context.Context, string, domain.StreamID, projections.MessagePage) ([]projections.Message, *projections.MessageCursor, error) {
	return []projections.Message{
		{Version: 1, ID: "msg_1", Role: projections.RoleUser, Outcome: projections.Received, Text: domain.Sealed{Key: "dk_1", Data: []byte("hello")}, At: noon},
		{Version: 2, ID: "msg_2", Role: projections.RoleAssistant, Outcome: projections.Failed, Code: "upstream_timeout", At: noon},
	}, &projections.MessageCursor{Version: 2}, nil
}

// erasuresOf knows that the conversation "gone" was erased twice, and "again" once, and begun anew.
type erasuresOf struct{ *world }

func (e erasuresOf) Get(_ context.Context, account, id string) (projections.Erasure, error) {
	if id == "era_none" || account != "" && account != "acc_1" {
		return projections.Erasure{}, projections.ErrNotFound
	}
	return projections.Erasure{ID: id, Stream: "conversation-agt_1.mac", Account: "acc_1", RequestedAt: noon, DoneAt: &noon}, nil
}

func (e erasuresOf) Of(_ context.Context, stream domain.StreamID) (projections.Erasure, error) {
	for _, kept := range e.kept {
		if kept.answer != nil && kept.answer.Owner == string(stream) && !slices.Contains(e.erased, stream) {
			return projections.Erasure{}, projections.ErrNotFound
		}
	}
	return projections.Erasure{ID: "era_of_" + string(stream), Stream: stream, Account: "acc_1", RequestedAt: noon}, nil
}

func (e erasuresOf) Generations(_ context.Context, _, _ string, macs []string) (map[string]int, error) {
	switch macs[0] {
	case "mac-of-gone":
		return map[string]int{"agt_1": 2}, nil
	case "mac-of-again":
		return map[string]int{"agt_1": 1}, nil
	}
	return nil, nil
}
