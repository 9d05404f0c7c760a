package main

// This file stands beside the story: what /readyz and the start of a node ask, by real queries.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/telemetry"
	"github.com/nidohq/nido/projections"
)

// checkTimeout bounds one look at everything.
const checkTimeout = 900 * time.Millisecond

// recordTimeout bounds the questions how old records are, which come behind that.
const recordTimeout = 300 * time.Millisecond

// health implements api.Health.
type health struct {
	cluster    *kafka.Cluster
	clickhouse *clickhouse.Client
	progress   *projections.Progress
	guard      *postgres.Guard

	folds       *projections.ClickHouse
	requestRows *projections.Requests
	lags        *lags

	serving   atomic.Bool // the node has caught up
	leaving   atomic.Bool // and has been told to stop
	analytics atomic.Bool // ClickHouse's tables are there

	looks singleflight.Group

	mu       sync.Mutex
	watched  []watched
	measured stall
	asked    *question // of ClickHouse, while it has not answered
}

// question is one that several may wait for.
type question struct {
	answered chan struct{}
	err      error
	folded   map[int32]int64 // the checkpoints of the fold, and of the request log; nil where they cannot be read
	logged   map[int32]int64
}

type watched struct {
	name     string
	consumer *kafka.Consumer
	needed   bool  // for chat
	gaveUp   error // nil while it runs
}

// stall is where the fold stood when it was last seen to have moved, or to have nothing to do.
type stall struct {
	passed int64
	since  time.Time
}

// stalledAfter is how long the fold may stand still before records that wait for it make a node unready.
const stalledAfter = 5 * time.Second

// watch adds a consumer of this process to what is reported, or puts it in the place of the one before.
func (h *health) watch(name string, consumer *kafka.Consumer, needed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.watched {
		if h.watched[i].name == name {
			h.watched[i].consumer = consumer
			return
		}
	}
	h.watched = append(h.watched, watched{name: name, consumer: consumer, needed: needed})
}

// gaveUp notes why a consumer runs no more while the node does, or, with nil, that it runs again.
func (h *health) gaveUp(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.watched {
		if h.watched[i].name == name {
			h.watched[i].gaveUp = err
		}
	}
}

// sight is what one look at everything found.
type sight struct {
	ready   bool
	parts   map[string]string
	engines map[string]bool
	lags    []telemetry.Lag
}

// Check implements api.Health.
func (h *health) Check(ctx context.Context) (ready bool, parts map[string]string, lags map[string]api.Lag) {
	seen := h.look(ctx)
	return seen.ready, seen.parts, byProjector(seen.lags)
}

// stands is what metrics tell of it.
func (h *health) stands(ctx context.Context) telemetry.Standing {
	seen := h.look(ctx)
	return telemetry.Standing{Ready: seen.ready, Engines: seen.engines, Lags: seen.lags}
}

// look is one for all who ask while it is under way: it costs every engine a question, and whoever reaches the port may ask
// as often as they like.
func (h *health) look(ctx context.Context) sight {
	seen, _, _ := h.looks.Do("", func() (any, error) { // others may wait for it longer; its steps have their limits
		return h.lookAgain(context.WithoutCancel(ctx)), nil
	})
	return seen.(sight)
}

