//go:build linux

package main

// This file is the rows about requests that are refused: what that costs, and what becomes of the others on a node that
// is offered more than it can do.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/infra/admission"
	"github.com/nidohq/nido/infra/postgres"
)

// refusals is row 14.
func refusals(ctx context.Context, b *bench) error {
	b.say("row 14: refusals")
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	hello, err := b.reference(ctx, "hello", "hello")
	if err != nil {
		return err
	}
	var limited struct{ ID string }
	err = call(ctx, c.api.addr, c.key, http.MethodPost, "/api/agents", map[string]any{
		"name": "Limited", "model": "fast", "rateLimit": map[string]any{"perDay": 1},
	}, &limited)
	if err != nil {
		return err
	}
	var answer any
	if err := call(ctx, c.api.addr, c.key, http.MethodPost, "/api/v2/agent/"+limited.ID+"/chat", map[string]any{"query": "hola"}, &answer); err != nil {
		return err
	}
	bad := b.chat(c, c.fast)
	bad.Key, bad.Want = c.key[:len(c.key)-1]+"!", http.StatusUnauthorized
	full := b.chat(c, limited.ID)
	full.Want = http.StatusTooManyRequests
	greet := job{Addr: hello.addr, Method: http.MethodPost, Path: "/hello", Body: bad.Body}
	var floor, wrong, over []float64
	for range b.rounds {
		for _, one := range []struct {
			p    *process
			job  job
			into *[]float64
		}{{hello, greet, &floor}, {c.api, bad, &wrong}, {c.api, full, &over}} {
			_, cost, err := b.costed(ctx, one.p, one.job, 64)
			if err != nil {
				return err
			}
			*one.into = append(*one.into, cost*100) // seconds per 10,000 are hundreds of microseconds each
		}
	}
	b.results.add(14, "hello: CPU per request", "µs", floor...)
	b.results.add(14, "a key with a wrong checksum: CPU per request, HTTP and all", "µs", wrong...)
	b.results.add(14, "a counter that is full: CPU per request, HTTP and the look-up of the key and all", "µs", over...)
	return b.checks(ctx, c)
}

