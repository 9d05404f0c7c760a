//go:build linux

package main

// This file is the rows about chat: what a turn costs, how many there can be, and how long one takes.

import (
	"context"
	"fmt"
)

// chatThroughput is rows 1 and 2: CPU per chat and chats per second at no upstream delay on 64 connections, over a bare
// reverse proxy's.
func chatThroughput(ctx context.Context, b *bench) error {
	b.say("rows 1 and 2: chat, no delay, 64 connections")
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	up, err := b.upstreams(ctx)
	if err != nil {
		return err
	}
	hello, err := b.reference(ctx, "hello", "hello")
	if err != nil {
		return err
	}
	cells := []struct {
		name string
		p    *process
		job  job
	}{
		{"hello", hello, job{Addr: hello.addr, Method: "POST", Path: "/hello"}},
		{"direct", up.direct, b.bare(up.direct)},
		{"proxy", up.proxy, b.bare(up.proxy)},
		{"nido, new conversations", c.api, b.chat(c, c.fast)},
		{"nido, going on", c.api, b.talk(c, c.fast)},
	}
	costs, rates := map[string][]float64{}, map[string][]float64{}
	p50, p99 := map[string][]float64{}, map[string][]float64{}
	var folding []float64
	for round := -1; round < b.rounds; round++ { // the first warms up
		for _, cell := range cells {
			foldBefore, err := c.projector.cpu()
			if err != nil {
				return err
			}
			m, cost, err := b.costed(ctx, cell.p, cell.job, 64)
			if err != nil {
				return err
			}
			foldAfter, err := c.projector.cpu()
			if err != nil {
				return err
			}
			if round < 0 {
				continue
			}
			costs[cell.name], rates[cell.name] = append(costs[cell.name], cost), append(rates[cell.name], m.perSecond())
			p50[cell.name], p99[cell.name] = append(p50[cell.name], m.P50), append(p99[cell.name], m.P99)
			if cell.name == "nido, new conversations" {
				folding = append(folding, (foldAfter-foldBefore).Seconds()/float64(m.Done)*10_000)
			}
		}
	}
	for _, cell := range cells {
		b.results.add(1, cell.name+": CPU per 10,000 requests", "s", costs[cell.name]...)
		b.results.add(2, cell.name+": requests per second", "/s", rates[cell.name]...)
		b.results.add(2, cell.name+": p50 at 64 connections", "ms", p50[cell.name]...)
		b.results.add(2, cell.name+": p99 at 64 connections", "ms", p99[cell.name]...)
	}
	b.results.add(1, "nido's projector node: CPU per 10,000 chats", "s", folding...)
	for _, name := range []string{"nido, new conversations", "nido, going on"} {
		b.results.add(1, name+": CPU over proxy", "×", over(costs[name], costs["proxy"])...).atMost(2)
		b.results.add(2, name+": requests/s over proxy", "×", over(rates[name], rates["proxy"])...).atLeast(0.4)
	}
	return nil
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
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	up, err := b.upstreams(ctx)
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
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	up, err := b.upstreams(ctx)
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
