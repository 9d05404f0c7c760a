package projections

// This file stands at the fold into ClickHouse: batches of the log become rows of messages and conversations.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nidohq/nido/domain"
)

// clickhouseFoldVersion is part of the tables' fingerprint. Raise it whenever the fold writes something else into the
// same tables.
const clickhouseFoldVersion = 1

// clickhouseChunk is how many records are opened and inserted at a time.
const clickhouseChunk = 2500

// clickhouseQueryTimeout bounds the small questions about checkpoints.
const clickhouseQueryTimeout = 10 * time.Second

// Opener opens sealed texts. Of a text whose data key was destroyed, erased is true and plain is empty.
type Opener interface {
	Open(ctx context.Context, texts []domain.Sealed) (plain [][]byte, erased []bool, err error)
}

// clickhouseProgress is what the fold asks of the Postgres one, which alone decides what was accepted.
type clickhouseProgress interface {
	// Passed returns once the Postgres fold has passed a position.
	Passed(ctx context.Context, position domain.Position) error
	// Rejected lists the offsets from first to last that were not accepted.
	Rejected(ctx context.Context, partition int32, first, last int64) ([]int64, error)
}

// ClickHouse folds the log into the read models of one database. It is safe for concurrent use, one call of Apply per
// partition at a time.
//
// ClickHouse has no transactions, so nothing here depends on one: a row is a function of its event, folding a record
// again writes the same row under the same key, and the checkpoint is written behind the rows. A batch that arrives
// twice, or in other pieces, changes nothing.
type ClickHouse struct {
	store    clickhouseStore
	opener   Opener
	progress clickhouseProgress
	log      *slog.Logger
}

// NewClickHouse returns a projector into a database, which must exist: one generation of the read models, such as
// "nido_1".
func NewClickHouse(conn driver.Conn, database string, opener Opener, progress clickhouseProgress, log *slog.Logger) *ClickHouse {
	return &ClickHouse{store: clickhouseStore{conn: conn, database: database}, opener: opener, progress: progress, log: log}
}

// Following is the same projector into whichever generation serves: a rebuild switches while it runs. A batch behind the
// switch does not follow the new generation's checkpoint, and is fenced.
func (c *ClickHouse) Following(database func() string) *ClickHouse {
	following := *c
	following.store.follow = database
	return &following
}

// now is the projector into the generation that serves at this moment.
func (c *ClickHouse) now() *ClickHouse {
	fixed := *c
	fixed.store = c.store.now()
	return &fixed
}

// Prepare creates the tables. Where they are those of another binary it drops them first.
func (c *ClickHouse) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clickhouseTableTimeout)
	defer cancel()
	c = c.now()
	fingerprint, err := clickhouseFingerprint()
	if err == nil {
		err = c.store.renew(ctx, fingerprint, c.log)
	}
	if err == nil {
		err = c.store.create(ctx, clickhouseFoldTables)
	}
	if err == nil {
		// Last: tables without this mark are nobody's, and are made anew by the next start.
		err = c.store.exec(ctx, `ALTER TABLE {db:Identifier}.checkpoints MODIFY COMMENT '`+fingerprint+`'`)
	}
	if err != nil {
		return fmt.Errorf("prepare the read models in %s: %w", c.store.database, err)
	}
	return nil
}

// Checkpoint returns the last record of a partition that has been folded, and its hash; -1 where nothing has been.
func (c *ClickHouse) Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error) {
	found, err := c.store.now().checkpoint(ctx, partition)
	if err != nil {
		return 0, nil, err
	}
	return found.offset, found.hash, nil
}

// Idle notes that a partition had nothing left to fold at an instant, so that the watermark does not stand still with
// the log. It is worth calling every second or so.
func (c *ClickHouse) Idle(ctx context.Context, partition int32, at time.Time) error {
	return c.store.now().idle(ctx, partition, at)
}

// Apply folds a batch of one partition, if the checkpoint stands at after (-1 for the empty read model), and moves it to
// the batch's last record. It waits until the Postgres fold has decided about all of it. It returns ErrFenced if the
// checkpoint stands elsewhere, *Unreadable if a record cannot be folded; what came before that one has been.
func (c *ClickHouse) Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	if len(batch) == 0 {
		return nil
	}
	after = max(after, -1)
	if err := checkOrder(partition, after, batch); err != nil {
		return fmt.Errorf("fold partition %d: %w", partition, err)
	}
	err := c.apply(ctx, partition, after, batch)
	for try := 1; try < clickhouseFenceTries && clickhouseTooLate(err); try++ {
		err = c.apply(ctx, partition, after, batch)
	}
	if unreadable, ok := errors.AsType[*Unreadable](err); ok {
		return unreadable
	}
	if err != nil {
		return fmt.Errorf("fold %d:%d-%d into ClickHouse: %w", partition, batch[0].Offset, batch[len(batch)-1].Offset, err)
	}
	return nil
}

