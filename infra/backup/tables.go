package backup

// This file stands at Postgres: what is in the schema nido and cannot be folded from the log.

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/progress"
)

// table is one that is copied.
type table struct{ name, copy string }

// consequences speak of commits, and are copied before them.
var consequences = []table{
	// A retry that comes after the restore must not do again what was done. Every answer that is kept here was given
	// after its commits had been folded, so the log, copied behind it, has them.
	{"idempotency", `COPY nido.idempotency TO STDOUT WITH (FORMAT csv, HEADER)`},
	{"deprecated_uses", `COPY nido.deprecated_uses TO STDOUT WITH (FORMAT csv, HEADER)`},
	{"key_uses", `COPY nido.key_uses TO STDOUT WITH (FORMAT csv, HEADER)`},
}

// causes are what commits speak of, and are copied behind them.
var causes = []table{
	{"data_keys", `COPY nido.data_keys TO STDOUT WITH (FORMAT csv, HEADER)`}, // still wrapped, tombstones included
	{"destroyed_owners", `COPY nido.destroyed_owners TO STDOUT WITH (FORMAT csv, HEADER)`},
	{"master_check", `COPY nido.master_check TO STDOUT WITH (FORMAT csv, HEADER)`},
}

// Left says of each other table of the schema why it is not copied.
var Left = map[string]string{
	"admission_counters": "counts the last minute and the current day; after a restore they begin anew, so an account may get a second day's requests on the day of a disaster",
	"boots":              "the processes that are alive; none of them outlives its stores, and the sweeper ends the turns of boots that are not here",
	"erasure_marks":      "how far erasures have been taken up; without it all of them are carried out again, in every store",
	"erasures":           "how far each erasure has come; see erasure_marks",
	"generations":        "which generation of a read model serves; restored read models are folded from the log, in their first one",
	"goose_db_version":   "belongs to the tables that a restore makes",
	"life":               "names the life of one server, unlogged; that of another is another",
	"restores":           "says where these stores came from, not where their copies do",
	"turn_waiters":       "messages that wait on connections which are gone, unlogged",
	"turn_text":          "text of running turns, unlogged; turns that are open in the log are ended as interrupted",
}

// tables copies some of them.
func (b Backup) tables(ctx context.Context, to folder, m *Manifest, tables []table) error {
	for _, table := range tables {
		copied, err := b.table(ctx, to, m.ID, table)
		if err != nil {
			return fmt.Errorf("copy the table %s: %w", table.name, err)
		}
		m.Tables = append(m.Tables, copied)
	}
	return nil
}

func (b Backup) table(ctx context.Context, to folder, id string, table table) (Table, error) {
	const columnsQuery = `SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'nido' AND table_name = $1 ORDER BY ordinal_position`
	conn, err := b.Pool.Acquire(ctx)
	if err != nil {
		return Table{}, err
	}
	defer conn.Release()
	found, err := conn.Query(ctx, columnsQuery, table.name)
	if err != nil {
		return Table{}, err
	}
	columns, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return Table{}, err
	}
	out, err := to.create("tables/" + table.name + "-" + id + ".csv")
	if err != nil {
		return Table{}, err
	}
	b.Progress.Begin("copying "+table.name, "rows", 0)
	tag, err := conn.Conn().PgConn().CopyTo(ctx, moving{out, b.Progress}, table.copy)
	if err != nil {
		out.abort()
		return Table{}, err
	}
	file, err := out.close()
	if err != nil {
		return Table{}, err
	}
	b.Progress.Add(tag.RowsAffected(), 0)
	b.Progress.End()
	return Table{Name: table.name, Columns: columns, Rows: tag.RowsAffected(), File: file}, nil
}

// moving tells how many bytes went by.
type moving struct {
	io.Writer
	progress *progress.Progress
}

func (m moving) Write(data []byte) (int, error) {
	m.progress.Add(0, len(data))
	return m.Writer.Write(data)
}

// fillTables puts the tables back, all or none of them, and notes that it has been done.
func fillTables(ctx context.Context, pool *pgxpool.Pool, from folder, m *Manifest, progress *progress.Progress) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', true)`); err != nil {
			return err
		}
		for _, table := range m.Tables {
			progress.Begin("restoring "+table.Name, "rows", table.Rows)
			if err := fillTable(ctx, tx, from, table, progress); err != nil {
				return fmt.Errorf("restore the table %s: %w", table.Name, err)
			}
			progress.End()
		}
		_, err := tx.Exec(ctx, `UPDATE nido.restores SET tables_at = now()`)
		return err
	})
}

func fillTable(ctx context.Context, tx pgx.Tx, from folder, table Table, progress *progress.Progress) error {
	statement := `COPY ` + pgx.Identifier{"nido", table.Name}.Sanitize() + ` (`
	for i, column := range table.Columns {
		if i > 0 {
			statement += `, `
		}
		statement += pgx.Identifier{column}.Sanitize()
	}
	statement += `) FROM STDIN WITH (FORMAT csv, HEADER match)`
	return from.each(table.File, func(bytes int) { progress.Add(0, bytes) }, func(rows io.Reader) error {
		tag, err := tx.Conn().PgConn().CopyFrom(ctx, rows, statement)
		if err != nil {
			return err
		}
		progress.Add(tag.RowsAffected(), 0)
		if tag.RowsAffected() != table.Rows {
			return fmt.Errorf("%w: it has %d rows, the manifest says %d", ErrDamaged, tag.RowsAffected(), table.Rows)
		}
		return nil
	})
}
