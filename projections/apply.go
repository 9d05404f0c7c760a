package projections

// This file stands at the fold: one batch of the log becomes one transaction.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// What Postgres calls what otherwise looks for.
const (
	divisionByZero  = "22012"
	uniqueViolation = "23505"
)

// inTransaction is how a connection says that a transaction is open on it.
const inTransaction = 'T'

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

// apply takes one round trip where it is remembered where the streams stand, and two where that has to be read first.
func (p *Postgres) apply(ctx context.Context, conn *pgxpool.Conn, partition int32, after int64, batch []domain.Recorded) error {
	after = max(after, -1)
	known := p.recall(partition, after)
	if standing, ok := known.standing(batch); ok {
		work := newWork(p.folders, standing, known.clock)
		if work.foldAll(batch) == nil {
			err := p.finish(ctx, conn, work, partition, after, batch)
			if err == nil {
				p.remember(partition, known, work, batch[len(batch)-1].Offset)
			}
			if !otherwise(err) {
				return err
			}
		}
	}
	return p.readAndApply(ctx, conn, partition, after, batch)
}

// otherwise reports whether a batch failed since the tables are not as they were believed to be: the checkpoint has moved,
// or a stream has. Statements that find that out divide by zero, since nothing else stops those that are behind them in the
// same round trip.
func otherwise(err error) bool {
	fault, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (fault.Code == divisionByZero || fault.Code == uniqueViolation)
}

// readAndApply reads where the streams stand before it folds.
func (p *Postgres) readAndApply(ctx context.Context, conn *pgxpool.Conn, partition int32, after int64, batch []domain.Recorded) (err error) {
	defer func() {
		if _, unreadable := errors.AsType[*Unreadable](err); err != nil && !unreadable {
			abandon(ctx, conn)
		}
	}()
	clock, standing, err := p.begin(ctx, conn, partition, after, batch)
	if err != nil {
		return err
	}
	work := newWork(p.folders, standing, clock)
	unreadable := work.foldAll(batch)
	if unreadable != nil {
		batch = batch[:work.folded] // what comes before is good, and somebody waits for it
	}
	if len(batch) == 0 {
		abandon(ctx, conn)
		return unreadable
	}
	if err := p.finish(ctx, conn, work, partition, after, batch); err != nil {
		return err
	}
	p.remember(partition, nil, work, batch[len(batch)-1].Offset)
	return unreadable
}

// begin opens the transaction, makes sure that the checkpoint stands at after and locks it, and reads the streams.
func (p *Postgres) begin(ctx context.Context, conn *pgxpool.Conn, partition int32, after int64, batch []domain.Recorded) (clock time.Time, standing map[domain.StreamID]*stream, err error) {
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
			found.version, found.before = domain.Version(version), domain.Version(version)
			found.stored, found.bytes = state, len(state)
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, statements).Close(); err != nil {
		return clock, nil, fmt.Errorf("read what the batch is about: %w", err)
	}
	return clock, standing, nil
}

// finish compares and sets the checkpoint, tells whoever waits, and writes what the batch came to, in one round trip: the
// transaction that begin opened, or one of its own, which is what statements that are sent together are.
func (p *Postgres) finish(ctx context.Context, conn *pgxpool.Conn, work *work, partition int32, after int64, batch []domain.Recorded) error {
	// It comes first, since it locks: whoever holds the fold still has it wait here, and what is written behind it goes to
	// the tables that serve by then. The notification is sent with the commit.
	const move = `
		WITH moved AS (
			UPDATE checkpoints SET off = $3, hash = $4, clock = $5
			WHERE part = $1 AND off = $2 AND (SELECT fingerprint FROM generation) = $6
			RETURNING part
		)
		SELECT pg_notify($7, $8), 1 / count(*) FROM moved`

	last := batch[len(batch)-1]
	payload, err := json.Marshal(work.announce(p.schema, partition, after+1, last.Offset))
	if err != nil {
		return fmt.Errorf("encode the announcement: %w", err)
	}
	statements := &pgx.Batch{}
	statements.Queue(move, partition, after, last.Offset, bytesOrEmpty(last.Hash), work.clock, p.fingerprint, progressChannel, string(payload))
	if err := work.write(statements, partition); err != nil {
		return err
	}
	if conn.Conn().PgConn().TxStatus() == inTransaction {
		statements.Queue(`COMMIT`)
	}
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
