package postgres

// This file stands behind the erasures that the log asks for: how far each of them has come, and what this database holds
// beside the read models of that which is to be forgotten.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

// takeUpLimit bounds how many erasures of a partition are taken up at a time.
const takeUpLimit = 5000

// Erasures is the ledger of the policy that carries erasures out. It implements commands.Erasures.
type Erasures struct {
	pool  *pgxpool.Pool
	asked projections.Erasures
}

// NewErasures keeps the ledger in a pool on the primary.
func NewErasures(pool *pgxpool.Pool) *Erasures {
	return &Erasures{pool: pool, asked: projections.NewErasures(pool)}
}

// TakeUp writes down what the log asks for and nobody has taken up yet.
func (s *Erasures) TakeUp(ctx context.Context) (int, error) {
	places, err := s.asked.Next(ctx, takeUpLimit)
	if err != nil || len(places) == 0 {
		return 0, err
	}
	const insert = `
		INSERT INTO nido.erasures (id, stream, account, requested_at)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
		ON CONFLICT (id) DO NOTHING`
	const mark = `
		INSERT INTO nido.erasure_marks AS m (part, off)
		SELECT part, max(off) FROM unnest($1::integer[], $2::bigint[]) AS p (part, off) GROUP BY part
		ON CONFLICT (part) DO UPDATE SET off = greatest(m.off, excluded.off)`
	var ids, streams, accounts []string
	var at []time.Time
	var parts []int32
	var offsets []int64
	for _, place := range places {
		ids, streams, accounts = append(ids, place.ID), append(streams, string(place.Stream)), append(accounts, place.Account)
		at, parts, offsets = append(at, place.RequestedAt), append(parts, place.Part), append(offsets, place.Off)
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, ids, streams, accounts, at); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, mark, parts, offsets)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("take up erasures: %w", err)
	}
	return len(places), nil
}

