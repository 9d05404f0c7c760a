package main

// This file stands beside the fold: how far each projector is behind, asked of the log and of the stores that they fill.
// Any node can say so, also of projectors that run elsewhere, or nowhere.

import (
	"context"
	"sync"
	"time"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/telemetry"
)

// The projectors, as /readyz and metrics name them; a consumer group's name ends with the same.
const (
	foldProjector      = "postgres"
	analyticsProjector = "clickhouse"
	requestsProjector  = "requests"
)

// lags remembers, between two looks, what need not be asked twice.
type lags struct {
	cluster *kafka.Cluster

	mu     sync.Mutex
	passed map[string]map[int32]int64  // checkpoints as they were last seen; a store that is away moves none of them
	oldest map[string]map[int32]oldest // the records that waited longest, at the last look
}

// oldest is a record and when it was written, as far as is known.
type oldest struct {
	offset int64
	at     time.Time
}

func newLags(cluster *kafka.Cluster) *lags {
	return &lags{cluster: cluster, passed: map[string]map[int32]int64{}, oldest: map[string]map[int32]oldest{}}
}

// measure says how far a projector is behind on each partition. passed is nil where its store could not be asked: then
// it stands where it stood. It has nothing to say where that is not known either.
func (l *lags) measure(ctx context.Context, projector, topic string, extents kafka.Extents, passed map[int32]int64) []telemetry.Lag {
	l.mu.Lock()
	if passed == nil {
		passed = l.passed[projector]
	} else {
		l.passed[projector] = passed
	}
	known := l.oldest[projector]
	l.mu.Unlock()
	if passed == nil {
		return nil
	}
	now, waiting, unknown := time.Now(), map[int32]oldest{}, map[int32]int64{}
	found := make([]telemetry.Lag, 0, len(extents))
	for partition, extent := range extents {
		next := extent.Begin
		if checkpoint, folded := passed[partition]; folded {
			next = max(next, checkpoint+1)
		}
		lag := telemetry.Lag{Projector: projector, Partition: partition, Records: max(0, extent.End-next)}
		if lag.Records > 0 {
			waiting[partition] = oldest{offset: next, at: now}
			if before, ok := known[partition]; ok && before.offset == next {
				waiting[partition] = before
			} else {
				unknown[partition] = next
			}
		}
		found = append(found, lag)
	}
	if len(unknown) > 0 {
		// One whose time cannot be read has waited since now, as far as this node knows.
		written, _ := l.cluster.Written(ctx, topic, unknown)
		for partition, at := range written {
			waiting[partition] = oldest{offset: unknown[partition], at: at}
		}
	}
	l.mu.Lock()
	l.oldest[projector] = waiting
	l.mu.Unlock()
	for i, lag := range found {
		if record, ok := waiting[lag.Partition]; ok {
			found[i].Age = max(0, now.Sub(record.at))
		}
	}
	return found
}

// byProjector adds up the partitions, as /readyz tells it.
func byProjector(found []telemetry.Lag) map[string]api.Lag {
	sums := map[string]api.Lag{}
	for _, lag := range found {
		sum := sums[lag.Projector]
		sum.Records += lag.Records
		sum.Age = max(sum.Age, lag.Age)
		sums[lag.Projector] = sum
	}
	return sums
}
