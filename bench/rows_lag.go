//go:build linux

package main

// This file is row 11, how far behind the read models are under load, and row 0, how long nido dev takes to start and
// what it does with the echo model.

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// lag is row 11: how long after the log has a record Postgres shows it, and how long after its answer the log search
// finds a request, while 500 chats come in each second.
func lag(ctx context.Context, b *bench) error {
	b.say("row 11: lag at 500 chats per second")
	c, err := b.nodes(ctx)
	if err != nil {
		return err
	}
	conn, err := reachPostgres(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	load := b.chat(c, c.fast)
	load.Rate, load.Span = 500, max(3*b.span, 5*time.Second)
	type outcome struct {
		m   measurement
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		m, err := b.measure(ctx, load, 512)
		ended <- outcome{m, err}
	}()
	var folded, found []int64
	for {
		select {
		case end := <-ended:
			slices.Sort(folded)
			slices.Sort(found)
			b.results.add(11, "part of 500/s that was held", "×", end.m.perSecond()/500)
			b.results.add(11, fmt.Sprintf("visible in Postgres: p99 of %d", len(folded)), "ms", quantile(folded, 0.99)).atMost(1000)
			b.results.add(11, fmt.Sprintf("visible in log search: p99 of %d", len(found)), "ms", quantile(found, 0.99)).atMost(3000)
			return end.err
		default:
		}
		took, err := foldLag(ctx, conn)
		if err != nil {
			return err
		}
		folded = append(folded, took.Microseconds())
		if took, err = b.searchLag(ctx, c); err != nil {
			return err
		}
		found = append(found, took.Microseconds())
	}
}

// foldLag reads the log's end and waits until Postgres has passed it.
func foldLag(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	end, err := logEnd(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = until(ctx, time.Millisecond, func() (bool, error) {
		var passed bool
		err := conn.QueryRow(ctx, `SELECT coalesce(max(off), -1) >= $1 FROM read.checkpoints`, end-1).Scan(&passed)
		return passed, err
	})
	return time.Since(began), err
}

// searchLag chats and then asks for the request's own line in the log until it is there.
func (b *bench) searchLag(ctx context.Context, c *cluster) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ask := func(method, path, body string) (*http.Response, error) {
		request, err := http.NewRequestWithContext(ctx, method, "http://"+c.api.addr+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+c.key)
		if body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		response, err := client.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		return response, err
	}
	chat := b.chat(c, c.fast)
	response, err := ask(chat.Method, chat.Path, chat.Body)
	if err != nil {
		return 0, err
	}
	began, id := time.Now(), response.Header.Get("X-Request-Id")
	err = until(ctx, 5*time.Millisecond, func() (bool, error) {
		response, err := ask(http.MethodGet, "/api/logs/"+id, "")
		return err == nil && response.StatusCode == http.StatusOK, err
	})
	return time.Since(began), err
}

// startOfDev is the first minute of a new user: cold and warm start, and chat with the echo model in one process.
func startOfDev(ctx context.Context, b *bench) error {
	b.say("row 0: nido dev")
	b.stopCluster()
	dir, err := os.MkdirTemp("", "nido-bench-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var cold, warm []float64
	for round := range min(b.rounds, 3) {
		data := filepath.Join(dir, fmt.Sprint(round))
		for _, into := range []*[]float64{&cold, &warm} {
			began := time.Now()
			dev, err := b.dev(ctx, data)
			if err != nil {
				return err
			}
			*into = append(*into, time.Since(began).Seconds())
			dev.stop()
		}
	}
	b.results.add(0, "nido dev: cold start until /readyz is 200", "s", cold...).atMost(60)
	b.results.add(0, "nido dev: warm start until /readyz is 200", "s", warm...).atMost(5)
	dev, err := b.dev(ctx, filepath.Join(dir, "0"))
	if err != nil {
		return err
	}
	defer dev.stop()
	key, err := os.ReadFile(filepath.Join(dir, "0", "root.key"))
	if err != nil {
		return err
	}
	c := &cluster{api: dev, key: string(bytes.TrimSpace(key))}
	echo, err := c.createAgent(ctx, "echo")
	if err != nil {
		return err
	}
	for _, connections := range []int{1, 64} {
		var p50, p99, rate []float64
		for range b.rounds {
			m, err := b.measure(ctx, b.chat(c, echo), connections)
			if err != nil {
				return err
			}
			p50, p99, rate = append(p50, m.P50), append(p99, m.P99), append(rate, m.perSecond())
		}
		at := fmt.Sprintf("nido dev, echo, %d at once: chat ", connections)
		b.results.add(0, at+"p50", "ms", p50...)
		b.results.add(0, at+"p99", "ms", p99...)
		b.results.add(0, at+"per second", "/s", rate...)
	}
	create := job{
		Addr: dev.addr, Method: http.MethodPost, Path: "/api/agents", Key: c.key, Want: http.StatusCreated,
		Body: `{"name":"Agent {n}","instructions":"` + instructions + `","model":"echo"}`,
	}
	var rate []float64
	for range b.rounds {
		m, err := b.measure(ctx, create, 64)
		if err != nil {
			return err
		}
		rate = append(rate, m.perSecond())
	}
	b.results.add(0, "nido dev: agents created per second, 64 at once", "/s", rate...)
	return nil
}

// dev starts nido dev with engines of its own.
func (b *bench) dev(ctx context.Context, data string) (*process, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(b.nido, "dev", "--data", data, "--listen", addr)
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "NIDO_") || strings.HasPrefix(line, "NIDO_ENGINES=") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	cmd.Stderr = b.logs()
	return launch(ctx, "nido dev", "/readyz", cmd, addr)
}