// lookAgain asks Kafka, Postgres and ClickHouse at once, and then, where a projector is behind, how old its next record is.
func (h *health) lookAgain(ctx context.Context) sight {
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var all sync.WaitGroup
	var events, requests kafka.Extents
	var passed map[int32]int64
	var kafkaErr, postgresErr error
	var analytics question
	all.Go(func() { events, kafkaErr = h.cluster.Extents(asking, h.cluster.Events()) })
	all.Go(func() { requests, _ = h.cluster.Extents(asking, h.cluster.RequestsTopic()) }) // its lag is unknown then
	all.Go(func() { passed, postgresErr = h.progress.Checkpoints(asking) })
	all.Go(func() { analytics = h.askAnalytics(asking) })
	all.Wait()

	seen := sight{
		parts: map[string]string{
			"kafka": says(kafkaErr), "postgres": says(postgresErr), "clickhouse": says(analytics.err), "fold": "ok",
		},
		engines: map[string]bool{"kafka": kafkaErr == nil, "postgres": postgresErr == nil, "clickhouse": analytics.err == nil},
		ready:   kafkaErr == nil && postgresErr == nil,
	}
	if kafkaErr == nil {
		reading, giveUp := context.WithTimeout(ctx, recordTimeout)
		defer giveUp()
		seen.lags = slices.Concat(
			h.lags.measure(reading, foldProjector, h.cluster.Events(), events, passed),
			h.lags.measure(reading, analyticsProjector, h.cluster.Events(), events, analytics.folded),
			h.lags.measure(reading, requestsProjector, h.cluster.RequestsTopic(), requests, analytics.logged),
		)
	}
	if analytics.err == nil && !h.analytics.Load() && h.isWatching() {
		seen.parts["clickhouse"] = "its tables are being made"
	}
	if seen.ready {
		behind, standing := h.foldStands(events.Ends(), passed, byProjector(seen.lags)[foldProjector].Age)
		if behind > 0 {
			seen.parts["fold"] = fmt.Sprintf("%d records behind", behind)
		}
		seen.ready = behind == 0 || standing < stalledAfter
	}
	if h.serving.Load() && !h.guard.Proven() {
		seen.ready = false
		if postgresErr == nil {
			seen.parts["postgres"] = "another server than before: waits until it has folded the log"
		}
	}
	if !h.serving.Load() {
		seen.ready = false
		if seen.parts["fold"] == "ok" {
			seen.parts["fold"] = "catching up"
		}
	}
	seen.ready = h.consumersSay(seen.parts) && seen.ready
	if h.leaving.Load() {
		seen.ready, seen.parts["node"] = false, "stops"
	}
	return seen
}

// askAnalytics asks ClickHouse for at most as long as the context lasts. Its client does not end connecting with a context,
// and whoever probes a node often waits a second: a ClickHouse that hangs must not make a node look dead. One question
// at a time is under way.
func (h *health) askAnalytics(ctx context.Context) question {
	h.mu.Lock()
	asked := h.asked
	if asked == nil {
		asked = &question{answered: make(chan struct{})}
		h.asked = asked
		go func() {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
			defer cancel()
			asked.err = h.clickhouse.Ping(limited)
			if asked.err == nil {
				// Tables that are not there yet have no checkpoints, and that is all there is to say about them.
				asked.folded, _ = h.folds.Checkpoints(limited)
				asked.logged, _ = h.requestRows.Checkpoints(limited)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			h.asked = nil
			close(asked.answered)
		}()
	}
	h.mu.Unlock()
	select {
	case <-asked.answered:
		return *asked
	case <-ctx.Done():
		return question{err: context.Cause(ctx)}
	}
}

func says(err error) string {
	if err != nil {
		return "does not answer"
	}
	return "ok"
}

func (h *health) isWatching() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watched) > 0
}

// foldStands says how many records wait for the fold, the oldest of them for so long, and for how long it has not moved while
// they did. A record that comes after an hour of quiet has not waited for that.
func (h *health) foldStands(ends, passed map[int32]int64, waited time.Duration) (behind int64, standing time.Duration) {
	var sum int64
	for partition, end := range ends {
		checkpoint, folded := passed[partition]
		if !folded {
			checkpoint = -1
		}
		behind += max(0, end-1-checkpoint)
		sum += checkpoint
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if behind == 0 || sum != h.measured.passed || h.measured.since.IsZero() {
		h.measured = stall{passed: sum, since: now}
	}
	return behind, min(now.Sub(h.measured.since), waited)
}

// consumersSay adds this process' projectors to the parts, and reports whether those that chat needs run.
func (h *health) consumersSay(parts map[string]string) (ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready = true
	for _, w := range h.watched {
		status, lag := w.consumer.Status(), int64(0)
		parts[w.name] = "ok"
		for _, partition := range status.Partitions {
			lag += partition.Lag
			switch {
			case partition.Stopped != nil:
				parts[w.name] = fmt.Sprintf("stopped behind %d:%d", partition.Partition, partition.Position)
				ready = ready && !w.needed
			case partition.Waiting != nil:
				parts[w.name] = "waits for its store"
			}
		}
		switch {
		case errors.Is(w.gaveUp, kafka.ErrLogBehind):
			parts[w.name] = "stopped: the log ends before what it has folded"
		case errors.Is(w.gaveUp, kafka.ErrLogDiffers):
			parts[w.name] = "stopped: the log is not the one that it has folded"
		case w.gaveUp != nil:
			parts[w.name] = "stopped"
		case status.Outage != nil:
			parts[w.name] = "cannot read the log"
		}
		if parts[w.name] == "ok" && lag > 10_000 {
			parts[w.name] = fmt.Sprintf("%d records behind", lag)
		}
	}
	return ready
}
