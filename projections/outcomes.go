package projections

// This file stands behind the fold: what became of records, from the tables themselves.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Outcomes says, in one snapshot, behind which offset of a partition the fold stands (-1: nothing is folded), and which
// offsets from first to last it did not accept.
func (p *Postgres) Outcomes(ctx context.Context, partition int32, first, last int64) (stands int64, rejected []int64, err error) {
	const query = `
		SELECT c.off, ARRAY(SELECT r.off FROM rejections r WHERE r.part = $1 AND r.off BETWEEN $2 AND $3 ORDER BY r.off)
		FROM checkpoints c WHERE c.part = $1`
	err = p.pool.QueryRow(ctx, query, partition, first, last).Scan(&stands, &rejected)
	if errors.Is(err, pgx.ErrNoRows) {
		return -1, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read what became of %d:%d-%d: %w", partition, first, last, err)
	}
	return stands, rejected, nil
}
