package api

// This file stands around every request, beside the request log: what those hear of it who watch a node, as counts and
// as the first span of a trace. Whose request it is, and what it says, is not for them: a route is told as the
// operation that openapi.yaml names, never as a path.

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Observer is told of requests. Its methods must not block.
type Observer interface {
	// RequestBegan: a request has found its operation.
	RequestBegan(operation string)
	// RequestEnded: it has been answered; code is the catalogue's, "" where it was not refused. A request without an
	// operation has not begun.
	RequestEnded(operation string, status int, code string, took time.Duration, read, written int64)
	// StreamHeld: a stream has been opened (1) or is over (-1).
	StreamHeld(by int)
}

// nobody watches.
type nobody struct{}

func (nobody) RequestBegan(string)                                           {}
func (nobody) RequestEnded(string, int, string, time.Duration, int64, int64) {}
func (nobody) StreamHeld(int)                                                {}

// noTracer is for nodes that are not traced.
var noTracer = noop.NewTracerProvider().Tracer("")

// RequestIDOf is the id of the request that a context belongs to, "" for none.
func RequestIDOf(ctx context.Context) string {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x.id
	}
	return ""
}

// startSpan begins the request's part of a trace: its client's, or a new one. Where nobody keeps it, the client's trace
// still goes along to the log's lines and into commits.
func (s *Server) startSpan(w http.ResponseWriter, r *http.Request, x *exchange) *http.Request {
	ctx := r.Context()
	if traceparent(r.Header) != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	ctx, x.span = s.config.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	if !x.span.IsRecording() {
		return r.WithContext(ctx)
	}
	r = r.WithContext(ctx)
	w.Header().Set("Traceresponse", traceOf(r)) // W3C Trace Context, level 2
	return r
}

// traceOf is the trace context that commands of a request carry on: its span's, or its client's, or none.
func traceOf(r *http.Request) string {
	at := trace.SpanFromContext(r.Context())
	if !at.IsRecording() {
		return traceparent(r.Header)
	}
	span := at.SpanContext()
	return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String()
}

// observe tells that the request is over.
func (c *capture) observe() {
	x, operation, code := c.x, "", c.x.record.ErrorCode
	status := c.status
	if entries[code].Status == 499 {
		status = 499
	}
	if x.op != nil {
		operation = x.op.id
	}
	c.server.config.Observer.RequestEnded(operation, status, code, time.Since(c.started), int64(len(x.body)), c.bytes)
	if x.span.IsRecording() {
		x.describe(c.request.Method, status, code)
	}
	x.span.End()
}

// describe says in the span what is known of the request. A path may hold what a client chose to call a conversation, and
// so only its template is told.
func (x *exchange) describe(method string, status int, code string) {
	known := []attribute.KeyValue{
		attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status),
		attribute.String("nido.request_id", x.id),
	}
	if x.op != nil {
		x.span.SetName(x.op.method + " " + x.op.route)
		known = append(known, attribute.String("http.route", x.op.route), attribute.String("nido.operation", x.op.id))
	}
	for name, value := range map[string]string{
		"nido.account": x.record.Account, "nido.agent_id": x.record.AgentID, "error.type": code,
	} {
		if value != "" {
			known = append(known, attribute.String(name, value))
		}
	}
	x.span.SetAttributes(known...)
	if status >= http.StatusInternalServerError {
		x.span.SetStatus(codes.Error, code)
	}
}
