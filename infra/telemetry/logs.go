package telemetry

// This file stands behind every log line: which request it belongs to, and which trace.

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// LogConfig says how log lines look.
type LogConfig struct {
	JSON  bool
	Level slog.Level
	// RequestID finds in a line's context the request that it belongs to, "" for none.
	RequestID func(context.Context) string
}

// NewLogger writes lines. Each one that belongs to a request has its request_id, and its trace_id where it is part of a
// trace, whoever writes it.
func NewLogger(to io.Writer, config LogConfig) *slog.Logger {
	options := &slog.HandlerOptions{Level: config.Level, ReplaceAttr: readable}
	var inner slog.Handler = slog.NewTextHandler(to, options)
	if config.JSON {
		inner = slog.NewJSONHandler(to, options)
	}
	return slog.New(contextual{inner, config.RequestID})
}

// readable writes durations as people do, also in JSON, which would count nanoseconds.
func readable(_ []string, attribute slog.Attr) slog.Attr {
	if attribute.Value.Kind() == slog.KindDuration {
		attribute.Value = slog.StringValue(attribute.Value.Duration().String())
	}
	return attribute
}

// contextual adds what the context knows.
type contextual struct {
	slog.Handler
	requestID func(context.Context) string
}

// Handle implements slog.Handler.
func (c contextual) Handle(ctx context.Context, record slog.Record) error {
	if id := c.requestID(ctx); id != "" {
		record.AddAttrs(slog.String("request_id", id))
	}
	if at := trace.SpanContextFromContext(ctx); at.HasTraceID() {
		record.AddAttrs(slog.String("trace_id", at.TraceID().String()))
	}
	if err := c.Handler.Handle(ctx, record); err != nil {
		return fmt.Errorf("write a log line: %w", err)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (c contextual) WithAttrs(attributes []slog.Attr) slog.Handler {
	return contextual{c.Handler.WithAttrs(attributes), c.requestID}
}

// WithGroup implements slog.Handler.
func (c contextual) WithGroup(name string) slog.Handler {
	return contextual{c.Handler.WithGroup(name), c.requestID}
}
