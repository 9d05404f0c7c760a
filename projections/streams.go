package projections

// This file stands before the decision: what the write side reads. Tables: streams, commits (every accepted commit).

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
)

// Streams answers what a decision is based on.
type Streams struct{ pool *pgxpool.Pool }

// NewStreams asks through a pool on the primary.
func NewStreams(pool *pgxpool.Pool) Streams { return Streams{pool} }

// Load reads a stream's version, its state and whether the command has been committed to it. It is one statement, and so
// one snapshot: two would let a commit slip in between, and the command be applied twice.
func (s Streams) Load(ctx context.Context, id domain.StreamID, command string) (domain.Snapshot, error) {
	const query = `
		SELECT coalesce(s.version, 0) AS version, s.state,
			coalesce((SELECT min(c.version) FROM commits c WHERE c.command = $2 AND c.stream = $1), 0) AS committed
		FROM (VALUES (1)) AS one
		LEFT JOIN streams s ON s.stream = $1`
	if !storable(string(id)) || !storable(command) {
		return domain.Snapshot{}, nil // such a stream cannot be
	}
	rows, err := s.pool.Query(ctx, query, string(id), command)
	if err != nil {
		return domain.Snapshot{}, fmt.Errorf("read the stream: %w", err)
	}
	snapshot, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[domain.Snapshot])
	if err != nil {
		return domain.Snapshot{}, fmt.Errorf("read the stream: %w", err)
	}
	return snapshot, nil
}
