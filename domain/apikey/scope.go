package apikey

// This file stands at the decision: what a key may do, and what it may hand on.

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nidohq/nido/domain"
)

// Scope is one thing that a key may do.
type Scope string

// The scopes. Admin implies every other and is the only one that reaches beyond its account.
const (
	Chat               Scope = "chat"
	AgentsRead         Scope = "agents:read"
	AgentsWrite        Scope = "agents:write"
	KeysRead           Scope = "keys:read"
	KeysWrite          Scope = "keys:write"
	ConversationsRead  Scope = "conversations:read"
	ConversationsWrite Scope = "conversations:write"
	LogsRead           Scope = "logs:read"
	StatsRead          Scope = "stats:read"
	WebhooksRead       Scope = "webhooks:read"
	WebhooksWrite      Scope = "webhooks:write"
	AccountWrite       Scope = "account:write"
	Admin              Scope = "admin"
)

// Scopes lists every scope, in the order in which the documentation names them.
var Scopes = []Scope{
	Chat, AgentsRead, AgentsWrite, KeysRead, KeysWrite, ConversationsRead, ConversationsWrite, LogsRead, StatsRead,
	WebhooksRead, WebhooksWrite, AccountWrite, Admin,
}

// AccountScopes are all scopes but Admin: what the first key of a new account has.
func AccountScopes() []Scope {
	return slices.DeleteFunc(slices.Clone(Scopes), func(s Scope) bool { return s == Admin })
}

// Grant is what a key may do.
type Grant struct {
	Scopes   []Scope
	AgentIDs []string  // it is bound to these; none means all of the account
	IPAllow  []string  // prefixes that it may come from; none means anywhere
	Expires  time.Time // zero means never
}

// Has reports whether the grant includes a scope.
func (g Grant) Has(scope Scope) bool {
	return slices.Contains(g.Scopes, scope) || slices.Contains(g.Scopes, Admin)
}

// Reaches reports whether the grant includes an agent.
func (g Grant) Reaches(agentID string) bool {
	return len(g.AgentIDs) == 0 || slices.Contains(g.AgentIDs, agentID)
}

// exceeds refuses a wanted grant that goes beyond g, naming the first field in which it does.
func (g Grant) exceeds(wanted Grant) error {
	refuse := func(field, english, spanish string, args ...any) error {
		return domain.RefuseField(field, "grant_exceeded", "a key cannot hand out more than it has itself: "+english, "una clave no puede otorgar más de lo que tiene: "+spanish, args...)
	}
	for _, scope := range wanted.Scopes {
		if !g.Has(scope) {
			return refuse("scopes", "%s", "%s", scope)
		}
	}
	if len(g.AgentIDs) > 0 && len(wanted.AgentIDs) == 0 {
		return refuse("agentIds", "every agent, since agentIds is empty; it is bound to some", "todos los agentes, porque agentIds está vacío; ella está limitada a algunos")
	}
	for _, id := range wanted.AgentIDs {
		if !g.Reaches(id) {
			return refuse("agentIds", "%s", "%s", id)
		}
	}
	if len(g.IPAllow) > 0 && len(wanted.IPAllow) == 0 {
		return refuse("ipAllow", "every address, since ipAllow is empty; it is bound to some networks", "todas las direcciones, porque ipAllow está vacío; ella está limitada a algunas redes")
	}
	for _, network := range wanted.IPAllow {
		if !g.allows(network) {
			return refuse("ipAllow", "%s", "%s", network)
		}
	}
	if !g.Expires.IsZero() && (wanted.Expires.IsZero() || wanted.Expires.After(g.Expires)) {
		return refuse("expiresAt", "it ends at %s", "ella vence el %s", g.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// allows reports whether every address of a network may be come from.
func (g Grant) allows(network string) bool {
	inner, err := netip.ParsePrefix(network)
	return len(g.IPAllow) == 0 || err == nil && slices.ContainsFunc(g.IPAllow, func(own string) bool {
		outer, err := netip.ParsePrefix(own)
		return err == nil && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
	})
}
