package commands

// This file stands at the command: issuing and rotating keys, whose text exists only in the answer, and revoking them.

import (
	"context"
	"time"

	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
)

// Keys runs the commands on API keys.
type Keys struct {
	keys   Handler[apikey.Command, apikey.Event, apikey.State]
	agents Handler[agent.Command, agent.Event, agent.State] // which it only looks at
}

// NewKeys wires the handlers.
func NewKeys(store Store) *Keys {
	return &Keys{
		keys:   Handler[apikey.Command, apikey.Event, apikey.State]{Store: store, Aggregate: apikey.Aggregate},
		agents: Handler[agent.Command, agent.Event, agent.State]{Store: store, Aggregate: agent.Aggregate},
	}
}

// IssueKey asks for a key.
type IssueKey struct {
	Name        string
	Environment string // "live" or "test"
	Scopes      []apikey.Scope
	AgentIDs    []string
	ExpiresAt   time.Time
	IPAllow     []string
	Metadata    map[string]string
	Issuer      apikey.Grant // what the key that asks may do itself
	IssuedBy    string       // its public id
}

// IssuedKey is the one sight of a new key.
type IssuedKey struct {
	ID  string // the public id
	Key string
}

// Issue makes a key. The same inputs make the same key, so that a retry can show it once more.
func (k *Keys) Issue(ctx context.Context, meta Meta, in IssueKey) (IssuedKey, error) {
	key, err := newKey(meta.Inputs, in.Environment)
	if err != nil {
		return IssuedKey{}, err
	}
	unknown, err := k.unknown(ctx, meta, in.AgentIDs)
	if err != nil {
		return IssuedKey{}, err
	}
	_, err = k.keys.Handle(ctx, key.PublicID, "issue", meta, apikey.Issue{
		Issued: apikey.Issued{
			Account: meta.Account, Name: in.Name, Environment: in.Environment, Hash: key.Hash(), Hint: key.Hint(),
			Scopes: in.Scopes, AgentIDs: in.AgentIDs, ExpiresAt: in.ExpiresAt, IPAllow: in.IPAllow, Metadata: in.Metadata,
			IssuedBy: in.IssuedBy,
		},
		Issuer: in.Issuer, Now: meta.Inputs.Now, Unknown: unknown,
	})
	if err != nil {
		return IssuedKey{}, err
	}
	return IssuedKey{ID: key.PublicID, Key: key.Reveal()}, nil
}

// unknown finds the first agent that the account does not have, by the agents' own streams.
func (k *Keys) unknown(ctx context.Context, meta Meta, agentIDs []string) (string, error) {
	for _, id := range agentIDs[:min(len(agentIDs), apikey.MaxAgentIDs)] { // the decider refuses more
		found, err := k.agents.load(ctx, id, "issue", meta)
		if err != nil {
			return "", err
		}
		if found.State.Account != meta.Account || found.State.Status == agent.Gone {
			return id, nil
		}
	}
	return "", nil
}

// Describe gives a key another name or other metadata; nil leaves them as they are.
func (k *Keys) Describe(ctx context.Context, meta Meta, id string, name *string, metadata *map[string]string) error {
	_, err := k.keys.Handle(ctx, id, "describe", meta, apikey.Describe{Account: meta.Account, Name: name, Metadata: metadata})
	return err
}

// RotateKey asks for another secret of a key.
type RotateKey struct {
	ID          string // the public id
	Environment string // the key's
	Grace       time.Duration
	Issuer      apikey.Grant // what the key that asks may do itself
	By          string       // its public id
}

// Rotate gives a key another secret. The same inputs make the same one, so that a retry can show it once more.
func (k *Keys) Rotate(ctx context.Context, meta Meta, in RotateKey) (IssuedKey, error) {
	key, err := apikey.Renew(in.Environment, in.ID, meta.Inputs.Bytes("key, another secret"))
	if err != nil {
		return IssuedKey{}, err
	}
	_, err = k.keys.Handle(ctx, key.PublicID, "rotate", meta, apikey.Rotate{
		Account: meta.Account, Hash: key.Hash(), Hint: key.Hint(), Grace: in.Grace, Issuer: in.Issuer, By: in.By, Now: meta.Inputs.Now,
	})
	if err != nil {
		return IssuedKey{}, err
	}
	return IssuedKey{ID: key.PublicID, Key: key.Reveal()}, nil
}

// Revoke ends a key. Once it has returned, no node accepts the key again.
func (k *Keys) Revoke(ctx context.Context, meta Meta, id, reason string) error {
	_, err := k.keys.Handle(ctx, id, "revoke", meta, apikey.Revoke{Account: meta.Account, Reason: reason})
	return err
}

func newKey(inputs Inputs, environment string) (apikey.Key, error) {
	return apikey.Compose(environment, append(inputs.Bytes("key, first half"), inputs.Bytes("key, second half")...))
}
