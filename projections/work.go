package projections

// This file stands at the fold: a batch in memory, between what was read and what will be written.

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
)

// keepCommits is how long the log remembers by itself which commands it has seen.
const keepCommits = 48 * time.Hour

// pruneBite is how many old commits a batch may drop: some ten milliseconds' worth, whatever has gathered.
const pruneBite = 10_000

// maxIDBytes bounds what goes into an index; our own ids have less than a hundred.
const maxIDBytes = 512

// stream is where a stream stands while a batch is folded.
type stream struct {
	version domain.Version
	before  domain.Version // the batch; 0 where it has no row
	stored  []byte         // the state as it was read
	state   any            // the state behind the last accepted commit, nil if none was folded here
	bytes   int            // of the state's JSON
	folder  domain.Folder
}

// work is a batch being folded.
type work struct {
	folders  map[string]domain.Folder
	streams  map[domain.StreamID]*stream
	models   []readModel
	before   time.Time // the log's clock before the batch
	clock    time.Time // and now
	folded   int       // how many of the batch's records
	rejected []int64
	commits  commitRows
	changed  []domain.StreamID // in the order of their first accepted commit
}

// commitRows are the columns of table commits.
type commitRows struct {
	streams, commands []string
	versions, offsets []int64
	at                []time.Time
}

func newWork(folders map[string]domain.Folder, streams map[domain.StreamID]*stream, clock time.Time) *work {
	return &work{folders: folders, streams: streams, models: readModels(), before: clock, clock: clock}
}

// foldAll folds records until one cannot be.
func (w *work) foldAll(batch []domain.Recorded) error {
	for _, record := range batch {
		if err := w.fold(record); err != nil {
			return err
		}
		w.folded++
	}
	return nil
}

// fold decides whether a record's commit happened, and if so gives it to the read models.
func (w *work) fold(record domain.Recorded) error {
	if record.Skipped { // kept with the losers, so that whoever asks them passes over it as well
		w.rejected = append(w.rejected, record.Offset)
		return nil
	}
	unreadable := func(err error) error { return &Unreadable{Position: record.Position, Err: err} }
	at, ok := w.streams[record.Stream]
	if !ok || !storable(record.Command) {
		return unreadable(fmt.Errorf("%w: its stream or command id cannot be stored", domain.ErrUndecodable))
	}
	if !domain.Accepts(at.version, record.Base) {
		w.rejected = append(w.rejected, record.Offset)
		return nil
	}
	folder, ok := w.folders[record.Stream.Kind()]
	if !ok {
		return unreadable(fmt.Errorf("%w: unknown kind of stream %q", domain.ErrUndecodable, record.Stream.Kind()))
	}
	folded, err := folder.Fold(at.state, at.stored, record.Events)
	if err != nil {
		if !errors.Is(err, domain.ErrUndecodable) {
			err = fmt.Errorf("%w: %w", domain.ErrUndecodable, err)
		}
		return unreadable(err)
	}
	if at.folder == nil {
		at.folder = folder
		w.changed = append(w.changed, record.Stream)
	}
	at.version, at.state = record.Version(), folded.State
	if record.Time.After(w.clock) {
		w.clock = record.Time
	}
	w.commits.add(record, w.clock)
	commit := accepted{Recorded: record, events: folded.Events, state: folded.State}
	for _, model := range w.models {
		model.fold(commit)
	}
	return nil
}

// write queues everything that the batch came to.
func (w *work) write(batch *pgx.Batch, partition int32) error {
	if err := w.writeStreams(batch); err != nil {
		return err
	}
	w.writeCommits(batch, partition)
	if len(w.rejected) > 0 {
		const reject = `INSERT INTO rejections (part, off) SELECT $1, unnest($2::bigint[])`
		batch.Queue(reject, partition, w.rejected)
	}
	for _, model := range w.models {
		model.write(batch)
	}
	return nil
}

