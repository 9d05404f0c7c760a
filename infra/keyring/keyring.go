// Package keyring stands beside the log: personal text enters it sealed under data keys that live in Postgres, so that
// destroying a key makes the text unreadable everywhere it was ever copied to.
package keyring

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

var (
	// ErrMissingKey: a text names a key of which there is not even a tombstone. The keyring is older than the log, or
	// was lost; whoever folds must stop, since the text is not erased but out of reach.
	ErrMissingKey = errors.New("a data key is missing")
	// ErrDestroyed: the owner's keys have been destroyed, and no new one is made: what was erased stays so.
	ErrDestroyed = errors.New("the data key has been destroyed")
	// ErrTampered: a text or a key is not what was sealed, or belongs elsewhere.
	ErrTampered = errors.New("sealed data does not open")
	// ErrMasterKey: the master key is not the one that the data keys are wrapped with.
	ErrMasterKey = errors.New("the master key does not fit the keyring")
)

// queryTimeout bounds each question to Postgres, whatever time the caller has.
const queryTimeout = 5 * time.Second

// Keyring makes, finds and destroys data keys. It caches none: a key that was destroyed is gone for the next call on
// every node.
type Keyring struct {
	pool     *pgxpool.Pool
	wrapping cipher.AEAD
	index    []byte
	writer   writer
}

// storedKey is a row of data_keys.
type storedKey struct {
	ID        string
	Owner     string
	Wrapped   []byte
	Destroyed bool
}

// Find implements commands.Keyring. A key without a row is ErrMissingKey.
func (k *Keyring) Find(ctx context.Context, ids ...string) (map[string]commands.DataKey, map[string]bool, error) {
	keys, destroyed := map[string]commands.DataKey{}, map[string]bool{}
	if len(ids) == 0 {
		return keys, destroyed, nil
	}
	stored, err := k.read(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range stored {
		if row.Destroyed {
			destroyed[row.ID] = true
			continue
		}
		key, err := k.unwrap(row)
		if err != nil {
			return nil, nil, err
		}
		keys[row.ID] = key
	}
	for _, id := range ids {
		if keys[id] == nil && !destroyed[id] {
			return nil, nil, fmt.Errorf("find %s: %w", id, ErrMissingKey)
		}
	}
	return keys, destroyed, nil
}

// Open opens texts, their keys read by one query. Of a text whose key was destroyed, erased is true and plain is nil; a
// zero text is nil without being erased. A key without even a tombstone is ErrMissingKey, a changed text ErrTampered.
func (k *Keyring) Open(ctx context.Context, texts []domain.Sealed) (plain [][]byte, erased []bool, err error) {
	var ids []string
	named := map[string]bool{}
	for _, text := range texts {
		if !text.IsZero() && !named[text.Key] {
			named[text.Key] = true
			ids = append(ids, text.Key)
		}
	}
	keys, destroyed, err := k.Find(ctx, ids...)
	if err != nil {
		return nil, nil, err
	}
	plain, erased = make([][]byte, len(texts)), make([]bool, len(texts))
	for i, text := range texts {
		switch {
		case text.IsZero():
		case destroyed[text.Key]:
			erased[i] = true
		default:
			if plain[i], err = keys[text.Key].Open(text); err != nil {
				return nil, nil, err
			}
		}
	}
	return plain, erased, nil
}

// Unwrap makes a data key of what a query has read from data_keys together with other things.
func (k *Keyring) Unwrap(id string, wrapped []byte) (commands.DataKey, error) {
	key, _, err := k.unwrapOwned(id, wrapped)
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (k *Keyring) read(ctx context.Context, ids []string) ([]storedKey, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	const query = `SELECT id, owner, wrapped, wrapped IS NULL AS destroyed FROM data_keys WHERE id = ANY($1)`
	rows, err := k.pool.Query(ctx, query, ids)
	if err != nil {
		return nil, fmt.Errorf("read data keys: %w", err)
	}
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByName[storedKey])
	if err != nil {
		return nil, fmt.Errorf("read data keys: %w", err)
	}
	return stored, nil
}

// unwrap opens a row's key and makes sure that the row's owner is the one it was made for: erasing an owner must reach
// all of its keys.
func (k *Keyring) unwrap(row storedKey) (dataKey, error) {
	key, owner, err := k.unwrapOwned(row.ID, row.Wrapped)
	if err != nil {
		return dataKey{}, err
	}
	if owner != row.Owner {
		return dataKey{}, fmt.Errorf("unwrap %s: %w: it was made for another owner", row.ID, ErrTampered)
	}
	return key, nil
}
