package postgres

// This file stands beside the read models: which generation of them serves.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Querier is a pool or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Generation says which generation of a read model serves; one that was never rebuilt is in its first.
func Generation(ctx context.Context, db Querier, readModel string) (int, error) {
	generation := 1
	err := db.QueryRow(ctx, `SELECT generation FROM generations WHERE read_model = $1`, readModel).Scan(&generation)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read the generation of %s: %w", readModel, err)
	}
	return generation, nil
}

// ErrSwitched: another generation serves than the one that was to be replaced.
var ErrSwitched = errors.New("another generation serves by now")

// NextGeneration makes the generation behind one serve, and returns its number.
func NextGeneration(ctx context.Context, db Querier, readModel string, from int) (next int, err error) {
	const query = `
		INSERT INTO generations (read_model, generation) VALUES ($1, $2 + 1)
		ON CONFLICT (read_model) DO UPDATE SET generation = $2 + 1, switched_at = now() WHERE generations.generation = $2
		RETURNING generation`
	err = db.QueryRow(ctx, query, readModel, from).Scan(&next)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrSwitched
	}
	if err != nil {
		return 0, fmt.Errorf("switch %s to its next generation: %w", readModel, err)
	}
	return next, nil
}
