package projections

// This file stands before the fold: the Postgres projector, and the tables that it must find.

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
)

//go:embed postgres/*.sql
var postgresTables embed.FS

// foldVersion is part of the tables' fingerprint. Raise it whenever a fold writes something else into the same tables.
const foldVersion = 1

// prepareLock is the advisory lock under which one node at a time looks at a schema, together with the schema's name.
const prepareLock = 0x6e696472 // "nidr"

// Nodes of another version may fold and ask while their tables are dropped; Postgres breaks the knot by failing one side.
const (
	prepareAttempts  = 5
	deadlockDetected = "40P01"
)

// Postgres folds the log into the read models of one schema. It is safe for concurrent use, one call of Apply per
// partition at a time; more are fenced.
type Postgres struct {
	pool    *pgxpool.Pool
	schema  string
	log     *slog.Logger
	folders map[string]domain.Folder
	// fingerprint is the number of this binary's tables and folds.
	fingerprint int64

	mu       sync.Mutex
	memories map[int32]*memory // by partition
}

// NewPostgres returns a projector into a schema, which must be the first in the search path of the pool. Every statement of
// a fold looks rows up by their keys, and the pool's connections should plan for nothing else.
func NewPostgres(pool *pgxpool.Pool, schema string, log *slog.Logger) *Postgres {
	p := &Postgres{pool: pool, schema: schema, log: log, folders: map[string]domain.Folder{}, fingerprint: fingerprint(), memories: map[int32]*memory{}}
	for _, folder := range aggregates {
		kind, _ := folder.FoldKind()
		p.folders[kind] = folder
	}
	return p
}

// Prepare creates the schema and its tables. Where the tables are those of another binary, or the states in them have
// another schema number, it drops them all: a read model is never migrated, it is folded from the log again.
func (p *Postgres) Prepare(ctx context.Context) error {
	var err error
	for range prepareAttempts {
		err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error { return p.prepare(ctx, tx) })
		if fault, ok := errors.AsType[*pgconn.PgError](err); !ok || fault.Code != deadlockDetected {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("prepare the read models in schema %s: %w", p.schema, err)
	}
	return nil
}

func (p *Postgres) prepare(ctx context.Context, tx pgx.Tx) error {
	// Another node may be dropping large tables right now: wait for it, whatever the pool's limits say.
	// And whatever the pool says of commits: a crash must not bring back tables that were replaced, under folds that go on.
	const alone = `SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true),
		set_config('synchronous_commit', 'on', true), pg_advisory_xact_lock($1, hashtext($2))`
	if _, err := tx.Exec(ctx, alone, int32(prepareLock), p.schema); err != nil {
		return fmt.Errorf("wait for other nodes: %w", err)
	}
	if err := p.checkSearchPath(ctx, tx); err != nil {
		return err
	}
	found, exists, err := p.foundFingerprint(ctx, tx)
	if err != nil {
		return err
	}
	schema := pgx.Identifier{p.schema}.Sanitize()
	switch {
	case exists && found == p.fingerprint:
		return nil
	case exists:
		p.log.WarnContext(ctx, "the read models are another binary's: dropping them, the whole log will be folded anew",
			"schema", p.schema, "found", found, "wanted", p.fingerprint)
		if _, err := tx.Exec(ctx, `DROP SCHEMA `+schema+` CASCADE`); err != nil {
			return fmt.Errorf("drop the old tables: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+schema); err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	return p.createTables(ctx, tx)
}

// checkSearchPath refuses a pool that would create the tables and read them somewhere else.
func (p *Postgres) checkSearchPath(ctx context.Context, tx pgx.Tx) error {
	var first string
	const setting = `SELECT (parse_ident(split_part(current_setting('search_path'), ',', 1)))[1]`
	if err := tx.QueryRow(ctx, setting).Scan(&first); err != nil {
		return fmt.Errorf("read the search path: %w", err)
	}
	if first != p.schema {
		return fmt.Errorf("the pool's search path begins with %q", first)
	}
	return nil
}

// foundFingerprint reads whose tables are there. Tables without a number are nobody's, and so are replaced.
func (p *Postgres) foundFingerprint(ctx context.Context, tx pgx.Tx) (found int64, exists bool, err error) {
	const known = `SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1),
		EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'generation')`
	var any, numbered bool
	if err := tx.QueryRow(ctx, known, p.schema).Scan(&any, &numbered); err != nil {
		return 0, false, fmt.Errorf("look for its tables: %w", err)
	}
	if !numbered {
		return 0, any, nil
	}
	err = tx.QueryRow(ctx, `SELECT fingerprint FROM generation`).Scan(&found)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, true, fmt.Errorf("read its fingerprint: %w", err)
	}
	return found, true, nil
}

// ErrOtherTables says that the tables are not those that this binary folds into.
var ErrOtherTables = errors.New("the read models are those of another version of nido")

// Ours refuses tables that another binary has made: there is nothing to compare in them.
func (p *Postgres) Ours(ctx context.Context) error {
	var found int64
	err := p.pool.QueryRow(ctx, `SELECT fingerprint FROM generation`).Scan(&found)
	if err != nil {
		return fmt.Errorf("read whose tables are in schema %s: %w", p.schema, err)
	}
	if found != p.fingerprint {
		return ErrOtherTables
	}
	return nil
}

func (p *Postgres) createTables(ctx context.Context, tx pgx.Tx) error {
	err := eachTableFile(func(name string, sql []byte) error {
		if _, err := tx.Exec(ctx, string(sql), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("create the tables of %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO generation (fingerprint) VALUES ($1)`, p.fingerprint); err != nil {
		return fmt.Errorf("note their fingerprint: %w", err)
	}
	return nil
}

// fingerprint numbers the tables, the states in them and the folds. It is never 0, which stands for tables of nobody.
func fingerprint() int64 {
	hash := sha256.New()
	fmt.Fprintln(hash, foldVersion)
	err := eachTableFile(func(name string, sql []byte) error {
		_, err := fmt.Fprintf(hash, "%s %d %s", name, len(sql), sql)
		return err
	})
	if err != nil {
		panic(fmt.Sprintf("projections: %v", err)) // embedded files can be read
	}
	for _, folder := range aggregates {
		kind, schema := folder.FoldKind()
		fmt.Fprintln(hash, kind, schema)
	}
	return int64(binary.BigEndian.Uint64(hash.Sum(nil))>>1) | 1
}

// eachTableFile visits the embedded SQL files by their numbers.
func eachTableFile(visit func(name string, sql []byte) error) error {
	files, err := fs.Glob(postgresTables, "postgres/*.sql")
	if err != nil {
		return fmt.Errorf("list the embedded tables: %w", err)
	}
	for _, name := range files {
		sql, err := postgresTables.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read the embedded tables: %w", err)
		}
		if err := visit(name, sql); err != nil {
			return err
		}
	}
	return nil
}

// Checkpoint returns the last record of a partition that has been folded, and its hash; -1 where nothing has been.
func (p *Postgres) Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error) {
	err = p.pool.QueryRow(ctx, `SELECT off, hash FROM checkpoints WHERE part = $1`, partition).Scan(&offset, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return -1, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read the checkpoint of partition %d: %w", partition, err)
	}
	return offset, hash, nil
}
