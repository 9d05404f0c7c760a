package keyring

// This file stands before the commit that first names a data key: the key is durable before that commit exists.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
)

// maxGroup bounds how many keys go into one insert.
const maxGroup = 500

// Create makes a data key for a stream or an account. It returns once the key is durable; calls that come while
// earlier ones are being written wait for that and are written together. An owner whose keys were destroyed gets none:
// ErrDestroyed.
func (k *Keyring) Create(ctx context.Context, owner string) (commands.DataKey, error) {
	key, row, err := k.make(owner)
	if err != nil {
		return nil, err
	}
	if err := k.writer.write(ctx, row); err != nil {
		return nil, fmt.Errorf("create a data key: %w", err)
	}
	return key, nil
}

// CreateAll makes a data key for each owner, all with one write, and returns their ids once they are durable.
func (k *Keyring) CreateAll(ctx context.Context, owners ...string) (ids []string, err error) {
	for group := range slices.Chunk(owners, maxGroup) {
		rows := make([]pending, len(group))
		for i, owner := range group {
			_, row, err := k.make(owner)
			if err != nil {
				return nil, err
			}
			rows[i].newRow = row
			ids = append(ids, row.id)
		}
		made, err := k.writer.insert(ctx, rows)
		switch {
		case err != nil:
			return nil, fmt.Errorf("create data keys: %w", err)
		case len(made) < len(group):
			return nil, fmt.Errorf("create data keys: %w", ErrDestroyed)
		}
	}
	return ids, nil
}

// ForOwner gives the one key that an owner has for everything of its own, and makes it at the first use. Nodes that do
// so at the same time get the same key. ErrDestroyed if it was destroyed.
func (k *Keyring) ForOwner(ctx context.Context, owner string) (commands.DataKey, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	stored, err := k.shared(ctx, owner)
	if errors.Is(err, pgx.ErrNoRows) {
		if err := k.makeShared(ctx, owner); err != nil {
			return nil, fmt.Errorf("create an owner's data key: %w", err)
		}
		stored, err = k.shared(ctx, owner) // ours, or that of whoever was first
	}
	if err != nil {
		return nil, fmt.Errorf("read an owner's data key: %w", err)
	}
	if stored.Destroyed {
		return nil, fmt.Errorf("use %s: %w", stored.ID, ErrDestroyed)
	}
	key, err := k.unwrap(stored)
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (k *Keyring) shared(ctx context.Context, owner string) (storedKey, error) {
	const query = `SELECT id, owner, wrapped, wrapped IS NULL AS destroyed FROM data_keys WHERE owner = $1 AND shared`
	rows, err := k.pool.Query(ctx, query, owner)
	if err != nil {
		return storedKey{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[storedKey])
}

func (k *Keyring) makeShared(ctx context.Context, owner string) error {
	_, row, err := k.make(owner)
	if err != nil {
		return err
	}
	const insert = `
		INSERT INTO data_keys (id, owner, wrapped, shared)
		SELECT $1::text, $2::text, $3::bytea, true
		WHERE NOT EXISTS (SELECT FROM destroyed_owners WHERE owner = $2)
		ON CONFLICT (owner) WHERE shared DO NOTHING`
	var destroyed bool
	batch := &pgx.Batch{}
	batch.Queue(besideDestroy, int32(lockClass), int32(destroyLock))
	batch.Queue(insert, row.id, row.owner, row.wrapped)
	batch.Queue(`SELECT EXISTS (SELECT FROM destroyed_owners WHERE owner = $1)`, row.owner).QueryRow(func(found pgx.Row) error {
		return found.Scan(&destroyed)
	})
	if err := k.pool.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if destroyed {
		return ErrDestroyed
	}
	return nil
}

// newRow is a key on its way into data_keys.
type newRow struct {
	id, owner string
	wrapped   []byte
}

func (k *Keyring) make(owner string) (dataKey, newRow, error) {
	// One text that Postgres cannot keep would fail all that are written with it.
	if owner == "" || !utf8.ValidString(owner) || strings.ContainsRune(owner, 0) {
		return dataKey{}, newRow{}, errors.New("a data key's owner is not a text")
	}
	id, secret := newKey()
	aead, err := newAEAD(secret)
	if err != nil {
		return dataKey{}, newRow{}, fmt.Errorf("make a data key: %w", err)
	}
	return dataKey{id: id, aead: aead}, newRow{id: id, owner: owner, wrapped: k.wrap(id, owner, secret)}, nil
}

// writer inserts keys in groups: while one insert is in flight, the keys that come are the next group. Under load the
// groups grow, and a lone key waits for nobody.
type writer struct {
	pool    *pgxpool.Pool
	mu      sync.Mutex
	waiting []pending
	writing bool
}

type pending struct {
	newRow
	done chan error // holds one
}

// write returns once the row is durable. A caller that gives up leaves a key that nothing names, which does no harm.
func (w *writer) write(ctx context.Context, row newRow) error {
	p := pending{newRow: row, done: make(chan error, 1)}
	w.mu.Lock()
	w.waiting = append(w.waiting, p)
	first := !w.writing
	w.writing = true
	w.mu.Unlock()
	if first {
		// The group is not only this caller's, so it must not end with this caller.
		go w.drain(context.WithoutCancel(ctx))
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drain writes group after group until nobody waits.
func (w *writer) drain(ctx context.Context) {
	for {
		w.mu.Lock()
		group := w.waiting[:min(len(w.waiting), maxGroup)]
		w.waiting = w.waiting[len(group):]
		if len(group) == 0 {
			w.waiting, w.writing = nil, false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		made, err := w.insert(ctx, group)
		for _, p := range group {
			if err == nil && !made[p.id] {
				p.done <- ErrDestroyed
				continue
			}
			p.done <- err
		}
	}
}

// insert writes one group in one transaction, but for keys of owners that have been destroyed. Whatever the server's
// default, its answer means durable.
func (w *writer) insert(ctx context.Context, group []pending) (made map[string]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	ids, owners, wrapped := make([]string, len(group)), make([]string, len(group)), make([][]byte, len(group))
	for i, p := range group {
		ids[i], owners[i], wrapped[i] = p.id, p.owner, p.wrapped
	}
	const insert = `
		INSERT INTO data_keys (id, owner, wrapped)
		SELECT key.id, key.owner, key.wrapped
		FROM unnest($1::text[], $2::text[], $3::bytea[]) AS key (id, owner, wrapped)
		WHERE NOT EXISTS (SELECT FROM destroyed_owners d WHERE d.owner = key.owner)
		RETURNING id`
	made = make(map[string]bool, len(group))
	batch := &pgx.Batch{}
	batch.Queue(besideDestroy, int32(lockClass), int32(destroyLock))
	batch.Queue(insert, ids, owners, wrapped).Query(func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			made[id] = true
			return nil
		})
		return err
	})
	return made, w.pool.SendBatch(ctx, batch).Close()
}