// Open lists what is not done, the oldest first.
func (s *Erasures) Open(ctx context.Context) ([]commands.Erasure, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, stream, account FROM nido.erasures WHERE done_at IS NULL ORDER BY requested_at`)
	if err != nil {
		return nil, fmt.Errorf("list open erasures: %w", err)
	}
	open, err := pgx.CollectRows(rows, pgx.RowToStructByPos[commands.Erasure])
	if err != nil {
		return nil, fmt.Errorf("list open erasures: %w", err)
	}
	return open, nil
}

// Backlog is what is to be forgotten and has not been.
type Backlog struct {
	Open   int64
	Oldest time.Duration // since it was asked for; 0 where nothing is open
}

// maxBacklog bounds, for each partition, what is counted that nobody has taken up.
const maxBacklog = 10_000

// Backlog counts what is not done, what nobody has taken up included: without a sweeper nobody does.
func (s *Erasures) Backlog(ctx context.Context) (Backlog, error) {
	const query = `
		SELECT count(*), coalesce(greatest(extract(epoch FROM clock_timestamp() - min(e.at)), 0), 0)::float8
		FROM (
			SELECT requested_at AS at FROM nido.erasures WHERE done_at IS NULL
			UNION ALL
			SELECT r.at FROM checkpoints c LEFT JOIN nido.erasure_marks m ON m.part = c.part
			CROSS JOIN LATERAL (
				SELECT at FROM erasures
				WHERE part = c.part AND off > coalesce(m.off, -1) AND NOT with_account
				ORDER BY off LIMIT $1
			) r
		) e`
	var open int64
	var oldest float64
	if err := s.pool.QueryRow(ctx, query, maxBacklog).Scan(&open, &oldest); err != nil {
		return Backlog{}, fmt.Errorf("count open erasures: %w", err)
	}
	return Backlog{Open: open, Oldest: time.Duration(oldest * float64(time.Second))}, nil
}

// Claim takes erasures that are not done for a time, those of accounts or those of conversations, the oldest first.
// Nobody else gets them meanwhile.
func (s *Erasures) Claim(ctx context.Context, accounts bool, limit int, lease time.Duration) ([]commands.Erasure, error) {
	const query = `
		UPDATE nido.erasures SET claimed_until = now() + $3::interval, attempts = attempts + 1
		WHERE id IN (
			SELECT id FROM nido.erasures
			WHERE done_at IS NULL AND claimed_until < now() AND (stream LIKE 'account-%') = $1
			ORDER BY requested_at LIMIT $2 FOR UPDATE SKIP LOCKED
		)
		RETURNING id, stream, account`
	rows, err := s.pool.Query(ctx, query, accounts, limit, lease)
	if err != nil {
		return nil, fmt.Errorf("claim erasures: %w", err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[commands.Erasure])
	if err != nil {
		return nil, fmt.Errorf("claim erasures: %w", err)
	}
	return claimed, nil
}

// Keep prolongs a claim.
func (s *Erasures) Keep(ctx context.Context, lease time.Duration, ids ...string) error {
	return s.change(ctx, `UPDATE nido.erasures SET claimed_until = now() + $2::interval WHERE id = ANY($1) AND done_at IS NULL`, ids, lease)
}

// Destroyed notes that the keys of erasures have been destroyed: from now on their texts can be read nowhere but where
// they stand in the open.
func (s *Erasures) Destroyed(ctx context.Context, ids ...string) error {
	return s.change(ctx, `UPDATE nido.erasures SET keys_destroyed_at = now() WHERE id = ANY($1) AND keys_destroyed_at IS NULL`, ids)
}

// Done notes that nothing is left.
func (s *Erasures) Done(ctx context.Context, ids ...string) error {
	return s.change(ctx, `UPDATE nido.erasures SET done_at = now(), error = '' WHERE id = ANY($1) AND done_at IS NULL`, ids)
}

// Failed gives erasures up for a while, longer each time up to half a minute.
func (s *Erasures) Failed(ctx context.Context, why error, ids ...string) error {
	const query = `
		UPDATE nido.erasures SET error = left($2, 500), claimed_until = now() + least(power(2, least(attempts, 10)), 30) * interval '1 second'
		WHERE id = ANY($1) AND done_at IS NULL`
	return s.change(ctx, query, ids, why.Error())
}

func (s *Erasures) change(ctx context.Context, query string, ids []string, args ...any) error {
	if _, err := s.pool.Exec(ctx, query, append([]any{ids}, args...)...); err != nil {
		return fmt.Errorf("note how far erasures have come: %w", err)
	}
	return nil
}

// unreadable drops the text of running turns whose keys have been destroyed.
const unreadable = `DELETE FROM turn_text t USING data_keys k WHERE k.id = t.data_key AND k.wrapped IS NULL`

// ForgetConversations drops what was kept to answer repetitions of requests in conversations, and the text of their
// running turns. Such a repetition is told that the conversation was erased.
func (s *Erasures) ForgetConversations(ctx context.Context, streams []string) error {
	const answers = `UPDATE idempotency SET response = '', response_key = '' WHERE owner = ANY($1) AND response <> ''`
	_, first := s.pool.Exec(ctx, answers, streams)
	_, second := s.pool.Exec(ctx, unreadable)
	if err := errors.Join(first, second); err != nil {
		return fmt.Errorf("drop answers and running text: %w", err)
	}
	return nil
}

// ForgetAccount drops all of an account's answers, for which nobody can ask any more, and the text of its running turns.
func (s *Erasures) ForgetAccount(ctx context.Context, account string) error {
	_, first := s.pool.Exec(ctx, `DELETE FROM idempotency WHERE account = $1`, account)
	_, second := s.pool.Exec(ctx, unreadable)
	if err := errors.Join(first, second); err != nil {
		return fmt.Errorf("drop an account's answers and running text: %w", err)
	}
	return nil
}

// Again has every erasure carried out once more that the log has ever asked for. A restore calls it, before any node
// starts: what it has brought back may be older than what had been erased.
func (s *Erasures) Again(ctx context.Context) error {
	_, marks := s.pool.Exec(ctx, `DELETE FROM nido.erasure_marks`)
	_, rows := s.pool.Exec(ctx, `DELETE FROM nido.erasures`)
	if err := errors.Join(marks, rows); err != nil {
		return fmt.Errorf("have everything erased again: %w", err)
	}
	return nil
}

// Unfinished lists accounts in which something is being erased, or has been since a time.
func (s *Erasures) Unfinished(ctx context.Context, since time.Time) ([]string, error) {
	const query = `
		SELECT DISTINCT r.account FROM erasures r LEFT JOIN nido.erasures n ON n.id = r.erasure
		WHERE n.done_at IS NULL OR n.done_at >= $1`
	rows, err := s.pool.Query(ctx, query, since)
	if err != nil {
		return nil, fmt.Errorf("list unfinished erasures: %w", err)
	}
	accounts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list unfinished erasures: %w", err)
	}
	return accounts, nil
}
