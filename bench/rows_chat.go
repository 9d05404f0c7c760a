//go:build linux

package main

// This file is the rows about chat: what a turn costs, how many there can be, and how long one takes.

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// chatThroughput is rows 1 and 2: CPU per chat and chats per second at no upstream delay on 64 connections, over a bare
// reverse proxy's.
func chatThroughput(ctx context.Context, b *bench) error {
	b.say("rows 1 and 2: chat, no delay, 64 connections")
	up, err := b.upstreams(ctx)
	if err != nil {
		return err
	}
	hello, err := b.reference(ctx, "hello", "hello")
	if err != nil {
		return err
	}
	t := throughput{bench: b, costs: map[string][]float64{}, rates: map[string][]float64{}, p50: map[string][]float64{}, p99: map[string][]float64{}}
	for round := -1; round < b.rounds; round++ { // the first warms up
		t.warm = round >= 0
		for _, reference := range []struct {
			p   *process
			job job
		}{
			{hello, job{Addr: hello.addr, Method: "POST", Path: "/hello"}}, {up.direct, b.bare(up.direct)}, {up.proxy, b.bare(up.proxy)},
		} {
			if err := t.measure(ctx, reference.p.name, reference.p, reference.job); err != nil {
				return err
			}
		}
		for _, build := range b.builds() {
			if err := t.nido(ctx, build); err != nil {
				return err
			}
		}
	}
	t.report()
	return nil
}

// throughput gathers the figures of rows 1 and 2 by cell, one per round.
type throughput struct {
	*bench
	warm                   bool
	cells                  []string
	costs, rates, p50, p99 map[string][]float64
}

func (t *throughput) measure(ctx context.Context, cell string, p *process, job job) error {
	m, cost, err := t.costed(ctx, p, job, 64)
	if err == nil && t.warm {
		t.keep(cell, cost)
		t.rates[cell], t.p50[cell], t.p99[cell] = append(t.rates[cell], m.perSecond()), append(t.p50[cell], m.P50), append(t.p99[cell], m.P99)
	}
	return err
}

func (t *throughput) keep(cell string, cost float64) {
	if len(t.costs[cell]) == 0 {
		t.cells = append(t.cells, cell)
	}
	t.costs[cell] = append(t.costs[cell], cost)
}

// nido measures one build's nodes, and what the chats cost in the other processes.
func (t *throughput) nido(ctx context.Context, build string) error {
	c, err := t.nodesOf(ctx, build)
	if err != nil {
		return err
	}
	name := t.called(build)
	if len(t.builds()) > 1 { // freshly started nodes have their own first second
		if _, err := t.bench.measure(ctx, t.chat(c, c.fast), 64); err != nil {
			return err
		}
	}
	before, err := engineTimes()
	if err != nil {
		return err
	}
	fold, err := c.projector.cpu()
	if err != nil {
		return err
	}
	m, cost, err := t.costed(ctx, c.api, t.chat(c, c.fast), 64)
	if err != nil {
		return err
	}
	folded, err := c.projector.cpu()
	if err != nil {
		return err
	}
	after, err := engineTimes()
	if err != nil {
		return err
	}
	if t.warm {
		cell := name + ", new conversations"
		t.keep(cell, cost)
		t.rates[cell], t.p50[cell], t.p99[cell] = append(t.rates[cell], m.perSecond()), append(t.p50[cell], m.P50), append(t.p99[cell], m.P99)
		per := func(d time.Duration) float64 { return d.Seconds() / float64(m.Done) * 10_000 }
		t.keep(name+"'s projector node", per(folded-fold))
		for _, engine := range engineNames {
			t.keep(name+"'s "+engine, per(after[engine]-before[engine]))
		}
	}
	return t.measure(ctx, name+", going on", c.api, t.talk(c, c.fast))
}

