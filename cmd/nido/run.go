package main

// This file is a node's life: start, catch up with the log, serve, and stop in the order in which nothing is lost.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

const (
	beatEvery = 5 * time.Second
	// chatMargin is how much longer than its turn a chat's connection may stay open.
	chatMargin = time.Minute
	// cutOffTimeout bounds the wait for requests whose connections were cut: they still end their turns.
	cutOffTimeout = 10 * time.Second
	// lastWords is how long turns that were ended at the stop have for telling so.
	lastWords = 3 * time.Second
	// flushTimeout bounds the wait for the request log at the end.
	flushTimeout = 5 * time.Second
	// signOffTimeout bounds taking the boot off the list of living ones.
	signOffTimeout = 2 * time.Second
)

// run works until the context ends or a part fails. first is called when the node has caught up, before it serves.
func (n *node) run(ctx context.Context, listener, operators net.Listener, first func(context.Context) error) error {
	defer n.serveOperators(ctx, operators)()
	// The parts outlive the signal: turns that are being finished need the fold, and the request log its worker.
	background, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	parts, background := errgroup.WithContext(background)
	signOff, err := n.startParts(parts, background)
	if err != nil {
		stopParts()
		return errors.Join(err, parts.Wait())
	}
	queueDone := make(chan struct{})
	go func() {
		defer close(queueDone)
		n.queue.Run(background)
	}()

	err = n.serve(ctx, background, parts, listener, first)
	n.chat.Close()
	n.blanks.Close()
	flush, giveUp := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer giveUp()
	if lost := n.queue.Close(flush); lost != nil {
		n.log.WarnContext(ctx, "request log not flushed", "error", lost)
	}
	signOff(context.WithoutCancel(ctx))
	stopParts()
	<-queueDone
	return errors.Join(err, parts.Wait())
}

// startParts starts what works beside the requests. signOff, behind the last turn, takes the boot off the list.
func (n *node) startParts(parts *errgroup.Group, background context.Context) (signOff func(context.Context), err error) {
	parts.Go(func() error { return ended(n.progress.Run(background)) })
	parts.Go(func() error { return n.followGeneration(background) })
	parts.Go(func() error { return n.guard.Run(background) })
	if n.has(roleProjector) {
		if err := n.startProjectors(parts, background); err != nil {
			return nil, err
		}
	}
	signOff = func(context.Context) {}
	if n.has(roleAPI) || n.has(roleSweeper) {
		if err := n.boots.Beat(background, n.boot); err != nil { // before the first turn: its boot must be known
			return nil, fmt.Errorf("give the first life sign: %w", err)
		}
		signOff = n.keepBeating(parts, background)
	}
	parts.Go(func() error { return n.keyUses.Run(background) })
	parts.Go(func() error { return n.deprecated.Run(background) })
	parts.Go(func() error { return n.watch.Run(background) })
	return signOff, nil
}

// keepBeating gives life signs until it is told to sign off.
func (n *node) keepBeating(parts *errgroup.Group, background context.Context) (signOff func(context.Context)) {
	beating, stop := context.WithCancel(background)
	stopped := make(chan struct{})
	parts.Go(func() error {
		defer close(stopped)
		return commands.Beat(beating, lifeSigns{n.boots}, n.boot, beatEvery, n.log)
	})
	return func(ctx context.Context) {
		stop()
		<-stopped // a life sign that came behind it would put the boot back
		ctx, leave := context.WithTimeout(ctx, signOffTimeout)
		defer leave()
		if err := n.boots.Remove(ctx, n.boot); err != nil {
			n.log.WarnContext(ctx, "boot not signed off", "error", err)
		}
	}
}

// serve answers HTTP until the context ends or a part fails, then finishes the running turns.
func (n *node) serve(ctx, background context.Context, parts *errgroup.Group, listener net.Listener, first func(context.Context) error) error {
	requests := &running{handler: n.handler}
	server := api.NewServer("", requests, api.Patience{Header: n.settings.HeaderTimeout, Whole: n.settings.BodyTimeout})
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(listener) }()
	go func() { _ = server.Serve(n.returned) }() // which ends with the server

	err := n.catchUp(ctx, background)
	if err == nil && ctx.Err() == nil && background.Err() == nil {
		if err = n.eraser.Catch(ctx); err == nil {
			err = first(ctx)
		}
	}
	if err == nil {
		if n.has(roleAPI) {
			parts.Go(func() error { return n.chat.Watch(background, projections.NewConversations(n.pool)) })
		}
		if n.has(roleSweeper) {
			parts.Go(func() error { return n.sweeper.Run(background) })
			parts.Go(func() error { return n.eraser.Run(background) })
			parts.Go(func() error { return n.sweepAnswers(background) })
		}
		n.health.serving.Store(true)
		select {
		case <-ctx.Done():
			n.takeLeave(background)
		case <-background.Done():
		case err = <-serving:
			err = fmt.Errorf("serve HTTP: %w", err)
		}
	}
	// Turns have their time; those that need more are ended, and whoever follows them is told.
	draining, giveUp := context.WithTimeout(context.WithoutCancel(ctx), n.settings.StopTimeout)
	defer giveUp()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		n.chat.Drain(draining)
	}()
	defer func() { <-drained }()
	stopping, cutOff := context.WithTimeout(context.WithoutCancel(ctx), n.settings.StopTimeout+lastWords)
	defer cutOff()
	streams := make(chan error, 1)
	go func() { streams <- n.handler.Finish(stopping) }() // beside the server, since idle connections are to go now
	if unfinished := errors.Join(server.Shutdown(stopping), <-streams); unfinished != nil {
		n.log.WarnContext(ctx, "requests cut off", "error", unfinished)
		_ = server.Close() // its errors are those of connections that are being cut off anyway
		last, giveUp := context.WithTimeout(context.WithoutCancel(ctx), cutOffTimeout)
		defer giveUp()
		if !requests.ended(cutOffTimeout) || n.handler.Finish(last) != nil {
			n.log.WarnContext(ctx, "requests given up; a sweeper ends their turns")
		}
	}
	return err
}

