package postgres

// This file stands before a busy conversation: who waits for it, counted for all nodes together.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
)

// waitersLock is the first half of the advisory locks that counting takes, one for each conversation.
const waitersLock = 11

// Waiters counts the messages that wait for conversations. It implements commands.Places.
type Waiters struct{ pool *pgxpool.Pool }

// NewWaiters gives the store its pool.
func NewWaiters(pool *pgxpool.Pool) *Waiters { return &Waiters{pool} }

// Take gives a waiter a place, if fewer than so many are taken. The statements go out together and are one transaction; the
// lock is gone with it.
func (s *Waiters) Take(ctx context.Context, conversation domain.StreamID, waiter string, places int, until time.Duration) (bool, error) {
	// The count must not be older than the lock: each statement has a snapshot of its own.
	const (
		lock   = `SELECT pg_advisory_xact_lock($1, hashtext($2))`
		expire = `DELETE FROM turn_waiters WHERE conversation = $1 AND until < clock_timestamp()`
		insert = `
			INSERT INTO turn_waiters (conversation, waiter, until)
			SELECT $1, $2, clock_timestamp() + $3::interval
			WHERE (SELECT count(*) FROM turn_waiters WHERE conversation = $1) < $4`
	)
	var batch pgx.Batch
	took := false
	batch.Queue(lock, waitersLock, string(conversation))
	batch.Queue(expire, string(conversation))
	batch.Queue(insert, string(conversation), waiter, until, places).Exec(func(tag pgconn.CommandTag) error {
		took = tag.RowsAffected() == 1
		return nil
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return false, fmt.Errorf("wait for a conversation: %w", err)
	}
	return took, nil
}

// Eldest is who came first of those who have a place.
func (s *Waiters) Eldest(ctx context.Context, conversation domain.StreamID) (waiter string, err error) {
	const query = `SELECT waiter FROM turn_waiters WHERE conversation = $1 AND until >= clock_timestamp() ORDER BY until, waiter LIMIT 1`
	err = s.pool.QueryRow(ctx, query, string(conversation)).Scan(&waiter)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("look who waits for a conversation: %w", err)
	}
	return waiter, nil
}

// Leave gives a place back.
func (s *Waiters) Leave(ctx context.Context, waiter string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM turn_waiters WHERE waiter = $1`, waiter); err != nil {
		return fmt.Errorf("give back a place before a conversation: %w", err)
	}
	return nil
}

// Sweep drops the places that dead nodes' waiters left, and answers how many there were.
func (s *Waiters) Sweep(ctx context.Context) (int64, error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM turn_waiters WHERE until < clock_timestamp()`)
	if err != nil {
		return 0, fmt.Errorf("sweep the places before conversations: %w", err)
	}
	return tag.RowsAffected(), nil
}
