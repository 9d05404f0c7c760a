package replay

// This file stands beside ClickHouse's read models: it fills the database of the next generation while the old one
// serves.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

// analyticsRecords is how many records a fold into ClickHouse takes at a time: it is at its best with few large batches.
const analyticsRecords = 5000

// ClickHouse rebuilds ClickHouse's read models.
type ClickHouse struct {
	Cluster *kafka.Cluster
	Pool    *pgxpool.Pool // on the Postgres read models that are served
	Served  string        // their schema
	Client  *clickhouse.Client
	Opener  projections.Opener
	// ReadModel is how they are called where their generation is kept.
	ReadModel    string
	BatchRecords int // 0 is the default
	// Grace is how long nodes have to follow the switch before the old generation is dropped.
	Grace    time.Duration
	Out      io.Writer
	Progress *progress.Progress
	Logger   *slog.Logger
}

// Run rebuilds and switches. Where it was cut off before, it goes on.
func (r ClickHouse) Run(ctx context.Context) error {
	alone, err := postgres.HoldAlone(ctx, r.Pool, ErrBusy, postgres.RebuildClickHouseLock)
	if err != nil {
		return err
	}
	defer alone()
	serving, err := postgres.Generation(ctx, r.Pool, r.ReadModel)
	if err != nil {
		return err
	}
	database := r.Client.Generation(serving + 1)
	if err := r.Client.CreateDatabase(ctx, database); err != nil {
		return err
	}
	served := projections.NewPostgres(r.Pool, r.Served, r.Logger)
	next := projections.NewClickHouse(r.Client, database, r.Opener, verdicts{served}, r.Logger)
	if err := next.Prepare(ctx); err != nil {
		return err
	}
	fold := Fold{Cluster: r.Cluster, Target: next, BatchRecords: orDefault(r.BatchRecords, analyticsRecords), Progress: r.Progress}
	// The generation that serves is never ahead of the Postgres fold. While that one is held still, the next generation
	// catches up with it, and so holds at least what the old one does.
	err = fold.meet(ctx, "rebuilding clickhouse", served, nil, func(ctx context.Context, frozen *projections.Frozen) error {
		return frozen.Commit(ctx, func(tx pgx.Tx) error {
			_, err := postgres.NextGeneration(ctx, tx, r.ReadModel, serving)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("rebuild clickhouse: %w", err)
	}
	_, _ = fmt.Fprintf(r.Out, "%s serves; dropping the old one in %s\n", database, r.Grace)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(r.Grace):
	}
	return r.Client.DropGenerations(ctx, serving+1)
}

// verdicts are the Postgres fold's, of records that it has passed already.
type verdicts struct{ served *projections.Postgres }

// Passed implements what the projector asks: the fold is only fed what has been passed.
func (v verdicts) Passed(ctx context.Context, position domain.Position) error {
	stands, _, err := v.served.Outcomes(ctx, position.Partition, position.Offset, position.Offset)
	if err == nil && stands < position.Offset {
		err = fmt.Errorf("the Postgres fold stands at %d:%d, before %d", position.Partition, stands, position.Offset)
	}
	return err
}

// Rejected implements what the projector asks.
func (v verdicts) Rejected(ctx context.Context, partition int32, first, last int64) ([]int64, error) {
	_, rejected, err := v.served.Outcomes(ctx, partition, first, last)
	return rejected, err
}