func (t *throughput) report() {
	for _, cell := range t.cells {
		t.results.add(1, cell+": CPU per 10,000 requests", "s", t.costs[cell]...)
		if len(t.rates[cell]) > 0 {
			t.results.add(2, cell+": requests per second", "/s", t.rates[cell]...)
			t.results.add(2, cell+": p50 at 64 connections", "ms", t.p50[cell]...)
			t.results.add(2, cell+": p99 at 64 connections", "ms", t.p99[cell]...)
		}
	}
	for _, kind := range []string{", new conversations", ", going on"} {
		t.results.add(1, "nido"+kind+": CPU over proxy", "×", over(t.costs["nido"+kind], t.costs["proxy"])...).atMost(2)
		t.results.add(2, "nido"+kind+": requests/s over proxy", "×", over(t.rates["nido"+kind], t.rates["proxy"])...).atLeast(0.4)
	}
	if t.against == "" {
		return
	}
	for _, cell := range t.cells {
		if what, ok := strings.CutPrefix(cell, "nido"); ok {
			t.results.add(1, cell+": CPU over before", "×", over(t.costs[cell], t.costs["before"+what])...)
			if len(t.rates[cell]) > 0 {
				t.results.add(2, cell+": requests/s over before", "×", over(t.rates[cell], t.rates["before"+what])...)
			}
		}
	}
}

// over divides round by round.
func over(a, b []float64) []float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return ratios
}

// chatLatency is row 3: what Nido adds to a call of 60 ms at fixed rates.
func chatLatency(ctx context.Context, b *bench) error {
	b.say("row 3: chat at 60 ms, open loop")
	c, up, err := b.compared(ctx)
	if err != nil {
		return err
	}
	for _, rate := range []float64{200, 500} {
		var added, addedByProxy, direct, nido, nido99, held []float64
		for range b.rounds {
			var p50 [3]float64
			for i, job := range []job{b.bare(up.slowDirect), b.bare(up.slowProxy), b.chat(c, c.slow)} {
				job.Rate = rate
				m, err := b.measure(ctx, job, 512)
				if err != nil {
					return err
				}
				p50[i] = m.P50
				if i == 2 {
					nido99, held = append(nido99, m.P99), append(held, m.perSecond()/rate)
				}
			}
			direct, nido = append(direct, p50[0]), append(nido, p50[2])
			addedByProxy, added = append(addedByProxy, p50[1]-p50[0]), append(added, p50[2]-p50[0])
		}
		at := fmt.Sprintf(" at %.0f/s", rate)
		b.results.add(3, "direct: p50"+at, "ms", direct...)
		b.results.add(3, "nido: p50"+at, "ms", nido...)
		b.results.add(3, "nido: p99"+at, "ms", nido99...)
		b.results.add(3, "nido: part of the rate that was held"+at, "×", held...)
		b.results.add(3, "proxy: p50 added"+at, "ms", addedByProxy...)
		b.results.add(3, "nido: p50 added"+at+" (goal: 3 ms and row 8's p50 alone)", "ms", added...)
	}
	return nil
}

// chatHeld is row 4: requests per second at 60 ms with 256 connections, over direct.
func chatHeld(ctx context.Context, b *bench) error {
	b.say("row 4: chat at 60 ms, 256 connections")
	c, up, err := b.compared(ctx)
	if err != nil {
		return err
	}
	var direct, proxy, nido []float64
	for range b.rounds {
		for i, job := range []job{b.bare(up.slowDirect), b.bare(up.slowProxy), b.chat(c, c.slow)} {
			m, err := b.measure(ctx, job, 256)
			if err != nil {
				return err
			}
			into := []*[]float64{&direct, &proxy, &nido}[i]
			*into = append(*into, m.perSecond())
		}
	}
	b.results.add(4, "direct: requests per second at 256 connections", "/s", direct...)
	b.results.add(4, "proxy: over direct", "×", over(proxy, direct)...)
	b.results.add(4, "nido: over direct", "×", over(nido, direct)...).atLeast(0.35)
	return nil
}
