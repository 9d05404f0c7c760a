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
	exceeded := c.Issuer.exceeds(Grant{Scopes: c.Scopes, AgentIDs: c.AgentIDs, IPAllow: c.IPAllow, Expires: c.ExpiresAt})
	if err := describable(c.Name, c.Metadata); err != nil {
		return nil, err
	}
	unknown := slices.IndexFunc(c.Scopes, func(s Scope) bool { return !slices.Contains(Scopes, s) })
	badNetwork := networks(c.IPAllow)
	switch {
	case len(c.Scopes) == 0:
		return nil, domain.RefuseField("scopes", "invalid_request", "scopes must name at least one scope", "scopes debe nombrar al menos un permiso")
	case unknown >= 0:
		return nil, domain.RefuseField("scopes", "invalid_request", "there is no scope %q", "no existe el permiso %q", c.Scopes[unknown])
	case len(c.AgentIDs) > MaxAgentIDs:
		return nil, domain.RefuseField("agentIds", "invalid_request", "agentIds must name at most %d agents", "agentIds debe nombrar como máximo %d agentes", MaxAgentIDs)
	case len(c.IPAllow) > MaxIPAllow:
		return nil, domain.RefuseField("ipAllow", "invalid_request", "ipAllow must have at most %d prefixes", "ipAllow debe tener como máximo %d prefijos", MaxIPAllow)
	case badNetwork != nil:
		return nil, badNetwork
	case !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(c.Now):
		return nil, domain.RefuseField("expiresAt", "invalid_request", "expiresAt must lie in the future", "expiresAt debe estar en el futuro")
	case exceeded != nil:
		return nil, exceeded
	case c.Unknown != "":
		return nil, domain.RefuseField("agentIds", "invalid_request", "there is no agent %s", "no existe el agente %s", c.Unknown)
	}
	return []Event{c.Issued}, nil
}

// describable refuses names and metadata that go beyond their bounds.
func describable(name string, metadata map[string]string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return domain.RefuseField("name", "invalid_request", "name must not be empty", "name no puede estar vacío")
	case utf8.RuneCountInString(name) > MaxNameLength:
		return domain.RefuseField("name", "invalid_request", "name must have at most %d characters", "name debe tener como máximo %d caracteres", MaxNameLength)
	case len(metadata) > MaxMetadata:
		return domain.RefuseField("metadata", "invalid_request", "metadata must have at most %d entries", "metadata debe tener como máximo %d entradas", MaxMetadata)
	}
	return nil
}

// networks refuses what is not a network that addresses can lie in. Those written as IPv4 in IPv6 are none: an address is
// always taken as what it stands for. Neither is one address with the length of its network: 203.0.113.7/24 lets 256 in, and
// whoever wrote it may have meant one.
func networks(ipAllow []string) error {
	for _, text := range ipAllow {
		network, err := netip.ParsePrefix(text)
		switch {
		case err != nil, network.Addr().Is4In6():
			return domain.RefuseField("ipAllow", "invalid_request", "ipAllow: %q is not a network in CIDR notation such as 203.0.113.0/24, or 203.0.113.7/32 for one address",
				"ipAllow: %q no es una red en notación CIDR como 203.0.113.0/24, o 203.0.113.7/32 para una sola dirección", text)
		case network != network.Masked():
			one := netip.PrefixFrom(network.Addr(), network.Addr().BitLen())
			return domain.RefuseField("ipAllow", "invalid_request", "ipAllow: %s is an address and not a network; write %s for the whole network, or %s for that address",
				"ipAllow: %s es una dirección y no una red; se escribe %s para toda la red, o %s para esa dirección", text, network.Masked(), one)
		}
	}
	return nil
}

func (c Describe) decide(s State) ([]Event, error) {
	if s.Account == "" || s.Account != c.Account {
		return nil, domain.Refuse("key_not_found", "there is no such key", "no existe esa clave")
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
	exceeded := c.Issuer.exceeds(s.grant())
	inGrace := 0
	for _, until := range s.Graces {
		if until.After(c.Now) {
			inGrace++
		}
	}
	switch {
	case s.Account == "" || s.Account != c.Account:
		return nil, domain.Refuse("key_not_found", "there is no such key", "no existe esa clave")
	case s.Secret == hex.EncodeToString(c.Hash):
		return nil, nil
	case s.Revoked:
		return nil, domain.Refuse("key_revoked", "a revoked key cannot be rotated; issue another", "una clave revocada no se puede rotar; hay que emitir otra")
	case exceeded != nil:
		return nil, exceeded
	case c.Grace < 0 || c.Grace > MaxGrace:
		return nil, domain.RefuseField("graceSeconds", "invalid_request", "graceSeconds must lie between 0 and %d", "graceSeconds debe estar entre 0 y %d", int(MaxGrace.Seconds()))
	case c.Grace > 0 && inGrace >= MaxEarlierSecrets:
		return nil, domain.RefuseField("graceSeconds", "invalid_request", "%d secrets are in their grace already; 0 ends them", "ya hay %d valores anteriores en su período de gracia; con 0 terminan", inGrace)
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
		return nil, domain.Refuse("key_not_found", "there is no such key", "no existe esa clave")
	case s.Revoked:
		return nil, nil
	}
	return []Event{Revoked{Reason: c.Reason}}, nil
}
