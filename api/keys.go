package api

// This file stands between the routes of keys and their commands and queries.

import (
	"context"
	"net/http"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

// KeyCommands issues, rotates and revokes keys.
type KeyCommands interface {
	Issue(ctx context.Context, meta commands.Meta, in commands.IssueKey) (commands.IssuedKey, error)
	Rotate(ctx context.Context, meta commands.Meta, in commands.RotateKey) (commands.IssuedKey, error)
	Describe(ctx context.Context, meta commands.Meta, id string, name *string, metadata *map[string]string) error
	Revoke(ctx context.Context, meta commands.Meta, id, reason string) error
}

// KeyQueries reads keys.
type KeyQueries interface {
	Get(ctx context.Context, account, publicID string) (projections.Key, error)
	List(ctx context.Context, account string, page projections.Page) ([]projections.Key, *projections.Cursor, error)
}

// IssueKey implements ServerInterface.
func (s *Server) IssueKey(w http.ResponseWriter, r *http.Request, _ IssueKeyParams) {
	x := exchangeOf(r)
	in, err := decode[KeyIssue](x)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	scopes := make([]apikey.Scope, len(in.Scopes))
	for i, scope := range in.Scopes {
		scopes[i] = apikey.Scope(scope)
	}
	wanted := commands.IssueKey{
		Name: in.Name, Environment: string(or(in.Environment, KeyIssueEnvironmentLive)), Scopes: scopes, AgentIDs: or(in.AgentIds, nil),
		IPAllow: or(in.IPAllow, nil), Metadata: or(in.Metadata, nil), Issuer: x.grant(), IssuedBy: x.caller.PublicID,
	}
	if in.ExpiresAt != nil {
		wanted.ExpiresAt = in.ExpiresAt.UTC()
	}
	issued, err := s.config.KeyCommands.Issue(r.Context(), x.meta(r), wanted)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.config.Keys.Get(r.Context(), x.caller.Account, issued.ID)
	w.Header().Set("Location", "/api/keys/"+keyID(issued.ID))
	s.answer(w, r, http.StatusCreated, issuedKey(s.key(found), issued.Key), err)
}

// ListKeys implements ServerInterface.
func (s *Server) ListKeys(w http.ResponseWriter, r *http.Request, params ListKeysParams) {
	from, err := page(r, params.Limit, params.Cursor)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, next, err := s.config.Keys.List(r.Context(), exchangeOf(r).caller.Account, from)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	data := make([]Key, len(found))
	for i, one := range found {
		data[i] = s.key(one)
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, KeyList{Data: data, NextCursor: cursor}, err)
}

// GetKey implements ServerInterface.
func (s *Server) GetKey(w http.ResponseWriter, r *http.Request, id KeyID) {
	found, err := s.ownKey(r, id)
	s.answer(w, r, http.StatusOK, s.key(found), err)
}

// ownKey reads a key of the caller's account.
func (s *Server) ownKey(r *http.Request, id KeyID) (projections.Key, error) {
	public, err := publicID(id)
	if err != nil {
		return projections.Key{}, err
	}
	found, err := s.config.Keys.Get(r.Context(), exchangeOf(r).caller.Account, public)
	return found, notFoundAs(err, "key_not_found")
}

// DescribeKey implements ServerInterface. What the request does not name stays as it is.
func (s *Server) DescribeKey(w http.ResponseWriter, r *http.Request, id KeyID, _ DescribeKeyParams) {
	x := exchangeOf(r)
	in, err := decode[KeyPatch](x)
	var public string
	if err == nil {
		public, err = publicID(id)
	}
	if err == nil {
		err = s.config.KeyCommands.Describe(r.Context(), x.meta(r), public, in.Name, (*map[string]string)(in.Metadata))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.GetKey(w, r, id)
}

// RotateKey implements ServerInterface.
func (s *Server) RotateKey(w http.ResponseWriter, r *http.Request, id KeyID, _ RotateKeyParams) {
	x := exchangeOf(r)
	in, err := decode[KeyRotate](x)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.ownKey(r, id)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	rotated, err := s.config.KeyCommands.Rotate(r.Context(), x.meta(r), commands.RotateKey{
		ID: found.PublicID, Environment: found.Environment, Grace: time.Duration(or(in.GraceSeconds, 0)) * time.Second,
		Issuer: x.grant(), By: x.caller.PublicID,
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err = s.ownKey(r, id)
	s.answer(w, r, http.StatusOK, issuedKey(s.key(found), rotated.Key), err)
}

// RevokeKey implements ServerInterface.
func (s *Server) RevokeKey(w http.ResponseWriter, r *http.Request, id KeyID, _ RevokeKeyParams) {
	in, err := decode[Reason](exchangeOf(r))
	if err == nil {
		err = s.revoke(r, id, or(in.Reason, ""))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.GetKey(w, r, id)
}

// DeleteKey implements ServerInterface.
func (s *Server) DeleteKey(w http.ResponseWriter, r *http.Request, id KeyID, _ DeleteKeyParams) {
	s.done(w, r, s.revoke(r, id, ""))
}

func (s *Server) revoke(r *http.Request, id, reason string) error {
	public, err := publicID(id)
	if err != nil {
		return err
	}
	return s.config.KeyCommands.Revoke(r.Context(), exchangeOf(r).meta(r), public, reason)
}

// key shows what may be seen of a key.
func (s *Server) key(k projections.Key) Key {
	return Key{
		ID: keyID(k.PublicID), Name: k.Name, Environment: KeyEnvironment(k.Environment), Hint: apikey.Prefix + "…" + k.Hint,
		Scopes: scopesOut(k.Scopes), AgentIds: list(k.AgentIDs), IPAllow: list(k.IPAllow), Metadata: dictionary(k.Metadata),
		Status: s.keyStatus(k), ExpiresAt: someTimeAt(k.ExpiresAt), RevokedAt: someTimeAt(k.RevokedAt), CreatedAt: Timestamp(k.IssuedAt),
		RotatedAt: someTimeAt(k.RotatedAt), GraceUntil: s.graceUntil(k), LastUsedAt: someTimeAt(k.LastUsedAt),
	}
}

// graceUntil is when the last of the key's earlier secrets stops working, nil if none works.
func (s *Server) graceUntil(k projections.Key) *Timestamp {
	if n := len(k.Graces); n > 0 && k.Graces[n-1].After(s.config.Clock()) {
		return someTime(k.Graces[n-1])
	}
	return nil
}

func (s *Server) keyStatus(k projections.Key) KeyStatus {
	switch {
	case k.RevokedAt != nil:
		return KeyStatusRevoked
	case k.ExpiresAt != nil && !s.config.Clock().Before(*k.ExpiresAt):
		return KeyStatusExpired
	}
	return KeyStatusActive
}

// issuedKey is the one sight of a new key.
func issuedKey(k Key, text string) IssuedKey {
	return IssuedKey{
		ID: k.ID, Key: text, Name: k.Name, Environment: IssuedKeyEnvironment(k.Environment), Hint: k.Hint, Scopes: k.Scopes,
		AgentIds: k.AgentIds, IPAllow: k.IPAllow, Metadata: k.Metadata, Status: k.Status, ExpiresAt: k.ExpiresAt,
		RevokedAt: k.RevokedAt, CreatedAt: k.CreatedAt, RotatedAt: k.RotatedAt, GraceUntil: k.GraceUntil, LastUsedAt: k.LastUsedAt,
	}
}

func scopesOut(scopes []apikey.Scope) []Scope {
	out := make([]Scope, len(scopes))
	for i, scope := range scopes {
		out[i] = Scope(scope)
	}
	return out
}
