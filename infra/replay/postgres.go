package replay

// This file stands beside the Postgres read models: it fills the next generation while the old one serves.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

// The schemas beside the one that serves: the generation that is being filled, and the one that was replaced.
const (
	NextSchema = "read_next"
	oldSchema  = "read_old"
)

// dropPatience is how long transactions under way may go on using the old generation.
const dropPatience = 2 * time.Minute

// postgresReadModels is how they are called where their generation is kept.
const postgresReadModels = "postgres"

// Postgres rebuilds the Postgres read models.
type Postgres struct {
	Cluster *kafka.Cluster
	// Pool has the schema that is served first in its search path, and Next has NextSchema.
	Pool, Next *pgxpool.Pool
	Served     string
	// BatchRecords is how many records make a transaction. 0 is the default.
	BatchRecords int
	Out          io.Writer
	Progress     *progress.Progress
	Logger       *slog.Logger
}

// Run rebuilds and switches. Where it was cut off before, it goes on.
func (r Postgres) Run(ctx context.Context) error {
	alone, err := postgres.HoldAlone(ctx, r.Pool, ErrBusy, postgres.RebuildPostgresLock)
	if err != nil {
		return err
	}
	defer alone()
	if err := r.dropOld(ctx); err != nil { // of a rebuild that died behind its switch
		return err
	}
	served, next := projections.NewPostgres(r.Pool, r.Served, r.Logger), projections.NewPostgres(r.Next, NextSchema, r.Logger)
	if err := next.Prepare(ctx); err != nil {
		return err
	}
	fold := Fold{Cluster: r.Cluster, Target: next, BatchRecords: orDefault(r.BatchRecords, foldRecords), Progress: r.Progress}
	err = fold.meet(ctx, "rebuilding postgres", served, next.Analyze, func(ctx context.Context, frozen *projections.Frozen) error {
		return frozen.Commit(ctx, func(tx pgx.Tx) error {
			if err := next.Replace(ctx, tx, r.Served, oldSchema); err != nil {
				return err
			}
			generation, err := postgres.Generation(ctx, tx, postgresReadModels)
			if err == nil {
				_, err = postgres.NextGeneration(ctx, tx, postgresReadModels, generation)
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("rebuild postgres: %w", err)
	}
	_, _ = fmt.Fprintln(r.Out, "the new read models serve; dropping the old ones")
	return r.dropOld(ctx)
}

// dropOld drops the generation that was replaced, when the last query that began before has ended.
func (r Postgres) dropOld(ctx context.Context) error {
	old := projections.NewPostgres(r.Pool, oldSchema, r.Logger)
	ctx, cancel := context.WithTimeoutCause(ctx, dropPatience, errors.New("somebody has used it for minutes; give the command again to drop it"))
	defer cancel()
	if err := old.AwaitUnused(ctx); err != nil {
		return err
	}
	return old.Drop(ctx)
}

func orDefault(value, fallback int) int {
	if value == 0 {
		return fallback
	}
	return value
}