// writeStreams fails the batch where a stream is not where it is believed to be: a row that is there already cannot be
// inserted, and one whose version is another is not counted.
func (w *work) writeStreams(batch *pgx.Batch) error {
	const insert = `INSERT INTO streams (stream, version, state) SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::bytea[])`
	const update = `
		WITH changed AS (
			UPDATE streams s SET version = u.version, state = u.state
			FROM (
				SELECT unnest($1::text[]) AS stream, unnest($2::bigint[]) AS version, unnest($3::bytea[]) AS state,
					unnest($4::bigint[]) AS before
			) u
			WHERE s.stream = u.stream AND s.version = u.before
			RETURNING 1
		)
		SELECT 1 / (count(*) = cardinality($1))::integer FROM changed`
	var fresh, known streamRows
	for _, id := range w.changed {
		at := w.streams[id]
		state, err := at.folder.EncodeState(at.state)
		if err != nil {
			return err
		}
		at.bytes = len(state)
		if at.before == 0 {
			fresh.add(id, at, state)
		} else {
			known.add(id, at, state)
		}
	}
	if len(fresh.ids) > 0 {
		batch.Queue(insert, fresh.ids, fresh.versions, fresh.states)
	}
	if len(known.ids) > 0 {
		batch.Queue(update, known.ids, known.versions, known.states, known.before)
	}
	return nil
}

// streamRows are the columns of table streams, and the versions that rows have before the batch.
type streamRows struct {
	ids              []string
	versions, before []int64
	states           [][]byte
}

func (r *streamRows) add(id domain.StreamID, at *stream, state []byte) {
	r.ids = append(r.ids, string(id))
	r.versions = append(r.versions, int64(at.version))
	r.before = append(r.before, int64(at.before))
	r.states = append(r.states, state)
}

// writeCommits adds the accepted commits and drops those that are too old by the log's clock. Which ones those are depends
// on the log alone and not on where its batches begin, so that every replay leaves the same rows; only where a silence of
// days leaves more of them than one bite, the next batches take the rest.
func (w *work) writeCommits(batch *pgx.Batch, partition int32) {
	const insert = `
		INSERT INTO commits (part, stream, version, command, off, at)
		SELECT $1, unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::bigint[]), unnest($6::timestamptz[])`
	const prune = `
		DELETE FROM commits WHERE ctid = ANY (ARRAY(SELECT ctid FROM commits WHERE part = $1 AND at < $2 ORDER BY at LIMIT $3))`
	kept := w.commits.since(keptSince(w.clock))
	if len(kept.streams) > 0 {
		batch.Queue(insert, partition, kept.streams, kept.versions, kept.commands, kept.offsets, kept.at)
	}
	// Once a second of the log, which is far less than a bite while commits come in.
	if keptSince(w.clock).After(keptSince(w.before)) {
		batch.Queue(prune, partition, keptSince(w.clock), pruneBite)
	}
}

// keptSince is the age at which commits are dropped, by the log's clock.
func keptSince(clock time.Time) time.Time { return clock.Add(-keepCommits).Truncate(time.Second) }

func (c *commitRows) add(record domain.Recorded, clock time.Time) {
	c.streams = append(c.streams, string(record.Stream))
	c.versions = append(c.versions, int64(record.Version()))
	c.commands = append(c.commands, record.Command)
	c.offsets = append(c.offsets, record.Offset)
	c.at = append(c.at, clock)
}

// since leaves out the rows before a time. The clock never goes back, so that those are the first ones.
func (c *commitRows) since(oldest time.Time) commitRows {
	n := 0
	for n < len(c.at) && c.at[n].Before(oldest) {
		n++
	}
	return commitRows{
		streams: c.streams[n:], versions: c.versions[n:], commands: c.commands[n:], offsets: c.offsets[n:], at: c.at[n:],
	}
}

// announce says what became of the batch.
func (w *work) announce(schema string, partition int32, first, last int64) announcement {
	a := announcement{Schema: schema, Partition: partition, First: first, Last: last}
	if len(w.rejected) <= maxAnnounced {
		a.Rejected = append([]int64{}, w.rejected...)
	}
	return a
}

// storable reports whether a text can be a key of a table.
func storable(id string) bool {
	return len(id) <= maxIDBytes && utf8.ValidString(id) && !strings.ContainsRune(id, 0)
}
