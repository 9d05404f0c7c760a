package projections

// This file stands at the fold: one batch of the log becomes one transaction.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
)

// ErrFenced says that the batch does not follow the checkpoint: another projector has moved it, or the batch was
// delivered before. Nothing was written; seek to the checkpoint and go on from there.
var ErrFenced = errors.New("the batch does not follow the checkpoint")

// Unreadable is a record that cannot be folded. Everything before it has been; it stops the partition until an operator
// skips it or a binary comes that can read it. It wraps domain.ErrUndecodable.
type Unreadable struct {
	domain.Position
	Err error
}

func (u *Unreadable) Error() string {
	return fmt.Sprintf("record %d:%d: %v", u.Partition, u.Offset, u.Err)
}

// Unwrap returns the cause.
func (u *Unreadable) Unwrap() error { return u.Err }

// progressChannel is where every applied batch is announced.
const progressChannel = "nido_progress"

// maxAnnounced is how many rejected offsets an announcement lists; the payload must stay below 8,000 bytes.
const maxAnnounced = 300

// rollbackPatience bounds the tidying up after a failed batch; a connection that takes longer is thrown away.
const rollbackPatience = time.Second

// applyPatience bounds one batch, which takes milliseconds. A server that vanished without a word, with its address taken
// over by another, would hold the fold until the network's own patience ends, a quarter of an hour.
const applyPatience = 15 * time.Second

// erasePatience is that of a batch in which a conversation is erased: it may drop a million messages.
const erasePatience = 5 * time.Minute

func patience(batch []domain.Recorded) time.Duration {
	for _, record := range batch {
		for _, event := range record.Events {
			if event.Type == eraseEvent {
				return erasePatience
			}
		}
	}
	return applyPatience
}

// announcement is the payload of the notification: the batch covers the offsets first to last, gaps included.
type announcement struct {
	Schema    string  `json:"s"`
	Partition int32   `json:"p"`
	First     int64   `json:"f"`
	Last      int64   `json:"l"`
	Rejected  []int64 `json:"r"` // null means too many: look into rejections
}

// Apply folds a batch of one partition in one transaction, if the checkpoint stands at after (-1 for the empty read
// model), and moves it to the batch's last record. It returns ErrFenced if the checkpoint stands elsewhere, *Unreadable
// if a record cannot be folded.
func (p *Postgres) Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	if len(batch) == 0 {
		return nil
	}
	if err := checkOrder(partition, after, batch); err != nil {
		return fmt.Errorf("fold partition %d: %w", partition, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience(batch))
	defer cancel()
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("fold %d:%d-%d: %w", partition, batch[0].Offset, batch[len(batch)-1].Offset, err)
	}
	defer conn.Release()
	err = p.apply(ctx, conn, partition, after, batch)
	if unreadable, ok := errors.AsType[*Unreadable](err); ok {
		return unreadable
	}
	if err != nil {
		return fmt.Errorf("fold %d:%d-%d: %w", partition, batch[0].Offset, batch[len(batch)-1].Offset, err)
	}
	return nil
}

// checkOrder refuses a batch that goes back, or behind the checkpoint. Gaps are the consumer's business: it knows which
// records were skipped.
func checkOrder(partition int32, after int64, batch []domain.Recorded) error {
	for _, record := range batch {
		if record.Partition != partition {
			return fmt.Errorf("%w: record %d:%d is of another partition", ErrFenced, record.Partition, record.Offset)
		}
		if record.Offset <= after {
			return fmt.Errorf("%w: record %d does not follow %d", ErrFenced, record.Offset, after)
		}
		after = record.Offset
	}
	return nil
}

// apply takes two round trips: one that locks the checkpoint and reads the streams, one that writes everything.
func (p *Postgres) apply(ctx context.Context, conn *pgxpool.Conn, partition int32, after int64, batch []domain.Recorded) (err error) {
	defer func() {
		if _, unreadable := errors.AsType[*Unreadable](err); err != nil && !unreadable {
			abandon(ctx, conn)
		}
	}()
	clock, standing, err := p.begin(ctx, conn, partition, max(after, -1), batch)
	if err != nil {
		return err
	}
	work := newWork(p.folders, standing, clock)
	var unreadable error
	for i, record := range batch {
		if unreadable = work.fold(record); unreadable != nil {
			batch = batch[:i] // what comes before is good, and somebody waits for it
			break
		}
	}
	if len(batch) == 0 {
		abandon(ctx, conn)
		return unreadable
	}
	if err := p.finish(ctx, conn, work, partition, max(after, -1), batch); err != nil {
		return err
	}
	return unreadable
}

