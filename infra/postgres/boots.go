package postgres

// This file stands beside the story: which processes are alive. The sweeper ends the turns of those that are not.

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Boots is the list of living processes.
type Boots struct {
	pool *pgxpool.Pool
	host string
}

// Boot is a process, from its start to its end.
type Boot struct {
	ID      string
	Beat    int64 // counts up while it lives; whoever judges watches it by a clock of their own
	Host    string
	Started time.Time
}

// NewBoots gives the list a pool.
func NewBoots(pool *pgxpool.Pool) (*Boots, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("ask for the host's name: %w", err)
	}
	return &Boots{pool: pool, host: host}, nil
}

// Beat says that the boot is alive. The first one, before the boot takes any work, makes it known; so does one that
// comes after the boot was given up for dead.
func (b *Boots) Beat(ctx context.Context, id string) error {
	const query = `
		INSERT INTO boots (id, host) VALUES ($1, $2)
		ON CONFLICT (id) DO UPDATE SET beat = boots.beat + 1, beaten_at = now()`
	if _, err := b.pool.Exec(ctx, query, id, b.host); err != nil {
		return fmt.Errorf("renew the boot: %w", err)
	}
	return nil
}

// All lists the boots, the oldest first.
func (b *Boots) All(ctx context.Context) ([]Boot, error) {
	rows, err := b.pool.Query(ctx, `SELECT id, beat, host, started_at AS started FROM boots ORDER BY started_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list the boots: %w", err)
	}
	boots, err := pgx.CollectRows(rows, pgx.RowToStructByName[Boot])
	if err != nil {
		return nil, fmt.Errorf("list the boots: %w", err)
	}
	return boots, nil
}

// Remove strikes boots off: one's own at an orderly end, others' when their turns have been ended.
func (b *Boots) Remove(ctx context.Context, ids ...string) error {
	if _, err := b.pool.Exec(ctx, `DELETE FROM boots WHERE id = ANY($1)`, ids); err != nil {
		return fmt.Errorf("remove boots: %w", err)
	}
	return nil
}
