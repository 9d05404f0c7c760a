package postgres

// This file stands between request and command: a request that carries an Idempotency-Key happens once, however often it
// is sent and whichever node dies over it.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/keyring"
)

var (
	// ErrFingerprint: the key was used before, for another request.
	ErrFingerprint = errors.New("the idempotency key belongs to another request")
	// ErrInFlight: another attempt at the same request is under way.
	ErrInFlight = errors.New("the request with this idempotency key is in flight")
	// ErrErased: the answer was that of a conversation which has been erased since. What is left of it is its owner.
	ErrErased = errors.New("the answer has been erased")
	// ErrTakenOver: another run finishes the request, or has finished it; its answer is the one that is kept.
	ErrTakenOver = errors.New("the request was taken over")
)

// maxBegins bounds how often Begin looks again because the row changed between two looks.
const maxBegins = 8

// Idempotency keeps the requests that carried an Idempotency-Key, for 24 hours.
type Idempotency struct {
	pool *pgxpool.Pool
	keys AccountKeys
}

// AccountKeys gives the one data key of an account, which seals the inputs and the answers of its requests, or of a
// conversation, which seals the answers that tell what was said in it.
type AccountKeys interface {
	ForOwner(ctx context.Context, owner string) (commands.DataKey, error)
	Open(ctx context.Context, texts []domain.Sealed) (plain [][]byte, erased []bool, err error)
}

// Run is one try at a request. Account, caller and key name the request.
type Run struct {
	Account, Caller, Key string
	Boot                 string          // of the process that works on it
	Proposed             commands.Inputs // no other run's, so that they tell it from all others
}

// Attempt is what a run works with once it has begun.
type Attempt struct {
	Seed   [32]byte
	Replay *Response // the answer, where an earlier attempt finished: there is nothing to do but to send it again
	Fresh  bool      // nobody has tried before; otherwise the seed is that of the attempt that was given up
}

// Response is an answer as it was sent.
type Response struct {
	Status      int
	ContentType string
	Headers     map[string]string
	Body        []byte
	// Began is when the request did that was answered so. It names the answer among those that the same key may get, one after
	// the other; the store sets it.
	Began time.Time
	Owner string // the stream of the conversation whose texts are in it; empty for none
}

// NewIdempotency gives the store its pool and its keys.
func NewIdempotency(pool *pgxpool.Pool, keys AccountKeys) *Idempotency {
	return &Idempotency{pool: pool, keys: keys}
}

// Begin starts an attempt at a request, with the proposed seed and time if it is the first. It fails with ErrFingerprint
// or ErrInFlight. A row whose boot has not beaten for 30 s, by the database's clock, is taken over: its boot is dead, or
// so slow that its commands will be found committed, since they have the same ids. Boots must beat before they begin.
func (s *Idempotency) Begin(ctx context.Context, run Run, fingerprint []byte) (Attempt, error) {
	dataKey, err := s.keys.ForOwner(ctx, run.Account)
	if err != nil {
		return Attempt{}, fmt.Errorf("begin an idempotent request: %w", err)
	}
	row := newRow(run, fingerprint)
	for range maxBegins {
		fresh, err := s.insert(ctx, row, dataKey, run.Proposed)
		if err != nil {
			return Attempt{}, fmt.Errorf("begin an idempotent request: %w", err)
		}
		if fresh {
			return Attempt{Seed: run.Proposed.Seed, Fresh: true}, nil
		}
		attempt, settled, err := s.continued(ctx, row, dataKey)
		if err != nil {
			return attempt, fmt.Errorf("continue an idempotent request: %w", err)
		}
		if settled {
			return attempt, nil
		}
	}
	return Attempt{}, ErrInFlight // others keep taking it
}

// insert claims the key if nobody has it, or if who had it has expired.
func (s *Idempotency) insert(ctx context.Context, row idempotencyRow, key commands.DataKey, proposed commands.Inputs) (fresh bool, err error) {
	const query = `
		INSERT INTO idempotency AS old (account, caller, key_hash, fingerprint, data_key, seed, now, boot, run, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + interval '24 hours')
		ON CONFLICT (account, caller, key_hash) DO UPDATE SET
			fingerprint = excluded.fingerprint, data_key = excluded.data_key, seed = excluded.seed, now = excluded.now,
			boot = excluded.boot, run = excluded.run, started_at = excluded.started_at, expires = excluded.expires,
			finished_at = NULL, status = NULL, response = NULL, owner = '', response_key = ''
		WHERE old.expires <= now()`
	tag, err := s.pool.Exec(ctx, query, row.account, row.caller, row.keyHash, row.fingerprint, key.ID(),
		key.Seal(proposed.Seed[:]).Data, proposed.Now, row.boot, row.run)
	return tag.RowsAffected() == 1, err
}

