package projections

// This file stands at the fold, where it has stopped: an operator's decision moves it past one record.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
)

// Why a record cannot be skipped.
var (
	// ErrReadable: the fold can read the record; what should not have happened is undone by another command.
	ErrReadable = errors.New("the record can be folded")
	// ErrFolded: the read models hold the record's commit. Skipping it now would have every replay differ from them.
	ErrFolded = errors.New("the record has been folded")
	// ErrNotThere: the fold has not come to the record.
	ErrNotThere = errors.New("the fold does not stand in front of the record")
)

// Skip moves the checkpoint past a record that cannot be folded, and in front of which it must stand; decoded says that
// record holds a commit, which is then tried. The record goes to the losers. It is done under the checkpoint's lock, so
// that no projector, not even one of a newer binary, can fold the record meanwhile. A record that lost or was skipped
// before is skipped again without a change.
func (p *Postgres) Skip(ctx context.Context, record domain.Recorded, decoded bool) error {
	err := p.skip(ctx, record, decoded)
	if errors.Is(err, ErrFenced) {
		err = p.skippable(ctx, record.Position)
	}
	if err != nil {
		return fmt.Errorf("skip %d:%d: %w", record.Partition, record.Offset, err)
	}
	return nil
}

func (p *Postgres) skip(ctx context.Context, record domain.Recorded, decoded bool) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	skipped := domain.Recorded{Position: record.Position, Hash: record.Hash, Skipped: true}
	looked := skipped
	if decoded {
		looked = record
	}
	clock, standing, err := p.begin(ctx, conn, record.Partition, record.Offset-1, []domain.Recorded{looked})
	if err == nil && decoded && newWork(p.folders, standing, clock).fold(record) == nil {
		err = ErrReadable
	}
	passing := newWork(p.folders, standing, clock)
	if err == nil {
		err = passing.fold(skipped)
	}
	if err == nil {
		err = p.finish(ctx, conn, passing, record.Partition, record.Offset-1, []domain.Recorded{skipped})
	}
	if err != nil {
		abandon(ctx, conn)
	}
	return err
}

// skippable says of a record in front of which the fold does not stand whether it counts as passed over.
func (p *Postgres) skippable(ctx context.Context, at domain.Position) error {
	const query = `
		SELECT c.off, EXISTS (SELECT FROM rejections r WHERE r.part = $1 AND r.off = $2) FROM checkpoints c WHERE c.part = $1`
	stands, lost := int64(-1), false
	err := p.pool.QueryRow(ctx, query, at.Partition, at.Offset).Scan(&stands, &lost)
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("read the checkpoint: %w", err)
	case stands < at.Offset:
		return fmt.Errorf("%w: it stands behind %d", ErrNotThere, stands)
	case !lost:
		return ErrFolded
	}
	return nil
}
