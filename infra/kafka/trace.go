package kafka

// This file stands at the fold: a commit that is part of a trace has its fold in the same one, whichever process that runs
// in. The trace came with the record.

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/nidohq/nido/domain"
)

// maxTraced bounds the spans of one batch. More of its commits may be traced; theirs end at the append.
const maxTraced = 64

// Traced has the fold of each commit that somebody traces told in that trace. A batch is folded as a whole: the span of its
// first traced commit links to the other commits of the batch that are traced, and their spans link to it.
func Traced(handler CommitHandler, projector string, tracer trace.Tracer) CommitHandler {
	return traced{handler, projector, tracer}
}

type traced struct {
	CommitHandler
	projector string
	tracer    trace.Tracer
}

// Apply is the handler's. A batch that fails comes again, and is told of when it has succeeded.
func (t traced) Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	began := time.Now()
	err := t.CommitHandler.Apply(ctx, partition, after, batch)
	if err == nil {
		t.tell(ctx, began, batch)
	}
	return err
}

func (t traced) tell(ctx context.Context, began time.Time, batch []domain.Recorded) {
	var commits []domain.Recorded
	var parents []trace.SpanContext
	for _, record := range batch {
		if parent, kept := traceOf(record.Trace); kept && len(parents) < maxTraced {
			commits, parents = append(commits, record), append(parents, parent)
		}
	}
	ended, first := time.Now(), trace.SpanContext{}
	for i, parent := range parents {
		var links []trace.Link
		if i == 0 {
			for _, other := range parents[1:] {
				links = append(links, trace.Link{SpanContext: other})
			}
		} else {
			links = []trace.Link{{SpanContext: first}}
		}
		_, span := t.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, parent), "fold into "+t.projector,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began), trace.WithLinks(links...), trace.WithAttributes(
				attribute.Int64("nido.partition", int64(commits[i].Partition)), attribute.Int64("nido.offset", commits[i].Offset),
				attribute.Int("nido.batch_records", len(batch)), attribute.String("nido.stream_kind", commits[i].Stream.Kind()),
			))
		if i == 0 {
			first = span.SpanContext()
		}
		span.End(trace.WithTimestamp(ended))
	}
}

// traceOf reads a commit's trace, if somebody keeps it. Most commits have none, and few have one that is kept.
func traceOf(parent string) (found trace.SpanContext, kept bool) {
	if parent == "" || !strings.HasSuffix(parent, "1") && !strings.HasSuffix(parent, "3") {
		return found, false
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
	found = trace.SpanContextFromContext(ctx)
	return found, found.IsSampled()
}
