package apikey

// This file stands at the decision: what one can ask of a key, each command with its own rule.

import (
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/domain"
)

// Bounds of what a key carries.
const (
	MaxNameLength = 200 // characters
	MaxAgentIDs   = 100
	MaxIPAllow    = 100
	MaxMetadata   = 50 // entries
	// MaxEarlierSecrets is how many secrets may be in their grace at once.
	MaxEarlierSecrets = 8
	MaxGrace          = 30 * 24 * time.Hour
)

// Command is one of the commands below.
type Command interface {
	decide(State) ([]Event, error)
}

// Issue asks for a new key. Issuer is what the key that asks may do itself: nobody hands out more than they have.
type Issue struct {
	Issued
	Issuer Grant
	Now    time.Time
	// Unknown is one of AgentIDs of which the account has no agent, empty if it has them all.
	Unknown string
}

// Rotate asks for another secret. Whoever gets to see it may do what the key may do, so that it is handed out as a new key
// is: to nobody who may do less.
type Rotate struct {
	Account string // whose key it must be
	Hash    []byte
	Hint    string
	Grace   time.Duration // how much longer the secrets before it work
	Issuer  Grant
	By      string // public id of the key that asks
	Now     time.Time
}

// Describe gives the key another name or other metadata; nil leaves them as they are. What the key may do stays the same.
type Describe struct {
	Account  string // whose key it must be
	Name     *string
	Metadata *map[string]string
}

// Revoke ends the key.
type Revoke struct {
	Account string // whose key it must be
	Reason  string
}

func (c Issue) decide(s State) ([]Event, error) {
	if s.Account != "" {
		return nil, nil
	}
	field, what := c.Issuer.exceeds(Grant{Scopes: c.Scopes, AgentIDs: c.AgentIDs, IPAllow: c.IPAllow, Expires: c.ExpiresAt})
	if err := describable(c.Name, c.Metadata); err != nil {
		return nil, err
	}
	unknown := slices.IndexFunc(c.Scopes, func(s Scope) bool { return !slices.Contains(Scopes, s) })
	badPrefix := slices.IndexFunc(c.IPAllow, func(p string) bool { return !isNetwork(p) })
	switch {
	case len(c.Scopes) == 0:
		return nil, domain.RefuseField("scopes", "invalid_request", "scopes must name at least one scope")
	case unknown >= 0:
		return nil, domain.RefuseField("scopes", "invalid_request", "there is no scope %q", c.Scopes[unknown])
	case len(c.AgentIDs) > MaxAgentIDs:
		return nil, domain.RefuseField("agentIds", "invalid_request", "agentIds must name at most %d agents", MaxAgentIDs)
	case len(c.IPAllow) > MaxIPAllow:
		return nil, domain.RefuseField("ipAllow", "invalid_request", "ipAllow must have at most %d prefixes", MaxIPAllow)
	case badPrefix >= 0:
		return nil, domain.RefuseField("ipAllow", "invalid_request", "ipAllow: %q is not a CIDR prefix such as 203.0.113.0/24", c.IPAllow[badPrefix])
	case !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(c.Now):
		return nil, domain.RefuseField("expiresAt", "invalid_request", "expiresAt must lie in the future")
	case field != "":
		return nil, domain.RefuseField(field, "grant_exceeded", "a key cannot hand out more than it has itself: %s", what)
	case c.Unknown != "":
		return nil, domain.RefuseField("agentIds", "invalid_request", "there is no agent %s", c.Unknown)
	}
	return []Event{c.Issued}, nil
}

// describable refuses names and metadata that go beyond their bounds.
func describable(name string, metadata map[string]string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return domain.RefuseField("name", "invalid_request", "name must not be empty")
	case utf8.RuneCountInString(name) > MaxNameLength:
		return domain.RefuseField("name", "invalid_request", "name must have at most %d characters", MaxNameLength)
	case len(metadata) > MaxMetadata:
		return domain.RefuseField("metadata", "invalid_request", "metadata must have at most %d entries", MaxMetadata)
	}
	return nil
}

// isNetwork reports whether a text is a prefix that addresses can lie in. Those written as IPv4 in IPv6 are not: an address
// is always taken as what it stands for.
func isNetwork(text string) bool {
	prefix, err := netip.ParsePrefix(text)
	return err == nil && !prefix.Addr().Is4In6()
}

func (c Describe) decide(s State) ([]Event, error) {
	if s.Account == "" || s.Account != c.Account {
		return nil, domain.Refuse("key_not_found", "there is no such key")
	}
	described := Described{Name: s.Name, Metadata: s.Metadata}
	if c.Name != nil {
		described.Name = *c.Name
	}
	if c.Metadata != nil {
		described.Metadata = *c.Metadata
	}
	if err := describable(described.Name, described.Metadata); err != nil {
		return nil, err
	}
	if described.Name == s.Name && maps.Equal(described.Metadata, s.Metadata) {
		return nil, nil
	}
	return []Event{described}, nil
}

func (c Rotate) decide(s State) ([]Event, error) {
	field, what := c.Issuer.exceeds(s.grant())
	inGrace := 0
	for _, until := range s.Graces {
		if until.After(c.Now) {
			inGrace++
		}
	}
	switch {
	case s.Account == "" || s.Account != c.Account:
		return nil, domain.Refuse("key_not_found", "there is no such key")
	case s.Secret == hex.EncodeToString(c.Hash):
		return nil, nil
	case s.Revoked:
		return nil, domain.Refuse("key_revoked", "a revoked key cannot be rotated; issue another")
	case field != "":
		return nil, domain.RefuseField(field, "grant_exceeded", "a key cannot hand out more than it has itself: %s", what)
	case c.Grace < 0 || c.Grace > MaxGrace:
		return nil, domain.RefuseField("graceSeconds", "invalid_request", "graceSeconds must lie between 0 and %d", int(MaxGrace.Seconds()))
	case c.Grace > 0 && inGrace >= MaxEarlierSecrets:
		return nil, domain.RefuseField("graceSeconds", "invalid_request", "%d secrets are in their grace already; 0 ends them", inGrace)
	}
	rotated := Rotated{Hash: c.Hash, Hint: c.Hint, RotatedBy: c.By}
	if c.Grace > 0 {
		rotated.GraceUntil = c.Now.Add(c.Grace)
	}
	return []Event{rotated}, nil
}

func (c Revoke) decide(s State) ([]Event, error) {
	switch {
	case s.Account == "" || s.Account != c.Account:
		return nil, domain.Refuse("key_not_found", "there is no such key")
	case s.Revoked:
		return nil, nil
	}
	return []Event{Revoked{Reason: c.Reason}}, nil
}
