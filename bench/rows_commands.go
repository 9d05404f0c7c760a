//go:build linux

package main

// This file is the rows about commands: how long one takes over a bare append to a file, and what a node's memory does.

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// createAgents is row 8: POST /api/agents alone and 64 at once, over an append of 2 KiB with fdatasync.
func createAgents(ctx context.Context, b *bench) error {
	b.say("row 8: commands, alone and 64 at once")
	if _, err := b.nodes(ctx); err != nil {
		return err
	}
	var syncs, groups []float64
	figures := map[string]*commandFigures{}
	for range b.rounds {
		bare, err := b.appends(1)
		if err != nil {
			return err
		}
		group, err := b.appends(64)
		if err != nil {
			return err
		}
		syncs, groups = append(syncs, bare.P50), append(groups, group.perSecond())
		for _, build := range b.builds() {
			if figures[build] == nil {
				figures[build] = &commandFigures{}
			}
			if err := figures[build].measure(ctx, b, build); err != nil {
				return err
			}
		}
	}
	b.results.add(8, "fsync'd append of 2 KiB: p50", "ms", syncs...)
	b.results.add(8, "fsync'd appends of 64 writers, group commit", "/s", groups...)
	for _, build := range b.builds() {
		f, name := figures[build], b.called(build)
		b.results.add(8, name+": create agent alone: p50", "ms", f.alone...)
		b.results.add(8, name+": create agent alone: p99", "ms", f.alone99...)
		b.results.add(8, name+": create agent, 64 at once: p50", "ms", f.many...)
		b.results.add(8, name+": create agent, 64 at once: p99", "ms", f.many99...)
		b.results.add(8, name+": create agent, 64 at once: per second", "/s", f.rates...)
		b.results.add(8, name+": configure agent (one commit) alone: p50", "ms", f.single...)
		b.results.add(8, name+": configure agent alone: p50 over append", "×", over(f.single, syncs)...)
		b.results.add(8, name+": create agent alone: p50 over append", "×", over(f.alone, syncs)...).atMost(6)
		b.results.add(8, name+": create agent, 64 at once: p50 over append", "×", over(f.many, syncs)...).atMost(12)
	}
	if b.against != "" {
		f, before := figures[b.nido], figures[b.against]
		b.results.add(8, "create agent alone: p50 over before", "×", over(f.alone, before.alone)...)
		b.results.add(8, "create agent, 64 at once: p50 over before", "×", over(f.many, before.many)...)
		b.results.add(8, "configure agent alone: p50 over before", "×", over(f.single, before.single)...)
	}
	return nil
}

// commandFigures are row 8's of one build, one per round.
type commandFigures struct{ alone, alone99, many, many99, rates, single []float64 }

func (f *commandFigures) measure(ctx context.Context, b *bench, build string) error {
	c, err := b.nodesOf(ctx, build)
	if err != nil {
		return err
	}
	create := job{
		Addr: c.api.addr, Method: http.MethodPost, Path: "/api/agents", Key: c.key, Want: http.StatusCreated,
		Body: `{"name":"Agent {n}","instructions":"` + instructions + `","model":"echo"}`,
	}
	// One commit on one stream, for what a commit costs without the claim of a name around it.
	configure := create
	configure.Method, configure.Path, configure.Want = http.MethodPatch, "/api/agents/"+c.fast, http.StatusOK
	configure.Body = `{"metadata":{"n":"{n}"}}`
	one, err := b.measure(ctx, create, 1)
	if err != nil {
		return err
	}
	patch, err := b.measure(ctx, configure, 1)
	if err != nil {
		return err
	}
	all, err := b.measure(ctx, create, 64)
	if err != nil {
		return err
	}
	f.alone, f.alone99, f.many, f.many99 = append(f.alone, one.P50), append(f.alone99, one.P99), append(f.many, all.P50), append(f.many99, all.P99)
	f.rates, f.single = append(f.rates, all.perSecond()), append(f.single, patch.P50)
	return nil
}

// appends writes 2 KiB records to a file and syncs them: writers that come while a sync is under way share the next.
func (b *bench) appends(writers int) (measurement, error) {
	file, err := os.OpenFile(filepath.Join(b.dir, "appends"), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return measurement{}, err
	}
	defer file.Close()
	record := make([]byte, 2<<10)
	waiting := make(chan chan error, writers)
	began := time.Now()
	end := began.Add(min(b.span, 2*time.Second))
	var all []int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			done := make(chan error, 1)
			for time.Now().Before(end) {
				at := time.Now()
				waiting <- done
				if <-done != nil {
					return // the syncer reports it
				}
				mu.Lock()
				all = append(all, time.Since(at).Microseconds())
				mu.Unlock()
			}
		})
	}
	go func() {
		group.Wait()
		close(waiting)
	}()
	var fault error
	for first := range waiting {
		batch := []chan error{first}
		for len(waiting) > 0 {
			batch = append(batch, <-waiting)
		}
		for range batch {
			if _, err := file.Write(record); err != nil {
				fault = err
			}
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			fault = err
		}
		for _, done := range batch {
			done <- fault
		}
	}
	slices.Sort(all)
	return measurement{Done: len(all), Elapsed: time.Since(began), P50: quantile(all, 0.5), P99: quantile(all, 0.99)}, fault
}

// memory is row 7: what an API node holds after full load, and whether that grows.
func memory(ctx context.Context, b *bench) error {
	b.say("row 7: memory after %v of full load, then held for %v", b.rssLoad, b.rssHold)
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	load := b.chat(c, c.fast)
	load.Span = b.rssLoad
	if _, err := b.measure(ctx, load, 64); err != nil {
		return err
	}
	first, err := c.api.rss()
	if err != nil {
		return err
	}
	load.Span = b.rssHold
	if _, err := b.measure(ctx, load, 64); err != nil {
		return err
	}
	last, err := c.api.rss()
	if err != nil {
		return err
	}
	b.results.add(7, fmt.Sprintf("API node: resident after %v of full load", b.rssLoad), "MB", float64(first)/1e6).atMost(120)
	b.results.add(7, fmt.Sprintf("API node: resident after %v more", b.rssHold), "MB", float64(last)/1e6).atMost(120)
	return nil
}