// takeLeave goes on serving for a while as a node that is not ready: connections that come before load balancers have seen
// that it goes would be refused.
func (n *node) takeLeave(background context.Context) {
	n.health.leaving.Store(true)
	if n.settings.StopDelay > 0 {
		select {
		case <-time.After(n.settings.StopDelay):
		case <-background.Done():
		}
	}
}

// running knows whether requests are being answered. A server that cuts connections off does not wait for those that it
// was answering, but they have turns to end and lines to write into the request log, with parts that must still run.
type running struct {
	handler http.Handler
	mu      sync.RWMutex
}

// ServeHTTP implements http.Handler.
func (r *running) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.handler.ServeHTTP(w, request)
}

// ended waits until every request has been answered, and lets no further one begin. It reports whether that was in time.
func (r *running) ended(limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.mu.Lock()
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// catchUp waits until the fold has passed everything that was in the log when the node started: what was answered
// before must be visible before anything is answered anew. From then on the same holds for every server that Postgres
// turns out to be.
func (n *node) catchUp(ctx, background context.Context) error {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(background, stop)()
	if err := n.guard.Establish(waiting); err != nil && waiting.Err() == nil {
		return err
	}
	return nil // or it was told to stop, or a part has failed and says why itself
}

// textAge is how old the text of a running turn may get: a turn's time, and that in which its end is tried again and again.
func textAge(turn time.Duration) time.Duration { return 3*turn + 5*time.Minute }

// sweepAnswers forgets answers whose Idempotency-Key has expired, counters that nothing counts on any more, and
// text that nodes left behind when they died; and it finds accounts at their limits of whom nobody has told.
func (n *node) sweepAnswers(ctx context.Context) error {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		if err := n.watch.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "accounts at their limits not looked for", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := n.idempotency.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "expired answers not forgotten", "error", err)
		}
		if _, err := n.admission.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "old counters not dropped", "error", err)
		}
		if _, err := n.waiters.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "places of dead nodes' waiters not dropped", "error", err)
		}
		if _, err := n.deprecated.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "old uses of what is deprecated not dropped", "error", err)
		}
		if _, err := n.texts.Sweep(ctx, textAge(n.settings.TurnTimeout)); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "text of ended turns not dropped", "error", err)
		}
	}
}

// close lets go of what was opened, clients before the connections they use.
func (n *node) close() error {
	var faults []error
	if n.models != nil {
		n.models.Close()
	}
	if n.requests != nil {
		faults = append(faults, n.requests.Close())
	}
	if n.events != nil {
		faults = append(faults, n.events.Close())
	}
	if n.cluster != nil {
		faults = append(faults, n.cluster.Close())
	}
	if n.clickhouse != nil {
		faults = append(faults, n.clickhouse.Close())
	}
	n.closePools()
	if n.traces != nil {
		last, giveUp := context.WithTimeout(context.Background(), lastSpans) // the node's own context is over
		defer giveUp()
		faults = append(faults, n.traces.Close(last))
	}
	return errors.Join(faults...)
}

// poolPatience bounds the wait for connections that are in use. A request that was given up may hold one.
const poolPatience = 5 * time.Second

func (n *node) closePools() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for _, pool := range []*pgxpool.Pool{n.pool, n.foldPool, n.asidePool} {
			if pool != nil {
				pool.Close()
			}
		}
	}()
	select {
	case <-closed:
	case <-time.After(poolPatience):
		n.log.Warn("connections to postgres are still in use; they end with the process")
	}
}

// ended drops the error of a part that was told to end.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// closing adds the error of a clean-up to one that came before.
func closing(err error, clean func() error) error { return errors.Join(err, clean()) }

// ignoreClosed: a server that was shut down has closed its listener itself.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
