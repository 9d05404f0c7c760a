package main

// This file stands at the fold: the projectors of this process, each with the log that it reads and the store that it fills.

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/requestlog"
)

// startProjectors makes the consumers: the fold into Postgres, and, once ClickHouse is there, what goes into it.
func (n *node) startProjectors(parts *errgroup.Group, ctx context.Context) error {
	if err := n.startFold(parts, ctx); err != nil {
		return err
	}
	parts.Go(func() error { return n.runAnalytics(ctx) })
	return nil
}

// startFold makes the consumer that folds the log into Postgres.
func (n *node) startFold(parts *errgroup.Group, ctx context.Context) error {
	fold, err := n.cluster.Consumer(kafka.ConsumerConfig{
		Topic: n.cluster.Events(), Name: foldProjector, Handler: kafka.Commits(n.traced(n.postgres, foldProjector)), Observer: n.metrics,
	})
	if err != nil {
		return err
	}
	n.health.watch("postgres projector", fold, true)
	n.projectors.Add(fold)
	parts.Go(func() error { return ended(fold.Run(ctx)) })
	return nil
}

// runAnalytics prepares ClickHouse as soon as it answers and then fills it. Nothing else waits for it.
func (n *node) runAnalytics(ctx context.Context) error {
	if err := n.prepareAnalytics(ctx); err != nil {
		return ended(err)
	}
	sink := requestlog.NewSink(n.requestRows, n.keyring, n.log)
	var running sync.WaitGroup
	running.Go(func() {
		n.consumeAside(ctx, "clickhouse projector", n.analytics, kafka.ConsumerConfig{
			Topic: n.cluster.Events(), Name: analyticsProjector, Handler: kafka.Commits(n.traced(n.analytics, analyticsProjector)), MaxRecords: analyticsRecords, MaxBytes: analyticsBytes, Linger: analyticsLinger, Observer: n.metrics,
		})
	})
	running.Go(func() {
		n.consumeAside(ctx, "request log", sink, kafka.ConsumerConfig{
			Topic: n.cluster.RequestsTopic(), Name: requestsProjector, Handler: kafka.Bundles(sink), Expires: true, Linger: analyticsLinger, Observer: n.metrics,
		})
	})
	running.Wait()
	return nil
}

const (
	// asideAgain is how soon a consumer that stopped for good looks whether an operator has mended what it found.
	asideAgain = 15 * time.Second
	// asideSettled is for how long it must run then to count as running: finding out takes it up to two seconds.
	asideSettled = 5 * time.Second
)

// consumeAside runs a consumer that chat does not need. Where the log is not the one that its store has folded, it stops
// and says so, and everything else goes on.
func (n *node) consumeAside(ctx context.Context, name string, sink idler, config kafka.ConsumerConfig) {
	for ctx.Err() == nil {
		consumer, err := n.cluster.Consumer(config)
		if err == nil {
			err = n.consumeOnce(ctx, name, sink, consumer)
		}
		if ctx.Err() != nil {
			return
		}
		n.health.gaveUp(name, err)
		n.log.ErrorContext(ctx, "projector stopped; the node goes on without it", "projector", name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(asideAgain):
		}
	}
}

func (n *node) consumeOnce(ctx context.Context, name string, sink idler, consumer *kafka.Consumer) error {
	ctx, stop := context.WithCancel(ctx)
	n.health.watch(name, consumer, false)
	n.projectors.Add(consumer)
	settled := time.AfterFunc(asideSettled, func() { n.health.gaveUp(name, nil) })
	var marking sync.WaitGroup
	marking.Go(func() { markIdle(ctx, consumer, sink, n.log) })
	defer marking.Wait()
	defer stop()
	defer settled.Stop()
	return ended(consumer.Run(ctx))
}

// analyticsLinger lets small batches grow. Each insert makes a part, and merging parts is what ClickHouse spends its time
// on: a quarter of the inserts leaves it well below half of the CPU, and logs and statistics are still there in a second.
const analyticsLinger = 400 * time.Millisecond

// analyticsRecords and analyticsBytes bound a batch of a projector that catches up: whatever its size, it costs four round
// trips and two parts. Records hold 1 KB as a rule; two batches are in memory for each partition.
const (
	analyticsRecords = 5000
	analyticsBytes   = 16 << 20
)

// prepareAnalytics makes databases and tables, again and again until ClickHouse has them.
func (n *node) prepareAnalytics(ctx context.Context) error {
	told := false
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := n.clickhouse.Prepare(ctx)
		if err == nil {
			err = n.requestRows.Prepare(ctx)
		}
		if err == nil {
			err = n.analytics.Prepare(ctx)
		}
		if err == nil {
			n.health.analytics.Store(true)
			return nil
		}
		if !told {
			n.log.WarnContext(ctx, "clickhouse is not ready; logs and statistics wait for it", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// idler notes that everything up to an instant has been written.
type idler interface {
	Idle(ctx context.Context, partition int32, at time.Time) error
}

// markIdle moves the watermark of a log that is quiet: nothing new is also something to know.
func markIdle(ctx context.Context, consumer *kafka.Consumer, sink idler, log *slog.Logger) {
	const every = time.Second
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-ticker.C:
		}
		for _, partition := range consumer.Status().Partitions {
			if partition.Lag > 0 || partition.Waiting != nil || partition.Stopped != nil {
				continue
			}
			// A tick ago, since the end of the log is known from the last fetch.
			if err := sink.Idle(ctx, partition.Partition, now.Add(-every)); err != nil && ctx.Err() == nil {
				log.DebugContext(ctx, "watermark not moved", "error", err)
			}
		}
	}
}
