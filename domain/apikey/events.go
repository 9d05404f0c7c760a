package apikey

// This file stands at the commit: what can have happened to a key.

import (
	"encoding/hex"
	"slices"
	"time"
)

// Event is one of the facts below.
type Event interface{ evolve(State) State }

// Issued brings a key into the world.
type Issued struct {
	Account     string            `json:"account"`
	Name        string            `json:"name"`
	Environment string            `json:"environment"` // "live" or "test": the part behind ha_
	Hash        []byte            `json:"hash"`        // SHA-256 of the whole key
	Hint        string            `json:"hint"`        // the key's last four characters
	Scopes      []Scope           `json:"scopes"`
	AgentIDs    []string          `json:"agentIds,omitempty"` // the only agents it may act on; none means all
	ExpiresAt   time.Time         `json:"expiresAt,omitzero"` // zero means never
	IPAllow     []string          `json:"ipAllow,omitempty"`  // CIDR prefixes it may come from; none means all
	Metadata    map[string]string `json:"metadata,omitempty"`
	IssuedBy    string            `json:"issuedBy,omitempty"` // public id of the key that asked for it
}

// Rotated gives a key another secret. The one before works until the grace ends, and no older one works longer.
type Rotated struct {
	Hash       []byte    `json:"hash"`                // SHA-256 of the whole key with its new secret
	Hint       string    `json:"hint"`                // its last four characters
	GraceUntil time.Time `json:"graceUntil,omitzero"` // when every secret before it stops working; zero is at once, by any clock
	RotatedBy  string    `json:"rotatedBy,omitempty"`
}

// Revoked ends a key for good.
type Revoked struct {
	Reason string `json:"reason,omitempty"`
}

// Described gives a key another name and other metadata; both are stated whole.
type Described struct {
	Name     string            `json:"name"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (e Issued) evolve(State) State {
	return State{
		Account: e.Account, Scopes: e.Scopes, AgentIDs: e.AgentIDs, IPAllow: e.IPAllow, Expires: e.ExpiresAt,
		Name: e.Name, Metadata: e.Metadata, Secret: hex.EncodeToString(e.Hash),
	}
}

func (e Rotated) evolve(s State) State {
	graces := append(slices.Clone(s.Graces), e.GraceUntil)
	for i, until := range graces {
		if until.After(e.GraceUntil) {
			graces[i] = e.GraceUntil
		}
	}
	// Those that stop last are the newest: no secret works longer than a newer one.
	s.Secret, s.Graces = hex.EncodeToString(e.Hash), graces[max(0, len(graces)-MaxEarlierSecrets):]
	return s
}

func (e Described) evolve(s State) State {
	s.Name, s.Metadata = e.Name, e.Metadata
	return s
}

func (e Revoked) evolve(s State) State {
	s.Revoked = true
	return s
}
