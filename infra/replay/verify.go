package replay

// This file stands beside the read models: it folds the log afresh and compares what comes out with what is served.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

// VerifySchema is where Verify folds; it is dropped before and after.
const VerifySchema = "read_verify"

// clockMargin is how far this machine's clock may be ahead of the one by which erasures are done.
const clockMargin = time.Minute

// foldRecords is how many records a fold into Postgres takes at a time. Nobody waits for them.
const foldRecords = 2000

// Verify compares what is served with what the log says.
type Verify struct {
	Cluster *kafka.Cluster
	// Pool looks at the schema that is served, and Scratch has VerifySchema first in its search path.
	Pool, Scratch *pgxpool.Pool
	Served        string
	// ClickHouse is the projector into the generation that is served.
	ClickHouse *projections.ClickHouse
	Opener     projections.Opener
	// Unfinished lists the accounts in which something is being erased, or has been since a time: ClickHouse may still hold
	// what the log cannot say any more.
	Unfinished func(ctx context.Context, since time.Time) ([]string, error)
	// Limit is how many differences are listed of each table.
	Limit int
	// Out is told of every table, and Progress of the fold.
	Out      io.Writer
	Progress *progress.Progress
	Logger   *slog.Logger
}

// Run returns the differences.
func (v Verify) Run(ctx context.Context) (found []projections.Difference, err error) {
	begun := time.Now().Add(-clockMargin)
	alone, err := postgres.HoldAlone(ctx, v.Pool, ErrBusy, postgres.VerifyLock, postgres.RebuildPostgresLock, postgres.RebuildClickHouseLock)
	if err != nil {
		return nil, err
	}
	defer alone()
	served, scratch := projections.NewPostgres(v.Pool, v.Served, v.Logger), projections.NewPostgres(v.Scratch, VerifySchema, v.Logger)
	if err := served.Ours(ctx); err != nil {
		return nil, err
	}
	if err := scratch.Drop(ctx); err != nil {
		return nil, err
	}
	if err := scratch.Prepare(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, scratch.Drop(context.WithoutCancel(ctx))) }()
	if err := scratch.Forgo(ctx); err != nil {
		return nil, err
	}

	analytics, err := v.clickhouseStands(ctx, served)
	if err != nil {
		return nil, err
	}
	expected := projections.NewDigest(v.Opener, analytics)
	counting := count(ctx, scratch, expected)
	fold := Fold{
		Cluster: v.Cluster, Target: scratch, BatchRecords: foldRecords, Progress: v.Progress, Applied: counting.add,
	}
	var comparison *projections.Comparison
	err = fold.meet(ctx, "folding the log afresh", served, scratch.Analyze, func(ctx context.Context, _ *projections.Frozen) (err error) {
		comparison, err = projections.Compare(ctx, v.Pool, v.Served, VerifySchema)
		return err
	})
	if counted := counting.wait(); counted != nil {
		err = errors.Join(counted, err)
	}
	if err != nil {
		if comparison != nil {
			err = errors.Join(err, comparison.Close(ctx))
		}
		return nil, err
	}
	found, err = v.postgres(ctx, comparison)
	if err := errors.Join(err, comparison.Close(ctx)); err != nil {
		return found, err
	}
	differ, err := v.clickhouse(ctx, expected, analytics, begun)
	return append(found, differ...), err
}

// counting adds what has been folded into Postgres to what ClickHouse should have, while the next batch is folded.
type counting struct {
	folded  *projections.Postgres
	digest  *projections.Digest
	batches chan foldedBatch
	group   *errgroup.Group
	failed  <-chan struct{}
}

// errNotCounted ends a fold whose batches cannot be added; why, wait says.
var errNotCounted = errors.New("what has been folded could not be counted")

type foldedBatch struct {
	partition int32
	records   []domain.Recorded
}

func count(ctx context.Context, folded *projections.Postgres, digest *projections.Digest) *counting {
	c := &counting{folded: folded, digest: digest, batches: make(chan foldedBatch, 1)}
	group, within := errgroup.WithContext(ctx)
	c.group, c.failed = group, within.Done()
	group.Go(func() error {
		for batch := range c.batches {
			if err := c.count(within, batch); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

func (c *counting) add(ctx context.Context, partition int32, batch []domain.Recorded) error {
	select {
	case c.batches <- foldedBatch{partition, batch}:
		return nil
	case <-c.failed:
		return errNotCounted
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *counting) count(ctx context.Context, batch foldedBatch) error {
	first, last := batch.records[0].Offset, batch.records[len(batch.records)-1].Offset
	_, rejected, err := c.folded.Outcomes(ctx, batch.partition, first, last)
	if err != nil {
		return err
	}
	return c.digest.Add(ctx, batch.records, rejected)
}

// wait returns when everything has been added. Nothing may be added any more.
func (c *counting) wait() error {
	close(c.batches)
	return c.group.Wait()
}

// clickhouseStands is how far ClickHouse has come, partition by partition.
func (v Verify) clickhouseStands(ctx context.Context, served *projections.Postgres) (map[int32]int64, error) {
	stand, err := served.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	for partition := range stand {
		if stand[partition], _, err = v.ClickHouse.Checkpoint(ctx, partition); err != nil {
			return nil, err
		}
	}
	return stand, nil
}

func (v Verify) postgres(ctx context.Context, comparison *projections.Comparison) (all []projections.Difference, err error) {
	err = comparison.Differences(ctx, v.Limit, func(table string, rows int64, found []projections.Difference) {
		v.tell("postgres "+table, uint64(rows), found, len(found) == v.Limit)
		all = append(all, found...)
	})
	return all, err
}

func (v Verify) clickhouse(ctx context.Context, expected *projections.Digest, upTo map[int32]int64, begun time.Time) ([]projections.Difference, error) {
	served, err := v.ClickHouse.Digest(ctx, upTo)
	if err != nil {
		return nil, err
	}
	found := expected.Differences(served)
	if len(found) > 0 {
		erasing, err := v.Unfinished(ctx, begun)
		if err != nil {
			return nil, err
		}
		all := len(found)
		found = slices.DeleteFunc(found, func(d projections.Difference) bool { return slices.Contains(erasing, d.Account) })
		if len(found) < all {
			_, _ = fmt.Fprintf(v.Out, "clickhouse: %d places are not compared, since erasures were under way there; give the command again\n", all-len(found))
		}
	}
	v.tell("clickhouse messages and conversations", expected.Rows(), found[:min(len(found), v.Limit)], len(found) > v.Limit)
	return found, nil
}

// tell prints a table's verdict.
func (v Verify) tell(table string, rows uint64, found []projections.Difference, more bool) {
	if len(found) == 0 {
		_, _ = fmt.Fprintf(v.Out, "%s: %d rows agree\n", table, rows)
		return
	}
	_, _ = fmt.Fprintf(v.Out, "%s: %d rows, which do not agree:\n", table, rows)
	for _, difference := range found {
		_, _ = fmt.Fprintf(v.Out, "  %s\n", difference)
	}
	if more {
		_, _ = fmt.Fprintf(v.Out, "  and perhaps more\n")
	}
}
