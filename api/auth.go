package api

// This file stands at the door: whose key it is, and whether it opens this route. A key whose checksum is wrong is refused
// without any look-up. The decision is always the primary's: nothing about keys is cached, so that a revoke holds on
// every node from its answer on.

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

// Callers finds who comes with a key.
type Callers interface {
	// Authenticate returns who a key's public id belongs to, or projections.ErrNotFound.
	Authenticate(ctx context.Context, publicID string) (projections.Caller, error)
}

// KeyUses notes when keys are used. It must not block.
type KeyUses interface {
	Used(publicID string, at time.Time)
}

// presented takes the key out of the request, whose form and checksum it checks.
func presented(r *http.Request) (apikey.Key, error) {
	header := r.Header.Get("Authorization")
	if len(r.Header.Values("Authorization")) > 1 { // whoever stands in front of us may have looked at the other one
		return apikey.Key{}, repeated("Authorization")
	}
	scheme, token, _ := strings.Cut(header, " ")
	if header == "" || !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
		return apikey.Key{}, problem("missing_api_key")
	}
	return apikey.Parse(strings.TrimSpace(token))
}

// present takes the key, and refuses one that cannot be one from memory.
func (s *Server) present(r *http.Request, op *operation) (err error) {
	if !op.open {
		exchangeOf(r).key, err = presented(r)
	}
	return err
}

// authenticate lets a caller in, or not. For chats it does nothing: everything comes with the one query that a turn needs
// anyway, and is checked by admit.
func (s *Server) authenticate(r *http.Request, op *operation) error {
	if op.open {
		return nil
	}
	x := exchangeOf(r)
	if op.chat && r.Header.Get(idempotencyHeader) == "" { // else the key must be known before the stored answer is
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
	defer cancel()
	caller, err := s.config.Callers.Authenticate(ctx, x.key.PublicID)
	if err != nil && !errors.Is(err, projections.ErrNotFound) {
		return err
	}
	return s.admit(r, op, caller)
}

// admit holds a key against what is known of it. A caller that was not found has no hash, and so no key that matches.
func (s *Server) admit(r *http.Request, op *operation, caller projections.Caller) error {
	x, now := exchangeOf(r), s.config.Clock()
	matches, until := opens(caller, x.key.Hash())
	if !matches {
		return problem("invalid_api_key")
	}
	x.caller, x.until = caller, until
	x.record.Account, x.record.KeyID = caller.Account, keyID(caller.PublicID)
	switch {
	case caller.RevokedAt != nil:
		return problem("revoked_api_key")
	case until != nil && !now.Before(*until), caller.ExpiresAt != nil && !now.Before(*caller.ExpiresAt):
		return problem("expired_api_key")
	case !fromAllowed(caller.IPAllow, x.client):
		return fromElsewhere(x.client)
	case caller.Suspended:
		return problem("account_suspended")
	case op.scope != "" && !caller.Grant().Has(op.scope):
		return &Problem{
			Code: "missing_scope", Details: map[string]any{"scope": string(op.scope)},
			English: fmt.Sprintf("The key lacks the scope %s, which this needs.", op.scope), Spanish: fmt.Sprintf("A la clave le falta el permiso %s, que esto necesita.", op.scope),
		}
	}
	s.config.KeyUses.Used(caller.PublicID, now)
	s.gates.known.met(x.key, now)
	return nil
}

// fromElsewhere tells a caller which address they are taken to come from: behind proxies it is not the one they think.
func fromElsewhere(client netip.Addr) *Problem {
	if !client.IsValid() {
		return &Problem{
			Code:    "ip_not_allowed",
			English: "The key may be used from some addresses only, and it cannot be told from which one this request comes.",
			Spanish: "La clave solo puede usarse desde ciertas direcciones, y no se sabe desde cuál llega esta solicitud.",
		}
	}
	return &Problem{
		Code: "ip_not_allowed", Details: map[string]any{"address": client.String()},
		English: fmt.Sprintf("The key may not be used from %s.", client), Spanish: fmt.Sprintf("La clave no puede usarse desde %s.", client),
	}
}

// opens reports whether a hash is one of the key's, and when the grace ends of the earlier secret that it is of.
func opens(caller projections.Caller, hash []byte) (matches bool, until *time.Time) {
	if subtle.ConstantTimeCompare(caller.Hash, hash) == 1 {
		return true, nil
	}
	for i, earlier := range caller.Earlier {
		if subtle.ConstantTimeCompare(earlier, hash) == 1 {
			return true, &caller.Graces[i]
		}
	}
	return false, nil
}

// grant is what the caller may hand out: what the key may do, for as long as the secret works that it came with.
func (x *exchange) grant() apikey.Grant {
	grant := x.caller.Grant()
	if x.until != nil && (grant.Expires.IsZero() || x.until.Before(grant.Expires)) {
		grant.Expires = *x.until
	}
	return grant
}

// fromAllowed reports whether an address lies within one of the prefixes; none means anywhere.
// An address that is not known lies in none.
func fromAllowed(prefixes []string, client netip.Addr) bool {
	return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && prefix.Contains(client)
	})
}

// reaches refuses an agent that the key is not bound to.
func reaches(x *exchange, agent string) error {
	if !x.caller.Grant().Reaches(agent) {
		return problem("agent_not_allowed")
	}
	return nil
}

// bound is the list of agents that the key is bound to, nil if it is bound to none.
func bound(x *exchange) []string {
	if len(x.caller.AgentIDs) == 0 {
		return nil
	}
	return x.caller.AgentIDs
}

// The API shows a key's public id behind a prefix, as it does with every other id.
const keyPrefix = "key_"

func keyID(publicID string) string { return keyPrefix + publicID }

func publicID(keyID string) (string, error) {
	id, ok := strings.CutPrefix(keyID, keyPrefix)
	if !ok {
		return "", problem("key_not_found")
	}
	return id, nil
}

// someTimeAt is nil for no time.
func someTimeAt(t *time.Time) *Timestamp {
	if t == nil {
		return nil
	}
	return someTime(*t)
}
