package projections

// This file stands at the queries: what all of them share.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotFound says that there is no such thing, or that it is another account's.
var ErrNotFound = errors.New("not found")

// ErrAmbiguous says that several things answer to the name.
var ErrAmbiguous = errors.New("ambiguous")

// MaxPage bounds what one page holds, whatever was asked for.
const MaxPage = 1000

// Page asks for the next things of a list. Lists are ordered by creation time and id, newest first: both never change, so
// that nothing is seen twice or missed while others are created or change.
type Page struct {
	Limit int
	After *Cursor // the last thing of the page before, nil for the first page
}

// Cursor is a place in a list.
type Cursor struct {
	At time.Time
	ID string
}

// limit is how many rows to ask for: one more than wanted, to learn whether there is a next page.
func (p Page) limit() int { return limited(p.Limit) + 1 }

func limited(limit int) int { return min(max(limit, 1), MaxPage) }

// before is the place that all rows of the page come before. The first page begins at the end of time, so that the same
// statement, and with it the same way through the index, serves all pages.
func (p Page) before() (pgtype.Timestamptz, string) {
	if p.After == nil {
		return endOfTime, ""
	}
	return pgtype.Timestamptz{Time: p.After.At, Valid: true}, clean(p.After.ID)
}

var (
	endOfTime   = pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	startOfTime = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
)

// instant is a bound of a time range; the zero time stands for no bound.
func instant(at time.Time, none pgtype.Timestamptz) pgtype.Timestamptz {
	if at.IsZero() {
		return none
	}
	return pgtype.Timestamptz{Time: at, Valid: true}
}

// cut takes off the row too many, and says where the next page goes on, if there is one.
func cut[T any](rows []T, page Page, place func(T) Cursor) ([]T, *Cursor) {
	limit := limited(page.Limit)
	if len(rows) <= limit {
		return rows, nil
	}
	next := place(rows[limit-1])
	return rows[:limit], &next
}

// one reads a single row into a struct by its columns' names, or returns ErrNotFound.
func one[T any](ctx context.Context, pool *pgxpool.Pool, doing, query string, args ...any) (T, error) {
	found, err := all[T](ctx, pool, doing, query, args...)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	if err != nil {
		var none T
		return none, err
	}
	return found[0], nil
}

// all reads rows into structs by their columns' names.
func all[T any](ctx context.Context, pool *pgxpool.Pool, doing, query string, args ...any) ([]T, error) {
	rows, err := pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return found, nil
}

// allOr gives an absent list the value that means every one: SQL's NULL.
func allOr(list []string) any {
	if list == nil {
		return nil
	}
	return cleanAll(list)
}