// begin opens the transaction, makes sure that the checkpoint stands at after and locks it, and reads the streams.
func (p *Postgres) begin(ctx context.Context, conn *pgxpool.Conn, partition int32, after int64, batch []domain.Recorded) (clock time.Time, standing map[domain.StreamID]*stream, err error) {
	// Every statement of a fold looks rows up by their keys. Plans are kept for the connection's life, and one that was made
	// while the tables were small would read all of a large one.
	const byKey = `
		SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
			set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)`
	const first = `
		INSERT INTO checkpoints (part, off, hash, clock) VALUES ($1, -1, '', '0001-01-01 00:00:00+00')
		ON CONFLICT (part) DO NOTHING`
	// The lock makes a concurrent projector wait here, and see the moved checkpoint afterwards. The fingerprint keeps a
	// process of another version from folding into tables that have been replaced under it.
	const lock = `
		SELECT clock FROM checkpoints
		WHERE part = $1 AND off = $2 AND (SELECT fingerprint FROM generation) = $3
		FOR UPDATE`
	const read = `SELECT stream, version, state FROM streams WHERE stream = ANY($1)`

	standing = make(map[domain.StreamID]*stream, len(batch))
	ids := make([]string, 0, len(batch))
	for _, record := range batch {
		if record.Skipped {
			continue
		}
		if _, seen := standing[record.Stream]; !seen && storable(string(record.Stream)) {
			standing[record.Stream] = &stream{}
			ids = append(ids, string(record.Stream))
		}
	}
	fenced := fmt.Errorf("%w: it is not at %d, or the tables were replaced", ErrFenced, after)
	statements := &pgx.Batch{}
	statements.Queue(`BEGIN`)
	statements.Queue(byKey)
	if after < 0 {
		statements.Queue(first, partition)
	}
	statements.Queue(lock, partition, after, p.fingerprint).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&clock)
		if errors.Is(err, pgx.ErrNoRows) {
			return fenced
		}
		return err
	})
	statements.Queue(read, ids).Query(func(rows pgx.Rows) error {
		var id string
		var version int64
		var state []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &version, &state}, func() error {
			found := standing[domain.StreamID(id)]
			found.version, found.stored = domain.Version(version), state
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, statements).Close(); err != nil {
		return clock, nil, fmt.Errorf("read what the batch is about: %w", err)
	}
	return clock, standing, nil
}

// finish writes what the batch came to, moves the checkpoint, tells whoever waits, and commits.
func (p *Postgres) finish(ctx context.Context, conn *pgxpool.Conn, work *work, partition int32, after int64, batch []domain.Recorded) error {
	const move = `UPDATE checkpoints SET off = $2, hash = $3, clock = $4 WHERE part = $1`
	const announce = `SELECT pg_notify($1, $2)`

	last := batch[len(batch)-1]
	statements := &pgx.Batch{}
	if err := work.write(statements, partition); err != nil {
		return err
	}
	payload, err := json.Marshal(work.announce(p.schema, partition, after+1, last.Offset))
	if err != nil {
		return fmt.Errorf("encode the announcement: %w", err)
	}
	statements.Queue(move, partition, last.Offset, bytesOrEmpty(last.Hash), work.clock)
	statements.Queue(announce, progressChannel, string(payload))
	statements.Queue(`COMMIT`)
	if err := conn.SendBatch(ctx, statements).Close(); err != nil {
		return fmt.Errorf("write what the batch came to: %w", err)
	}
	return nil
}

// abandon rolls back, so that the connection can be used again. A connection on which that does not work is thrown away
// by the pool, and the server rolls back.
func abandon(ctx context.Context, conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
	defer cancel()
	_, _ = conn.Exec(ctx, `ROLLBACK`)
}