func (c *ClickHouse) apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	c = c.now()
	rejected, err := c.rejected(ctx, partition, batch)
	if err != nil {
		return err
	}
	stands, err := c.store.expect(ctx, partition, after)
	if err != nil {
		return err
	}
	folded, unreadable, err := c.fold(ctx, stands, batch, rejected)
	if err != nil {
		return err
	}
	if folded == 0 {
		return unreadable
	}
	last := batch[folded-1]
	to := clickhouseCheckpoint{offset: last.Offset, hash: last.Hash, upTo: stands.upTo}
	if last.Time.After(to.upTo) {
		to.upTo = last.Time
	}
	return errors.Join(c.store.pass(ctx, partition, to), unreadable)
}

// fold writes the rows of a batch chunk by chunk: while ClickHouse takes those of one, the next is decoded and opened. It
// returns how many records from the front have been folded, which are not all where one of them is unreadable.
func (c *ClickHouse) fold(ctx context.Context, stands clickhouseCheckpoint, batch []domain.Recorded, rejected map[int64]bool) (folded int, unreadable, err error) {
	var inserting sync.WaitGroup
	var inserted error // of the chunk before; to be read when inserting is over
	defer inserting.Wait()
	insertBy := stands.insertBy()
	for chunk := range slices.Chunk(batch, clickhouseChunk) {
		if folded > 0 { // no chunk may use up the time of the next
			now, err := clickhouseNow(ctx, c.store.conn)
			if err != nil {
				return 0, nil, err
			}
			insertBy = now.Add(clickhouseFence)
		}
		rows := clickhouseRows{insertBy: insertBy}
		var readable int
		readable, unreadable = rows.foldAll(chunk, rejected)
		if err := rows.open(ctx, c.opener); err != nil {
			return 0, nil, fmt.Errorf("open the texts: %w", err)
		}
		if inserting.Wait(); inserted != nil {
			return 0, nil, inserted
		}
		if folded += readable; readable > 0 {
			inserting.Go(func() { inserted = c.insert(ctx, &rows, chunk[:readable]) })
		}
		if unreadable != nil {
			break
		}
	}
	inserting.Wait()
	return folded, unreadable, inserted
}

// rejected waits for the Postgres fold and asks which records of the batch lost.
func (c *ClickHouse) rejected(ctx context.Context, partition int32, batch []domain.Recorded) (map[int64]bool, error) {
	last := batch[len(batch)-1]
	if err := c.progress.Passed(ctx, last.Position); err != nil {
		return nil, fmt.Errorf("wait for the Postgres fold: %w", err)
	}
	offsets, err := c.progress.Rejected(ctx, partition, batch[0].Offset, last.Offset)
	if err != nil {
		return nil, fmt.Errorf("ask the Postgres fold what was rejected: %w", err)
	}
	rejected := make(map[int64]bool, len(offsets))
	for _, offset := range offsets {
		rejected[offset] = true
	}
	return rejected, nil
}

// insert writes the rows of some records.
func (c *ClickHouse) insert(ctx context.Context, rows *clickhouseRows, records []domain.Recorded) error {
	first, last := records[0], records[len(records)-1]
	token := fmt.Sprintf("events:%d:%d-%d", first.Partition, first.Offset, last.Offset)
	var messages, conversations error
	var both sync.WaitGroup // two tables, side by side: neither insert waits for the other's disk
	both.Go(func() {
		messages = c.store.insert(ctx, clickhouseMessagesInsert, token, len(rows.messages), rows.addMessage)
	})
	both.Go(func() {
		conversations = c.store.insert(ctx, clickhouseConversationsInsert, token, len(rows.conversations), rows.addConversation)
	})
	both.Wait()
	if messages != nil {
		return fmt.Errorf("insert messages: %w", messages)
	}
	if conversations != nil {
		return fmt.Errorf("insert conversations: %w", conversations)
	}
	return nil
}