// continued looks at the row that is there: it replays it, refuses, or takes it over. It is not settled if the row
// changed meanwhile.
func (s *Idempotency) continued(ctx context.Context, row idempotencyRow, key commands.DataKey) (attempt Attempt, settled bool, err error) {
	found, err := s.find(ctx, row)
	if errors.Is(err, pgx.ErrNoRows) {
		return Attempt{}, false, nil // swept since
	}
	if err != nil {
		return Attempt{}, false, err
	}
	switch {
	case !found.matches(row):
		return Attempt{}, false, ErrFingerprint
	case found.Expired:
		return Attempt{}, false, nil
	case found.Status != nil:
		attempt, err := s.replay(ctx, found, key)
		return attempt, err == nil, err
	case found.Boot != nil && (*found.Boot == row.boot || found.Alive):
		return Attempt{}, false, ErrInFlight
	}
	const query = `
		UPDATE idempotency SET boot = $4, run = $7
		WHERE account = $1 AND caller = $2 AND key_hash = $3
		  AND boot IS NOT DISTINCT FROM $5 AND started_at = $6 AND finished_at IS NULL AND expires > now()`
	tag, err := s.pool.Exec(ctx, query, row.account, row.caller, row.keyHash, row.boot, found.Boot, found.StartedAt, row.run)
	if err != nil || tag.RowsAffected() == 0 {
		return Attempt{}, false, err // somebody else was quicker
	}
	attempt, err = found.inputs(key)
	return attempt, err == nil, err
}

func (s *Idempotency) find(ctx context.Context, row idempotencyRow) (foundRow, error) {
	const query = `
		SELECT i.fingerprint, i.data_key, i.response_key, i.owner, i.seed, i.boot, i.status, i.response, i.started_at,
		       i.expires <= now() AS expired,
		       COALESCE(b.beaten_at > now() - interval '30 seconds', false) AS alive
		FROM idempotency i LEFT JOIN boots b ON b.id = i.boot
		WHERE i.account = $1 AND i.caller = $2 AND i.key_hash = $3`
	rows, err := s.pool.Query(ctx, query, row.account, row.caller, row.keyHash)
	if err != nil {
		return foundRow{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[foundRow])
}

// Finish keeps the answer for retries. ErrTakenOver says that this run no longer counts. The answer is sealed with its
// owner's key, if it has an owner: it is erased with it, and is not kept where that has happened already.
func (s *Idempotency) Finish(ctx context.Context, run Run, response Response) error {
	owner := response.Owner
	if owner == "" {
		owner = run.Account
	}
	dataKey, err := s.keys.ForOwner(ctx, owner)
	erased := errors.Is(err, keyring.ErrDestroyed)
	if err != nil && !erased {
		return fmt.Errorf("finish an idempotent request: %w", err)
	}
	sealed, id := []byte{}, ""
	if !erased {
		if sealed, err = sealResponse(dataKey, response); err != nil {
			return fmt.Errorf("finish an idempotent request: %w", err)
		}
		id = dataKey.ID()
	}
	const query = `
		UPDATE idempotency SET finished_at = now(), status = $6, response = $7, owner = $8, response_key = $9
		WHERE account = $1 AND caller = $2 AND key_hash = $3 AND boot = $4 AND run = $5 AND finished_at IS NULL`
	return s.own(ctx, query, run, response.Status, sealed, response.Owner, id)
}

// Abandon frees the request for a retry with the same seed: the run came to nothing that should be kept. ErrTakenOver says
// that this run does not have it, or not yet: where Begin failed, the row may come later, since a statement that waits for the
// disk goes on without its client.
func (s *Idempotency) Abandon(ctx context.Context, run Run) error {
	const query = `
		UPDATE idempotency SET boot = NULL
		WHERE account = $1 AND caller = $2 AND key_hash = $3 AND boot = $4 AND run = $5 AND finished_at IS NULL`
	return s.own(ctx, query, run)
}

// Forget drops the request, and its answer if it has one: it came to nothing for good, and the next one with this key is a
// new one. ErrTakenOver says that this run does not have it.
func (s *Idempotency) Forget(ctx context.Context, run Run) error {
	const query = `DELETE FROM idempotency WHERE account = $1 AND caller = $2 AND key_hash = $3 AND boot = $4 AND run = $5`
	return s.own(ctx, query, run)
}

// ForgetAnswer drops an answer that was replayed, whichever run gave it, unless another request has taken its place: the
// next one with this key is a new one.
func (s *Idempotency) ForgetAnswer(ctx context.Context, run Run, answer Response) error {
	const query = `
		DELETE FROM idempotency
		WHERE account = $1 AND caller = $2 AND key_hash = $3 AND started_at = $4 AND finished_at IS NOT NULL`
	if _, err := s.pool.Exec(ctx, query, run.Account, run.Caller, hashKey(run.Key), answer.Began); err != nil {
		return fmt.Errorf("forget an idempotent request's answer: %w", err)
	}
	return nil
}

// own runs an update that only the run which has the row may do: it may come late, when its outcome was not heard of, and
// meet the next one of the same boot.
func (s *Idempotency) own(ctx context.Context, query string, run Run, args ...any) error {
	tag, err := s.pool.Exec(ctx, query, append([]any{run.Account, run.Caller, hashKey(run.Key), run.Boot, run.id()}, args...)...)
	if err != nil {
		return fmt.Errorf("end an idempotent request: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrTakenOver
	}
	return nil
}

// Sweep deletes what has expired, a thousand rows at a time, and answers how many there were.
func (s *Idempotency) Sweep(ctx context.Context) (int64, error) {
	const query = `
		DELETE FROM idempotency WHERE (account, caller, key_hash) IN (
			SELECT account, caller, key_hash FROM idempotency WHERE expires <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED)`
	var swept int64
	for {
		tag, err := s.pool.Exec(ctx, query)
		if err != nil {
			return swept, fmt.Errorf("sweep idempotency rows: %w", err)
		}
		swept += tag.RowsAffected()
		if tag.RowsAffected() < 1000 {
			return swept, nil
		}
	}
}