// checks measures in this process what the refusals themselves take, and how many calls of Postgres an admission does.
func (b *bench) checks(ctx context.Context, c *cluster) error {
	pool, err := postgres.Open(ctx, postgres.Config{URL: os.Getenv("NIDO_POSTGRES_URL"), MaxConns: 8, ApplicationName: "bench"})
	if err != nil {
		return err
	}
	defer pool.Close()
	const often = 200_000
	each := func(do func() error) (float64, error) {
		var before, after syscall.Rusage
		err := syscall.Getrusage(syscall.RUSAGE_SELF, &before)
		for range often {
			if err == nil {
				err = do()
			}
		}
		if err == nil {
			err = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
		}
		return float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano()) / often / 1000, err
	}
	bad := c.key[:len(c.key)-1] + "!"
	took, err := each(func() error {
		if _, err := apikey.Parse(bad); err == nil {
			return errors.New("a key with a wrong checksum passes")
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.results.add(14, "a key with a wrong checksum: CPU of the check", "µs", took).atMost(20)

	counter := admission.New(pool)
	narrow := quota.Of("bench", account.Limits{PerMinute: 1}, "narrow", "agt", nil)
	ask := func(request quota.Request, want bool) error {
		verdict, err := counter.Admit(ctx, request)
		if err == nil && verdict.Admitted != want {
			err = fmt.Errorf("admitted: %v", verdict.Admitted)
		}
		return err
	}
	if err := errors.Join(ask(narrow, true), ask(narrow, false)); err != nil {
		return err
	}
	if took, err = each(func() error { return ask(narrow, false) }); err != nil {
		return err
	}
	b.results.add(14, "a counter that is full: CPU of the check", "µs", took).atMost(20)
	return b.roundTrips(ctx, pool)
}

func (b *bench) roundTrips(ctx context.Context, pool *pgxpool.Pool) error {
	counter := admission.New(pool)
	wide := quota.Of("bench", account.Limits{PerMinute: 1 << 40, PerDay: 1 << 40}, "wide", "agt", nil)
	const count = 20_000
	work := make(chan struct{}, count)
	for range count {
		work <- struct{}{}
	}
	close(work)
	var group sync.WaitGroup
	var mu sync.Mutex
	var fault error
	for range 64 {
		group.Go(func() {
			for range work {
				if verdict, err := counter.Admit(ctx, wide); err != nil || !verdict.Admitted {
					mu.Lock()
					fault = errors.Join(err, errors.New("not admitted"))
					mu.Unlock()
					return
				}
			}
		})
	}
	group.Wait()
	b.results.add(14, "round trips of admit per admitted call, 64 at once on one key", "", float64(counter.Calls())/count).atMost(1.2)
	return fault
}

// overload is row 16: twice the chats that a node can do are offered to it.
func overload(ctx context.Context, b *bench) error {
	b.say("row 16: twice what can be done")
	conn, err := reachPostgres(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	found := map[string]*overloaded{}
	for range b.rounds {
		for _, build := range b.builds() {
			name := b.called(build)
			if found[name] == nil {
				found[name] = &overloaded{}
			}
			if err := found[name].measure(ctx, b, build, conn); err != nil {
				return err
			}
		}
	}
	for _, build := range b.builds() {
		found[b.called(build)].report(b, b.called(build))
	}
	return nil
}

// floors are requests that nothing is done for, sent beside the load by the process that sends it: to a process that has
// nothing else to do, and to the node itself. What they take is the machine's and the load generator's part of a refusal.
func floors(hello, node *process, load job) []job {
	idle := job{Addr: hello.addr, Method: http.MethodPost, Path: "/hello", Body: load.Body}
	probe := job{Addr: node.addr, Method: http.MethodGet, Path: "/livez"}
	both := []job{idle, probe}
	for i := range both {
		both[i].Rate, both[i].Span, both[i].Connections, both[i].Refusals = 100, load.Span, 64, true
	}
	return both
}

// overloaded gathers the figures of row 16 of one build.
type overloaded struct {
	normal, rates, accepted, slower, served, refused50, refused99, share, lost []float64
	idle50, idle99, probe50, probe99                                           []float64 // of requests that nothing is done for
}

func (o *overloaded) measure(ctx context.Context, b *bench, build string, conn *pgx.Conn) error {
	c, err := b.nodesOf(ctx, build)
	if err != nil {
		return err
	}
	hello, err := b.reference(ctx, "hello", "hello")
	if err != nil {
		return err
	}
	completed := func() (count int64, err error) {
		err = conn.QueryRow(ctx, `SELECT count(*) FROM read.messages WHERE outcome = 'completed'`).Scan(&count)
		return count, err
	}
	before := b.chat(c, c.fast)
	before.Span = max(b.span, 4*time.Second)
	usual, err := b.measure(ctx, before, 64)
	if err != nil {
		return err
	}
	from, err := completed()
	if err != nil {
		return err
	}
	twice := b.chat(c, c.fast)
	twice.Span, twice.Rate, twice.Refusals = before.Span, 2*usual.perSecond(), true
	twice.Beside = floors(hello, c.api, twice)
	much, err := b.measure(ctx, twice, 1024)
	if err != nil {
		return err
	}
	if _, err := c.api.quietCPU(ctx); err != nil {
		return err
	}
	to, err := completed()
	if err != nil {
		return err
	}
	o.normal, o.rates = append(o.normal, usual.P99), append(o.rates, usual.perSecond())
	o.accepted, o.slower, o.served = append(o.accepted, much.P99), append(o.slower, much.P99/usual.P99), append(o.served, much.perSecond()/usual.perSecond())
	o.refused50, o.refused99 = append(o.refused50, much.RefusedP50), append(o.refused99, much.RefusedP99)
	idle, probe := much.Beside[0], much.Beside[1]
	o.idle50, o.idle99 = append(o.idle50, idle.P50), append(o.idle99, idle.P99)
	o.probe50, o.probe99 = append(o.probe50, probe.P50), append(o.probe99, probe.P99)
	o.share = append(o.share, float64(much.Refused)/float64(much.Done+much.Refused+much.Failed))
	o.lost = append(o.lost, float64(max(0, int64(much.Done)-(to-from))))
	return nil
}

func (o *overloaded) report(b *bench, name string) {
	twice := name + ", offered twice that: "
	b.results.add(16, name+": what can be done, 64 connections: chats per second", "/s", o.rates...)
	b.results.add(16, name+", then: p99", "ms", o.normal...)
	b.results.add(16, twice+"chats per second over that", "×", o.served...)
	b.results.add(16, twice+"p99 of those that are accepted", "ms", o.accepted...)
	b.results.add(16, twice+"p99 of those that are accepted over the usual", "×", o.slower...).atMost(3)
	b.results.add(16, twice+"part that is refused", "×", o.share...)
	b.results.add(16, twice+"refusals' p50", "ms", o.refused50...)
	b.results.add(16, twice+"refusals' p99", "ms", o.refused99...).atMost(20)
	b.results.add(16, twice+"a process that has nothing else to do says hello: p50", "ms", o.idle50...)
	b.results.add(16, twice+"the same: p99", "ms", o.idle99...)
	b.results.add(16, twice+"the node says that it is alive: p50", "ms", o.probe50...)
	b.results.add(16, twice+"the same: p99", "ms", o.probe99...)
	b.results.add(16, twice+"acknowledged replies that are not in Postgres", "", o.lost...).atMost(0)
}
