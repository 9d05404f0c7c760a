package requestlog

// This file stands before Kafka: entries lose their secrets, and their personal half is sealed.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/projections"
)

const (
	// keyMemory is how long an owner's key is used without asking again. Sealing with a key that was destroyed
	// meanwhile does no harm: nobody can open the text.
	keyMemory = time.Minute
	// maxKnownKeys bounds the memory; past it everything is asked again.
	maxKnownKeys = 10_000
	// maxTextBytes and maxHeaderBytes bound what clients choose besides bodies.
	maxTextBytes   = 4 << 10
	maxHeaderBytes = 24 << 10
)

// sealer seals with the key that an entry brings, else that of its owner, else that of its account. Only the queue's
// worker uses it.
type sealer struct {
	keys     Keys
	patience time.Duration
	maxBody  int
	known    map[string]knownKey
}

// knownKey is an owner's key; none where the owner's texts are to be forgotten.
type knownKey struct {
	projections.Sealer
	until time.Time
}

func newSealer(keys Keys, config Config) *sealer {
	return &sealer{keys: keys, patience: config.KeyPatience, maxBody: config.MaxBodyBytes, known: map[string]knownKey{}}
}

// seal divides entries and seals one half of each. Without a key in time an entry goes without that half, rather than
// hold up the others or travel in the open.
func (s *sealer) seal(ctx context.Context, requests []projections.Request, log *slog.Logger) ([]entry, [][]byte, error) {
	entries, sealed := make([]entry, len(requests)), make([][]byte, len(requests))
	patience, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	naked := 0
	for i, request := range requests {
		request = s.redact(request)
		e, half := split(request)
		if request.Account == "" {
			half.Request, half.Response = nil, nil
			e.Open = &half
			entries[i] = e
			continue
		}
		key, err := s.key(patience, request)
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if err != nil {
			naked++
		}
		if key == nil {
			entries[i] = e
			continue
		}
		plain, err := half.plain(request.RequestBody.Text, request.ResponseBody.Text)
		if err != nil {
			return nil, nil, err
		}
		text := key.Seal(plain)
		e.DataKey, e.SealedBytes = text.Key, len(text.Data)
		entries[i], sealed[i] = e, text.Data
	}
	if naked > 0 {
		log.ErrorContext(ctx, "entries of the request log go without bodies: their data keys could not be had", "entries", naked)
	}
	return entries, sealed, nil
}

// redact takes out what the log must not keep, before anything is cut: half a key would not be known as one.
func (s *sealer) redact(r projections.Request) projections.Request {
	r.Path = clip(projections.RedactText(r.Path), maxTextBytes)
	r.Query = clip(projections.RedactText(r.Query), maxTextBytes)
	r.UserAgent = clip(r.UserAgent, maxTextBytes)
	r.RequestHeaders, r.ResponseHeaders = clipHeaders(r.RequestHeaders), clipHeaders(r.ResponseHeaders)
	r.RequestBody, r.ResponseBody = s.redactBody(r.RequestBody), s.redactBody(r.ResponseBody)
	return r
}

// clip bounds a text.
func clip(text string, bytes int) string {
	return strings.ToValidUTF8(text[:min(len(text), bytes)], "")
}

// clipHeaders bounds a header: a bundle with the largest entry must still fit into a record.
func clipHeaders(headers []projections.Header) []projections.Header {
	left := maxHeaderBytes
	for i, header := range headers {
		if left -= len(header.Name) + len(header.Value); left < 0 {
			return append(slices.Clone(headers[:i]), projections.Header{Name: "X-Nido-Truncated", Value: "true"})
		}
	}
	return headers
}

func (s *sealer) redactBody(b projections.Body) projections.Body {
	b.Bytes = max(b.Bytes, int64(len(b.Text)))
	b.Text = projections.RedactBody(b.Text)
	if len(b.Text) > s.maxBody {
		b.Text, b.Truncated = b.Text[:s.maxBody], true
	}
	return b
}

// key finds the key of an entry, and tries until patience ends. It is nil without an error where the owner's key has
// been destroyed: such an owner's texts are to be forgotten.
func (s *sealer) key(patience context.Context, r projections.Request) (projections.Sealer, error) {
	if r.Sealer != nil {
		return r.Sealer, nil
	}
	owner := r.Owner
	if owner == "" {
		owner = r.Account
	}
	if known, ok := s.known[owner]; ok && time.Now().Before(known.until) {
		return known.Sealer, nil
	}
	for backoff := firstBackoff; ; backoff = min(2*backoff, longestBackoff) {
		key, err := s.keys.ForOwner(patience, owner)
		switch {
		case errors.Is(err, keyring.ErrDestroyed):
			s.remember(owner, nil)
			return nil, nil
		case err == nil:
			s.remember(owner, key)
			return key, nil
		}
		if wait(patience, backoff) != nil {
			return nil, fmt.Errorf("find the data key of an entry: %w", err)
		}
	}
}

func (s *sealer) remember(owner string, key projections.Sealer) {
	if len(s.known) >= maxKnownKeys {
		clear(s.known)
	}
	s.known[owner] = knownKey{Sealer: key, until: time.Now().Add(keyMemory)}
}
