//go:build linux

package main

// This file is the rows about streams: what one costs, how soon its first token is there, and what it holds while it
// waits for the next.

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// What the first token looks like.
const (
	firstOfProvider = `"content":"word`
	firstOfNido     = "event: message.delta"
)

// said is a completion that is asked of the mock or of the proxy as a stream.
func (b *bench) said(p *process) job {
	job := b.bare(p)
	job.Body = job.Body[:len(job.Body)-1] + `,"stream":true,"stream_options":{"include_usage":true}}`
	job.First = firstOfProvider
	return job
}

// stream is a message to an agent whose reply is streamed.
func (b *bench) stream(c *cluster, agent string) job {
	job := b.chat(c, agent)
	job.Body, job.First = `{"query":"`+message+`","streaming":true}`, firstOfNido
	return job
}

// spokenStreams is row 5: streams of 20 tokens, 10 ms apart.
func spokenStreams(ctx context.Context, b *bench) error {
	b.say("row 5: streams of 20 tokens, 10 ms apart")
	up, err := b.upstreams(ctx)
	if err != nil {
		return err
	}
	var addedByProxy, proxyCosts []float64
	found := map[string]*spoken{}
	for round := -1; round < b.rounds; round++ { // the first warms up
		direct, _, err := b.spoken(ctx, up.spoken, b.said(up.spoken))
		if err != nil {
			return err
		}
		proxy, proxyCost, err := b.spoken(ctx, up.spokenProxy, b.said(up.spokenProxy))
		if err != nil {
			return err
		}
		if round >= 0 {
			addedByProxy, proxyCosts = append(addedByProxy, proxy-direct), append(proxyCosts, proxyCost)
		}
		for _, build := range b.builds() {
			name := b.called(build)
			if found[name] == nil {
				found[name] = &spoken{}
			}
			if err := found[name].measure(ctx, b, build, direct, proxy, round >= 0); err != nil {
				return err
			}
		}
	}
	b.results.add(5, "proxy: time to first token added, p50", "ms", addedByProxy...)
	b.results.add(5, "proxy: CPU per 10,000 streams", "s", proxyCosts...)
	for _, build := range b.builds() {
		found[b.called(build)].report(b, b.called(build), proxyCosts)
	}
	if b.against != "" {
		b.results.add(5, "CPU per stream over before", "×", over(found[b.called(b.nido)].costs, found[b.called(b.against)].costs)...)
	}
	return nil
}

// spoken measures the time to the first token, one stream at a time, since one that waits for a core says nothing about the
// way; and what a process spends on 10,000 streams, 64 at once.
func (b *bench) spoken(ctx context.Context, p *process, job job) (first, cost float64, err error) {
	alone, err := b.measure(ctx, job, 1)
	if err == nil {
		_, cost, err = b.costed(ctx, p, job, 64)
	}
	return alone.P50, cost, err
}

// spoken gathers the figures of row 5 of one build.
type spoken struct{ commits, added, beyond, costs []float64 }

func (s *spoken) measure(ctx context.Context, b *bench, build string, direct, proxy float64, warm bool) error {
	c, err := b.nodesOf(ctx, build)
	if err != nil {
		return err
	}
	agent, err := c.createAgent(ctx, "spoken")
	if err != nil {
		return err
	}
	if len(b.builds()) > 1 { // freshly started nodes have their own first second
		if _, err := b.measure(ctx, b.stream(c, agent), 64); err != nil {
			return err
		}
	}
	// The least that a durable message costs: one commit on one stream, which nobody else is on.
	commit, err := b.measure(ctx, job{
		Addr: c.api.addr, Method: http.MethodPatch, Path: "/api/agents/" + c.fast, Key: c.key, Body: `{"metadata":{"n":"{n}"}}`, Count: 200,
	}, 1)
	if err != nil {
		return err
	}
	first, cost, err := b.spoken(ctx, c.api, b.stream(c, agent))
	if err == nil && warm {
		s.commits, s.added, s.costs = append(s.commits, commit.P50), append(s.added, first-direct), append(s.costs, cost)
		s.beyond = append(s.beyond, first-proxy-commit.P50)
	}
	return err
}

func (s *spoken) report(b *bench, name string, proxyCosts []float64) {
	b.results.add(5, name+": one commit alone (configure agent): p50", "ms", s.commits...)
	b.results.add(5, name+": time to first token added, p50", "ms", s.added...)
	b.results.add(5, name+": added beyond one commit and the proxy's", "ms", s.beyond...).atMost(1)
	b.results.add(5, name+": CPU per 10,000 streams", "s", s.costs...)
	b.results.add(5, name+": CPU per stream over proxy", "×", over(s.costs, proxyCosts)...).atMost(1.5)
}

// heldStreams is row 6: what a stream holds that says one token a second.
func heldStreams(ctx context.Context, b *bench) error {
	b.say("row 6: %d streams are held, one token a second each", b.streams)
	up, err := b.upstreams(ctx)
	if err != nil {
		return err
	}
	if err := b.heldBy(ctx, "proxy", up.heldProxy, b.said(up.heldProxy), 0); err != nil {
		return err
	}
	for _, build := range b.builds() {
		c, err := b.nodesOf(ctx, build)
		if err != nil {
			return err
		}
		agent, err := c.createAgent(ctx, "held")
		if err != nil {
			return err
		}
		// What a node needs once it has worked at all is not the streams'.
		if _, err := b.measure(ctx, b.chat(c, c.fast), 64); err != nil {
			return err
		}
		if err := b.heldBy(ctx, b.called(build), c.api, b.stream(c, agent), 60); err != nil {
			return err
		}
	}
	return nil
}

// heldBy measures what a process holds and spends. A goal of 0 is none.
func (b *bench) heldBy(ctx context.Context, name string, p *process, job job, goal float64) error {
	grown, cpu, err := b.held(ctx, p, job)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if holds := b.results.add(6, name+": resident per held stream", "KB", grown/1000); goal > 0 {
		holds.atMost(goal)
	}
	b.results.add(6, name+": CPU per 10,000 tokens", "s", cpu)
	return nil
}

// held holds streams until the process has been through what their beginning left behind, and returns by how much it
// has grown for each, and what it spends on 10,000 tokens.
func (b *bench) held(ctx context.Context, p *process, job job) (grown, cpu float64, err error) {
	before, err := p.rss()
	if err != nil {
		return 0, 0, err
	}
	b.count++
	job.Name = fmt.Sprintf("b%x-%d", b.results.Began.Unix(), b.count)
	job.Connections, job.Rate = b.streams, 200
	streams, err := holdStreams(ctx, job)
	if err != nil {
		return 0, 0, err
	}
	from, err := p.cpu()
	if err == nil {
		span := max(5*b.span, 10*time.Second)
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(span):
		}
		var to time.Duration
		var after int64
		if err == nil {
			to, err = p.cpu()
			cpu = (to - from).Seconds() / (span.Seconds() * float64(b.streams)) * 10_000
		}
		if err == nil {
			after, err = p.rss()
			grown = float64(after-before) / float64(b.streams)
		}
	}
	if ended := streams.release(); err == nil {
		err = ended
	}
	return grown, cpu, err
}
