package main

// This file stands beside the node: the listener of operators, where its metrics, profiles and health are.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/telemetry"
)

const (
	// operatorAuto and operatorOff are what the operators' address may say instead of an address.
	operatorAuto = "auto"
	operatorOff  = "off"
	// operatorUsual is where auto begins to look; the port is what OpenTelemetry's own exporter for Prometheus uses.
	operatorUsual = "127.0.0.1:9464"
	// operatorGrace bounds the wait for scrapes and profiles under way at the end, and lastSpans that for the collector.
	operatorGrace = time.Second
	lastSpans     = 3 * time.Second
)

// processSettings is how a process speaks about itself, whatever it does.
type processSettings struct {
	LogFormat string     `help:"How log lines look: text, json, or auto, which is text on a terminal and json elsewhere." enum:"auto,text,json" default:"auto" env:"NIDO_LOG_FORMAT"`
	LogLevel  slog.Level `help:"The least important lines that are written: debug, info, warn or error." default:"info" env:"NIDO_LOG_LEVEL" placeholder:"LEVEL"`
}

// logger writes to standard error.
func (s processSettings) logger() *slog.Logger {
	json := s.LogFormat == "json"
	if s.LogFormat == operatorAuto {
		about, err := os.Stderr.Stat()
		json = err != nil || about.Mode()&os.ModeCharDevice == 0
	}
	return telemetry.NewLogger(os.Stderr, telemetry.LogConfig{JSON: json, Level: s.LogLevel, RequestID: api.RequestIDOf})
}

// operatorListener takes the operators' port; nil where they shall have none. The usual one may be another node's on the
// same machine: then any will do, and the log says which.
func operatorListener(ctx context.Context, address string) (net.Listener, error) {
	try := func(address string) (net.Listener, error) { return new(net.ListenConfig).Listen(ctx, "tcp", address) }
	switch address {
	case operatorOff, "":
		return nil, nil
	case operatorAuto:
		listener, err := try(operatorUsual)
		if errors.Is(err, syscall.EADDRINUSE) {
			listener, err = try("127.0.0.1:0")
		}
		if err != nil {
			return nil, fmt.Errorf("listen for operators: %w", err)
		}
		return listener, nil
	}
	listener, err := try(address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for operators on %s, choose another address with --operator-listen: %w", address, err)
	}
	return listener, nil
}

// wireMetrics has the node tell what it knows anyway.
func (n *node) wireMetrics() {
	m := n.metrics
	m.Build(version(), rolesText(n.roles))
	m.Pools(map[string]*pgxpool.Pool{"requests": n.pool, "fold": n.foldPool, "aside": n.asidePool})
	m.ClickHouse(n.clickhouse)
	n.projectors = m.Projectors()
	m.Standing(n.health.stands)
	m.Erasures(postgres.NewErasures(n.asidePool).Backlog)
	m.Gauge("turns_open", "Turns that run on this node.", func() float64 { return float64(n.chat.Open()) })
	m.Gauge("turns_waiting", "Messages that wait on this node for a busy conversation.", func() float64 { return float64(n.chat.Line.Waiting()) })
	m.Providers(n.models.Standings)
	m.Gauge("turn_ends_pending", "Ends of turns that are still being tried behind their requests.", func() float64 { return float64(n.chat.Ending()) })
	m.Gauge("admission_waiting", "Requests that wait to be counted against their limits.", func() float64 { return float64(n.admission.Waiting()) })
	m.Counter("admission_calls_total", "Calls of Postgres that counted requests.", func() float64 { return float64(n.admission.Calls()) })
	m.Gauge("request_log_waiting_entries", "Entries of the request log that are not in Kafka yet.", func() float64 {
		entries, _ := n.queue.Waiting()
		return float64(entries)
	})
	m.Gauge("request_log_waiting_bytes", "What they hold in memory.", func() float64 {
		_, bytes := n.queue.Waiting()
		return float64(bytes)
	})
	m.Counter("request_log_lost_total", "Entries of the request log that were lost because the queue was full.", func() float64 { return float64(n.queue.Lost()) })
}

// traced has a projector's part told in the traces of those who are waiting for it.
func (n *node) traced(handler kafka.CommitHandler, projector string) kafka.CommitHandler {
	if n.settings.TraceEndpoint == "" {
		return handler
	}
	return kafka.Traced(handler, projector, n.traces.Tracer("github.com/nidohq/nido/infra/kafka"))
}

func rolesText(roles []role) string {
	names := make([]string, len(roles))
	for i, role := range roles {
		names[i] = string(role)
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// release is what a build that has no repository beside it says about itself: -ldflags '-X main.release=v1.2.3'.
var release string

// version names the binary: as its build said, by its module's version where it has one, else by its commit.
func version() string {
	if release != "" {
		return release
	}
	about, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range about.Settings {
		if setting.Key == "vcs.revision" && (about.Main.Version == "" || about.Main.Version == "(devel)") {
			return setting.Value
		}
	}
	return about.Main.Version
}

// serveOperators answers on their listener until it is told to stop, which is after everything else.
func (n *node) serveOperators(ctx context.Context, listener net.Listener) (stop func()) {
	if listener == nil {
		return func() {}
	}
	server := n.metrics.OperatorServer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It ends by being shut down; another end of it is no reason to end turns.
		if err := server.Serve(listener); ctx.Err() == nil {
			n.log.WarnContext(ctx, "operators are not listened to any more", "error", err)
		}
	}()
	n.log.InfoContext(ctx, "operators find /metrics, /healthz and /debug/pprof", "address", listener.Addr().String())
	return func() {
		stopping, giveUp := context.WithTimeout(context.WithoutCancel(ctx), operatorGrace)
		defer giveUp()
		if server.Shutdown(stopping) != nil {
			_ = server.Close() // a profile was under way
		}
		<-done
	}
}
