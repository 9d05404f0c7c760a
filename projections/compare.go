package projections

// This file stands beside the read models: it compares them, row by row, with those of another fold of the same log.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Difference is something on which what is served and what the log says do not agree.
type Difference struct {
	Table string // of a read model
	Key   string // of a row, or of rows that are counted together
	What  string
	// Account is whose rows they are, where they are counted together.
	Account string
}

func (d Difference) String() string { return d.Table + " " + d.Key + ": " + d.What }

// Comparison compares two schemas in one snapshot.
type Comparison struct {
	tx            pgx.Tx
	served, fresh string
}

// Compare takes the snapshot. Both folds must stand at the same checkpoints at this instant.
func Compare(ctx context.Context, pool *pgxpool.Pool, served, fresh string) (*Comparison, error) {
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	// Whole tables are read: the pool's settings are for single rows. The first statement takes the snapshot.
	const whole = `SELECT set_config('enable_seqscan', 'on', true), set_config('work_mem', '64MB', true)`
	if _, err := tx.Exec(ctx, whole); err != nil {
		_ = tx.Rollback(ctx) // the connection is broken
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	return &Comparison{tx: tx, served: served, fresh: fresh}, nil
}

// Close ends the snapshot.
func (c *Comparison) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackPatience)
	defer cancel()
	return c.tx.Rollback(ctx)
}

// comparedTable is a table and how its rows are told apart.
type comparedTable struct {
	Name string
	Key  []string
}

// Tables are those that the fold fills.
func (c *Comparison) tables(ctx context.Context) ([]comparedTable, error) {
	const query = `
		SELECT t.relname AS name, coalesce((
			SELECT array_agg(a.attname::text ORDER BY k.place)
			FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (att, place)
			JOIN pg_attribute a ON a.attnum = k.att
			WHERE i.indrelid = t.oid AND i.indisprimary AND a.attrelid = t.oid), '{}') AS key
		FROM pg_class t WHERE t.relnamespace = $1::regnamespace AND t.relkind = 'r' AND t.relpersistence = 'p' AND t.relname <> 'generation'
		ORDER BY t.relname`
	rows, err := c.tx.Query(ctx, query, c.served)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByName[comparedTable])
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for i, table := range tables {
		switch {
		case table.Name == "commits":
			tables[i].Key = []string{"part", "off"}
		case len(table.Key) == 0:
			return nil, fmt.Errorf("table %s has no primary key", table.Name)
		}
	}
	return tables, nil
}

// Differences compares every table and calls told for each: its rows, and at most limit differences.
func (c *Comparison) Differences(ctx context.Context, limit int, told func(table string, rows int64, found []Difference)) error {
	tables, err := c.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		rows, found, err := c.differences(ctx, table, limit)
		if err != nil {
			return fmt.Errorf("compare %s: %w", table.Name, err)
		}
		told(table.Name, rows, found)
	}
	return nil
}

func (c *Comparison) differences(ctx context.Context, table comparedTable, limit int) (count int64, found []Difference, err error) {
	if err := c.tx.QueryRow(ctx, `SELECT count(*) FROM `+c.source(table, c.fresh)+` AS fresh`).Scan(&count); err != nil {
		return 0, nil, err
	}
	// Rows are compared as they lie in memory (*<>): only those that differ become texts, which costs more.
	on, missing := make([]string, len(table.Key)), pgx.Identifier{table.Key[0]}.Sanitize()
	for i, column := range table.Key {
		name := pgx.Identifier{column}.Sanitize()
		on[i] = "served." + name + " = fresh." + name
	}
	rows, err := c.tx.Query(ctx, `
		SELECT row_to_json(served)::text AS served, row_to_json(fresh)::text AS fresh
		FROM `+c.source(table, c.served)+` AS served FULL JOIN `+c.source(table, c.fresh)+` AS fresh ON `+strings.Join(on, " AND ")+`
		WHERE served.`+missing+` IS NULL OR fresh.`+missing+` IS NULL OR served *<> fresh LIMIT $1`, limit)
	if err != nil {
		return 0, nil, err
	}
	type pair struct{ Served, Fresh *string }
	pairs, err := pgx.CollectRows(rows, pgx.RowToStructByName[pair])
	if err != nil {
		return 0, nil, err
	}
	for _, pair := range pairs {
		difference, err := table.difference(pair.Served, pair.Fresh)
		if err != nil {
			return 0, nil, err
		}
		found = append(found, difference)
	}
	slices.SortFunc(found, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	return count, found, nil
}

// source is a table, or of the commits those that are kept for certain: older ones are dropped a bite at a time.
func (c *Comparison) source(table comparedTable, schema string) string {
	name := pgx.Identifier{schema, table.Name}.Sanitize()
	if table.Name != "commits" {
		return name
	}
	return `(SELECT t.* FROM ` + name + ` t JOIN ` + pgx.Identifier{schema, "checkpoints"}.Sanitize() + ` c ON c.part = t.part
		WHERE t.at >= c.clock - interval '48 hours')`
}

// difference names the row and its columns. Values are not shown: they may be anybody's.
func (t comparedTable) difference(served, fresh *string) (Difference, error) {
	columns := [2]map[string]json.RawMessage{}
	for i, row := range []*string{served, fresh} {
		if row == nil {
			continue
		}
		if err := json.Unmarshal([]byte(*row), &columns[i]); err != nil {
			return Difference{}, fmt.Errorf("read a row: %w", err)
		}
	}
	named := columns[1]
	if fresh == nil {
		named = columns[0]
	}
	key := make([]string, len(t.Key))
	for i, column := range t.Key {
		key[i] = column + "=" + string(named[column])
	}
	difference := Difference{Table: t.Name, Key: strings.Join(key, " ")}
	switch {
	case served == nil:
		difference.What = "the row is missing"
	case fresh == nil:
		difference.What = "the row should not be there"
	default:
		var differ []string
		for column, value := range columns[1] {
			if !bytes.Equal(value, columns[0][column]) {
				differ = append(differ, column)
			}
		}
		slices.Sort(differ)
		difference.What = "differs in " + strings.Join(differ, ", ")
	}
	return difference, nil
}
