package projections

// This file stands before the folds into ClickHouse: their tables, and how far each of them has come.

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed clickhouse/*/*.sql
var clickhouseTables embed.FS

// The two sets of tables, each in a database of its own: folds are dropped and folded again, the request log is not.
const (
	clickhouseFoldTables    = "clickhouse/fold"
	clickhouseRequestTables = "clickhouse/requests"
)

const (
	// clickhouseInsertTimeout bounds one insert. A batch takes milliseconds; what takes longer is a ClickHouse in trouble.
	clickhouseInsertTimeout = 30 * time.Second
	// clickhouseTableTimeout bounds making or dropping the tables, which may have to wait for merges.
	clickhouseTableTimeout = 2 * time.Minute
)

// clickhouseStore is one database with a checkpoints table, and the way rows get into it.
type clickhouseStore struct {
	conn     driver.Conn
	database string
	follow   func() string // says which database it is by now; nil: it stays the same
}

// now fixes the database for one piece of work: a switch to another generation comes between two of them.
func (s clickhouseStore) now() clickhouseStore {
	if s.follow != nil {
		s.database = s.follow()
	}
	return s
}

// create makes the tables of a folder where they are missing. The statements can be run at every start.
func (s clickhouseStore) create(ctx context.Context, folder string) error {
	return clickhouseEachTable(folder, func(name, sql string) error {
		if err := s.exec(ctx, sql); err != nil {
			return fmt.Errorf("create the table of %s: %w", name, err)
		}
		return nil
	})
}

// exec runs a statement that names the database as {db:Identifier}.
func (s clickhouseStore) exec(ctx context.Context, sql string) error {
	return s.conn.Exec(ctx, sql, clickhouse.Named("db", s.database))
}

// insert writes rows in one block. The token makes ClickHouse drop a block that it has already; other batch boundaries
// have other tokens, and there the tables' keys do the same.
func (s clickhouseStore) insert(ctx context.Context, sql, token string, rows int, row func(i int, add func(values ...any) error) error) error {
	if rows == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clickhouseInsertTimeout)
	defer cancel()
	settings := clickhouse.Settings{"async_insert": 0}
	if token != "" {
		settings["insert_deduplication_token"] = token
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings), clickhouse.WithParameters(clickhouse.Parameters{"db": s.database}))
	batch, err := s.conn.PrepareBatch(ctx, sql)
	if err != nil {
		return err
	}
	for i := range rows {
		if err := row(i, batch.Append); err != nil {
			return errors.Join(err, batch.Abort())
		}
	}
	return batch.Send()
}

// clickhouseCheckpoint is how far a partition has been folded.
type clickhouseCheckpoint struct {
	offset int64 // -1: nothing yet
	hash   []byte
	upTo   time.Time
	read   time.Time // when it was, by ClickHouse's clock
}

const clickhouseCheckpointQuery = `SELECT count(), max(off), argMax(hash, off), max(up_to), now64(3, 'UTC')
FROM {db:Identifier}.checkpoints WHERE part = {part:Int32}`

func (s clickhouseStore) checkpoint(ctx context.Context, partition int32) (clickhouseCheckpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, clickhouseQueryTimeout)
	defer cancel()
	var rows uint64
	var hash string
	found := clickhouseCheckpoint{}
	err := s.conn.QueryRow(ctx, clickhouseCheckpointQuery, clickhouse.Named("db", s.database), clickhouse.Named("part", partition)).
		Scan(&rows, &found.offset, &hash, &found.upTo, &found.read)
	if err != nil {
		return clickhouseCheckpoint{}, fmt.Errorf("read the checkpoint of partition %d: %w", partition, err)
	}
	if rows == 0 {
		return clickhouseCheckpoint{offset: -1, read: found.read}, nil
	}
	found.hash = []byte(hash)
	return found, nil
}

// expect reads the checkpoint and refuses a batch that does not follow it: rows in between would be missing for ever.
func (s clickhouseStore) expect(ctx context.Context, partition int32, after int64) (clickhouseCheckpoint, error) {
	found, err := s.checkpoint(ctx, partition)
	if err != nil {
		return clickhouseCheckpoint{}, err
	}
	if found.offset != after {
		return clickhouseCheckpoint{}, fmt.Errorf("partition %d stands at %d, the batch follows %d: %w", partition, found.offset, after, ErrFenced)
	}
	return found, nil
}

const clickhouseCheckpointInsert = `INSERT INTO {db:Identifier}.checkpoints (part, off, hash, up_to)`

func (s clickhouseStore) pass(ctx context.Context, partition int32, to clickhouseCheckpoint) error {
	err := s.insert(ctx, clickhouseCheckpointInsert, "", 1, func(_ int, add func(...any) error) error {
		return add(partition, to.offset, string(to.hash), clickhouseTime(to.upTo))
	})
	if err != nil {
		return fmt.Errorf("write the checkpoint of partition %d: %w", partition, err)
	}
	return nil
}

// idle notes that nothing was left to fold at an instant.
func (s clickhouseStore) idle(ctx context.Context, partition int32, at time.Time) error {
	found, err := s.checkpoint(ctx, partition)
	if err != nil || !at.After(found.upTo) {
		return err
	}
	found.upTo = at
	return s.pass(ctx, partition, found)
}

// clickhouseWatermarkQuery reads the few rows as they are: every list is preceded by it, and ClickHouse takes longer to
// plan two aggregations than to send all that no merge has replaced yet.
const clickhouseWatermarkQuery = `SELECT part, up_to FROM {db:Identifier}.checkpoints`

// watermark is the time up to which every partition is in; zero where nothing is.
func (s clickhouseStore) watermark(ctx context.Context) (upTo time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, clickhouseQueryTimeout)
	defer cancel()
	var rows []struct {
		Part int32     `ch:"part"`
		UpTo time.Time `ch:"up_to"`
	}
	if err := s.conn.Select(ctx, &rows, clickhouseWatermarkQuery, clickhouse.Named("db", s.database)); err != nil {
		return time.Time{}, fmt.Errorf("read the watermark: %w", err)
	}
	partitions := map[int32]time.Time{}
	for _, row := range rows {
		if known := partitions[row.Part]; row.UpTo.After(known) {
			partitions[row.Part] = row.UpTo
		}
	}
	for _, at := range partitions {
		if upTo.IsZero() || at.Before(upTo) {
			upTo = at.UTC()
		}
	}
	return upTo, nil
}

// clickhouseFingerprint numbers the fold's tables and what is folded into them.
func clickhouseFingerprint() (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, clickhouseFoldVersion)
	err := clickhouseEachTable(clickhouseFoldTables, func(name, sql string) error {
		_, err := fmt.Fprintf(hash, "%s %d %s", name, len(sql), sql)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil)[:16]), err
}

// renew drops the fold's tables where another binary made them: a read model is never migrated, it is folded again. The
// fingerprint is the comment of the checkpoints, which go first, so that whoever is interrupted starts anew.
func (s clickhouseStore) renew(ctx context.Context, fingerprint string, log *slog.Logger) error {
	const query = `SELECT name, comment FROM system.tables WHERE database = {db:String} ORDER BY name = 'checkpoints' DESC, name`
	var tables []struct {
		Name    string `ch:"name"`
		Comment string `ch:"comment"`
	}
	if err := s.conn.Select(ctx, &tables, query, clickhouse.Named("db", s.database)); err != nil {
		return fmt.Errorf("look for the tables: %w", err)
	}
	if len(tables) == 0 || tables[0].Name == "checkpoints" && tables[0].Comment == fingerprint {
		return nil
	}
	log.WarnContext(ctx, "the ClickHouse read models are another binary's: dropping them, the whole log will be folded anew",
		"database", s.database, "wanted", fingerprint)
	for _, table := range tables {
		err := s.conn.Exec(ctx, `DROP TABLE IF EXISTS {db:Identifier}.{table:Identifier} SYNC`,
			clickhouse.Named("db", s.database), clickhouse.Named("table", table.Name))
		if err != nil {
			return fmt.Errorf("drop the old table %s: %w", table.Name, err)
		}
	}
	return nil
}

// clickhouseEachTable visits a folder's embedded SQL files by their numbers.
func clickhouseEachTable(folder string, visit func(name, sql string) error) error {
	files, err := fs.Glob(clickhouseTables, folder+"/*.sql")
	if err != nil {
		return fmt.Errorf("list the embedded tables: %w", err)
	}
	for _, name := range files {
		sql, err := clickhouseTables.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read the embedded tables: %w", err)
		}
		if err := visit(name, string(sql)); err != nil {
			return err
		}
	}
	return nil
}

// The range of DateTime64 with three digits. What lies outside would wrap around without a word.
var (
	clickhouseEarliest = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	clickhouseLatest   = time.Date(2299, 12, 31, 0, 0, 0, 0, time.UTC)
)

// clickhouseTime makes an instant storable: milliseconds, within the type's range.
func clickhouseTime(at time.Time) time.Time {
	at = at.UTC().Truncate(time.Millisecond)
	switch {
	case at.Before(clickhouseEarliest):
		return clickhouseEarliest
	case at.After(clickhouseLatest):
		return clickhouseLatest
	}
	return at
}
