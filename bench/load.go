//go:build linux

package main

// This file is the load generator, a process of its own: closed loops on a number of connections, or an open one at a
// fixed rate, bounded in count and time. It is told a job on its standard input and answers with a measurement.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// job is what to send. "{n}" in the body becomes a name that is new for every request, or, where Every is not 0, for
// so many requests of one connection.
type job struct {
	Addr, Method, Path, Host, Key, Body string
	Connections                         int
	Rate                                float64 // requests per second in all; 0 is a closed loop
	Span                                time.Duration
	Count                               int // ends earlier, after so many; 0 is no bound
	Every                               int
	Name                                string // begins every name
	Want                                int    // the status of a success
	First                               string // what the first token of a stream looks like; latencies end there
	Refusals                            bool   // 429 and 503 are answers, too, and reckoned from when they were sent
	Beside                              []job  // are sent meanwhile by the same process: open loops of the same span
}

// measurement is what came of it. Latencies are in microseconds, from the intended start in an open loop.
type measurement struct {
	Done, Failed  int
	Elapsed       time.Duration
	P50, P99, Max float64 // milliseconds
	Fault         string  // the first
	// What was refused, where that is an answer.
	Refused                int
	RefusedP50, RefusedP99 float64
	Beside                 []measurement
}

func (m measurement) perSecond() float64 { return float64(m.Done) / m.Elapsed.Seconds() }

// generate runs a job in a process of its own.
func generate(ctx context.Context, job job) (measurement, error) {
	input, err := json.Marshal(job)
	if err != nil {
		return measurement{}, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", roleFlag, "load")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return measurement{}, fmt.Errorf("generate load: %w", err)
	}
	var m measurement
	if err := json.Unmarshal(output, &m); err != nil {
		return measurement{}, fmt.Errorf("read the measurement: %w", err)
	}
	// A few refusals under overload are a finding; mostly refusals are no measurement at all.
	if m.Done == 0 || m.Failed > 2+m.Done/10 {
		return m, fmt.Errorf("%d requests succeeded, %d failed: %s", m.Done, m.Failed, m.Fault)
	}
	return m, nil
}

// worker is one connection.
type worker struct {
	job       *job
	number    int
	wire      *wire
	sent      int
	latencies []int64
	refused   []int64
	failed    int
	fault     string
}

func (j *job) run() measurement {
	if j.Want == 0 {
		j.Want = 200
	}
	workers := make([]*worker, j.Connections)
	for i := range workers {
		workers[i] = &worker{job: j, number: i, wire: &wire{addr: j.Addr}}
		if j.Refusals { // a refusal is an answer on a connection that is there
			if err := workers[i].wire.connect(); err != nil {
				workers[i].fail(err.Error())
			}
		}
	}
	beside := make([]measurement, len(j.Beside))
	var others sync.WaitGroup
	for i := range j.Beside {
		others.Go(func() { beside[i] = j.Beside[i].run() })
	}
	began := time.Now()
	end := began.Add(j.Span)
	if j.Rate > 0 {
		j.open(workers, began)
	} else {
		j.closed(workers, end)
	}
	m := j.sum(workers, time.Since(began))
	others.Wait()
	m.Beside = beside
	return m
}

// closed lets every connection send its next request when it has the answer to the last.
func (j *job) closed(workers []*worker, end time.Time) {
	var group sync.WaitGroup
	var begun atomic.Int64
	for _, w := range workers {
		group.Go(func() {
			for time.Now().Before(end) && (j.Count == 0 || begun.Add(1) <= int64(j.Count)) {
				w.send(time.Now())
			}
		})
	}
	group.Wait()
}

// open starts requests at their times, whether or not earlier ones have been answered. One that finds no free
// connection waits, and its wait counts.
func (j *job) open(workers []*worker, began time.Time) {
	count := int(j.Rate * j.Span.Seconds())
	if j.Count > 0 {
		count = min(count, j.Count)
	}
	intended := make(chan time.Time, count)
	var group sync.WaitGroup
	for _, w := range workers {
		group.Go(func() {
			for at := range intended {
				w.send(at)
			}
		})
	}
	for i := range count {
		at := began.Add(time.Duration(float64(i) / j.Rate * float64(time.Second)))
		time.Sleep(time.Until(at))
		intended <- at
	}
	close(intended)
	group.Wait()
}

func (w *worker) send(since time.Time) {
	name := w.sent
	if w.job.Every > 0 {
		name /= w.job.Every
	}
	w.sent++
	body := bytes.ReplaceAll([]byte(w.job.Body), []byte("{n}"), []byte(w.job.Name+"-"+strconv.Itoa(w.number)+"-"+strconv.Itoa(name)))
	sent := time.Now()
	if w.job.Refusals {
		since = sent
	}
	status, answer, err := w.wire.exchange(w.job, body)
	now := time.Now()
	if !w.wire.first.IsZero() {
		now = w.wire.first
	}
	switch {
	case err != nil:
		w.fail(err.Error())
	case w.job.Refusals && (status == 429 || status == 503):
		w.refused = append(w.refused, now.Sub(since).Microseconds())
	case status != w.job.Want:
		w.fail(fmt.Sprintf("status %d: %s", status, answer[:min(len(answer), 300)]))
	default:
		if w.job.First != "" && w.wire.first.IsZero() {
			w.fail("the stream ended without a token")
			return
		}
		w.latencies = append(w.latencies, now.Sub(since).Microseconds())
	}
}

func (w *worker) fail(why string) {
	w.failed++
	if w.fault == "" {
		w.fault = why
	}
}

func (j *job) sum(workers []*worker, elapsed time.Duration) measurement {
	m := measurement{Elapsed: elapsed}
	var all, refused []int64
	for _, w := range workers {
		w.wire.close()
		all, refused = append(all, w.latencies...), append(refused, w.refused...)
		m.Failed += w.failed
		if m.Fault == "" {
			m.Fault = w.fault
		}
	}
	slices.Sort(all)
	m.Done = len(all)
	m.P50, m.P99, m.Max = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 1)
	slices.Sort(refused)
	m.Refused, m.RefusedP50, m.RefusedP99 = len(refused), quantile(refused, 0.5), quantile(refused, 0.99)
	return m
}

// quantile reads sorted microseconds and answers in milliseconds.
func quantile(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]) / 1000
}
