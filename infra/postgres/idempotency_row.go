package postgres

// This file stands between request and command: what an idempotency row holds, and how it is sealed.

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// idempotencyRow is what a run asks for.
type idempotencyRow struct {
	account, caller string
	keyHash         []byte
	fingerprint     []byte
	boot, run       string
}

func newRow(run Run, fingerprint []byte) idempotencyRow {
	// A client's key is mostly random, and only its hash is kept. Under it as an HMAC key, a fingerprint gives away
	// nothing about a short message, which a bare hash would to whoever tries all likely ones.
	mac := hmac.New(sha256.New, []byte(run.Key))
	mac.Write(fingerprint)
	return idempotencyRow{
		account: run.Account, caller: run.Caller, keyHash: hashKey(run.Key), fingerprint: mac.Sum(nil), boot: run.Boot, run: run.id(),
	}
}

// id names the run, also where it goes on with the seed of another.
func (r Run) id() string { return r.Proposed.ID("run") }

func hashKey(key string) []byte {
	hash := sha256.Sum256([]byte(key))
	return hash[:]
}

// foundRow is what an earlier run left.
type foundRow struct {
	Fingerprint []byte
	DataKey     string
	ResponseKey string
	Owner       string
	Seed        []byte
	Boot        *string
	Status      *int
	Response    []byte
	StartedAt   time.Time
	Expired     bool
	Alive       bool
}

func (f foundRow) matches(row idempotencyRow) bool {
	return f.Expired || hmac.Equal(f.Fingerprint, row.fingerprint)
}

// inputs opens what the first attempt gathered.
func (f foundRow) inputs(key commands.DataKey) (Attempt, error) {
	var attempt Attempt
	seed, err := key.Open(domain.Sealed{Key: f.DataKey, Data: f.Seed})
	if err != nil {
		return Attempt{}, fmt.Errorf("open the seed: %w", err)
	}
	if copy(attempt.Seed[:], seed) != len(attempt.Seed) || len(seed) != len(attempt.Seed) {
		return Attempt{}, fmt.Errorf("open the seed: it has %d bytes", len(seed))
	}
	return attempt, nil
}

// replay opens the answer, too.
func (s *Idempotency) replay(ctx context.Context, found foundRow, key commands.DataKey) (Attempt, error) {
	attempt, err := found.inputs(key)
	if err != nil {
		return Attempt{}, err
	}
	attempt.Replay = &Response{Status: *found.Status, Owner: found.Owner}
	if len(found.Response) == 0 {
		return attempt, ErrErased
	}
	opened, erased, err := s.keys.Open(ctx, []domain.Sealed{{Key: cmp.Or(found.ResponseKey, found.DataKey), Data: found.Response}})
	if err != nil {
		return Attempt{}, fmt.Errorf("open the response: %w", err)
	}
	if erased[0] {
		return attempt, ErrErased
	}
	var kept keptResponse
	if err := json.Unmarshal(opened[0], &kept); err != nil {
		return Attempt{}, fmt.Errorf("read the response: %w", err)
	}
	attempt.Replay.ContentType, attempt.Replay.Headers, attempt.Replay.Body = kept.ContentType, kept.Headers, kept.Body
	attempt.Replay.Began = found.StartedAt
	return attempt, nil
}

// keptResponse is the sealed part of an answer. The body is bytes: it is sent again as it was, not as JSON would have it.
type keptResponse struct {
	ContentType string            `json:"contentType"`
	Headers     map[string]string `json:"headers,omitempty"`
	Body        []byte            `json:"body"`
}

func sealResponse(key commands.DataKey, response Response) ([]byte, error) {
	plain, err := json.Marshal(keptResponse{ContentType: response.ContentType, Headers: response.Headers, Body: response.Body})
	if err != nil {
		return nil, fmt.Errorf("write the response: %w", err)
	}
	return key.Seal(plain).Data, nil
}
