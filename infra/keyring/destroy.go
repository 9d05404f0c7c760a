package keyring

// This file stands behind the commit that says that something is to be forgotten: its keys are destroyed, for good.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Keys are made under a shared lock and destroyed under an exclusive one. Without it a key whose insert began before the
// destruction, and committed after it, would live on. The lock is taken by a statement of its own: one that waited for it
// would still look at what was there before.
const (
	lockClass   = 0x6e69646b // "nidk"
	destroyLock = 1
	// besideDestroy begins the transaction of an insert; also, its commit waits for the disk.
	besideDestroy = `SELECT set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock_shared($1, $2)`
)

// destroyGroup bounds how many owners one transaction is about: keys that are being made wait for it.
const destroyGroup = 1000

// Destroy destroys all keys of owners and leaves tombstones: of the keys, whose texts read as erased from then on, and of
// the owners, for whom no key is made any more. It is durable when it returns. It may be called again, at any time and for
// owners that were destroyed or never had a key; so whoever restores a keyring calls it for every owner that the log says
// was erased: the stream of every conversation.erased, and the account of every account.erased.
//
// Owners are destroyed a thousand at a time. Where it fails some may have been, and it is called again.
func (k *Keyring) Destroy(ctx context.Context, owners ...string) error {
	for len(owners) > 0 {
		group := owners[:min(len(owners), destroyGroup)]
		if err := k.destroy(ctx, group); err != nil {
			return fmt.Errorf("destroy data keys: %w", err)
		}
		owners = owners[len(group):]
	}
	return nil
}

func (k *Keyring) destroy(ctx context.Context, owners []string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	const (
		alone  = `SELECT set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock($1, $2)`
		owner  = `INSERT INTO destroyed_owners (owner) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING`
		update = `UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE owner = ANY($1::text[]) AND wrapped IS NOT NULL`
	)
	batch := &pgx.Batch{}
	batch.Queue(alone, int32(lockClass), int32(destroyLock))
	batch.Queue(owner, owners)
	batch.Queue(update, owners)
	return k.pool.SendBatch(ctx, batch).Close()
}

// Named lists the ids of all keys that owners have or had.
func (k *Keyring) Named(ctx context.Context, owners ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := k.pool.Query(ctx, `SELECT id FROM data_keys WHERE owner = ANY($1::text[])`, owners)
	if err != nil {
		return nil, fmt.Errorf("list data keys: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list data keys: %w", err)
	}
	return ids, nil
}
