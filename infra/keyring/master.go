package keyring

// This file stands at start: what is derived from the master key, and whether it is the right one.

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What the master key is for. Each purpose has a key of its own; none tells anything about another.
const (
	purposeWrap  = "nido wrap"
	purposeIndex = "nido index"
	purposeCheck = "nido check"
)

// New opens the keyring of a database that has been migrated. A master key that is not 32 bytes long, or not the one
// that the database's data keys are wrapped with, is refused with ErrMasterKey.
func New(ctx context.Context, pool *pgxpool.Pool, masterKey []byte) (*Keyring, error) {
	if len(masterKey) != keyBytes {
		return nil, fmt.Errorf("%w: it has %d bytes instead of %d", ErrMasterKey, len(masterKey), keyBytes)
	}
	derived := map[string][]byte{}
	for _, purpose := range []string{purposeWrap, purposeIndex, purposeCheck} {
		key, err := hkdf.Key(sha256.New, masterKey, nil, purpose, keyBytes)
		if err != nil {
			return nil, fmt.Errorf("derive the key for %q: %w", purpose, err)
		}
		derived[purpose] = key
	}
	wrapping, err := newAEAD(derived[purposeWrap])
	if err != nil {
		return nil, fmt.Errorf("use the master key: %w", err)
	}
	k := &Keyring{pool: pool, wrapping: wrapping, index: derived[purposeIndex]}
	k.writer.pool = pool
	if err := k.check(ctx, derived[purposeCheck]); err != nil {
		return nil, err
	}
	return k, nil
}

// Index turns what a client calls its conversation into a part of a stream's name, from which nobody without the master
// key can tell what it was: lower-case base32 of the first 16 bytes of an HMAC-SHA256.
func (k *Keyring) Index(clientID string) string {
	mac := hmac.New(sha256.New, k.index)
	mac.Write([]byte(clientID))
	return lowerBase32.EncodeToString(mac.Sum(nil)[:16])
}

// check compares the master key with the one that the first node started with.
func (k *Keyring) check(ctx context.Context, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	stored, err := k.storedCheck(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		// A keyring that was restored without the check may hold keys nevertheless.
		if err := k.checkByKey(ctx); err != nil {
			return err
		}
		if _, err := k.pool.Exec(ctx, `INSERT INTO master_check (value) VALUES ($1) ON CONFLICT DO NOTHING`, value); err != nil {
			return fmt.Errorf("keep the master key's check: %w", err)
		}
		stored, err = k.storedCheck(ctx) // another node's, if it was first
	}
	if err != nil {
		return fmt.Errorf("read the master key's check: %w", err)
	}
	if subtle.ConstantTimeCompare(stored, value) != 1 {
		return fmt.Errorf("%w: this database was started with another one, without which its texts cannot be read", ErrMasterKey)
	}
	return nil
}

func (k *Keyring) storedCheck(ctx context.Context) (value []byte, err error) {
	err = k.pool.QueryRow(ctx, `SELECT value FROM master_check`).Scan(&value)
	return value, err
}

// checkByKey tries the master key on a data key, if there is one.
func (k *Keyring) checkByKey(ctx context.Context) error {
	var row storedKey
	err := k.pool.QueryRow(ctx, `SELECT id, owner, wrapped FROM data_keys WHERE wrapped IS NOT NULL LIMIT 1`).
		Scan(&row.ID, &row.Owner, &row.Wrapped)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a data key: %w", err)
	}
	if _, err := k.unwrap(row); err != nil {
		return fmt.Errorf("%w: it does not open the data keys that are there", ErrMasterKey)
	}
	return nil
}
