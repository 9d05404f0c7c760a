package kafka

import (
	"context"
	"errors"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/nidohq/nido/domain"
)

// folder takes every batch, or none.
type folder struct{ err error }

func (folder) Checkpoint(context.Context, int32) (int64, []byte, error) { return -1, nil, nil }

func (f folder) Apply(context.Context, int32, int64, []domain.Recorded) error { return f.err }

func TestTheFoldOfACommitIsPartOfItsTrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracer := sdk.NewTracerProvider(sdk.WithSyncer(spans), sdk.WithSampler(sdk.ParentBased(sdk.NeverSample()))).Tracer("test")
	batch := make([]domain.Recorded, 5)
	for i, trace := range []string{
		"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", // kept
		"00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-00", // not kept
		"00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203333-01", // kept
		"nonsense-1",
	} {
		batch[i].Position, batch[i].Stream, batch[i].Trace = domain.Position{Partition: 2, Offset: int64(10 + i)}, "agent-agt_1", trace
	}

	if err := Traced(folder{errors.New("the store is away")}, "postgres", tracer).Apply(t.Context(), 2, 9, batch); err == nil || len(spans.GetSpans()) != 0 {
		t.Errorf("a batch that failed: %v, %d spans", err, len(spans.GetSpans()))
	}
	if err := Traced(folder{}, "postgres", tracer).Apply(t.Context(), 2, 9, batch); err != nil {
		t.Fatal(err)
	}
	told := spans.GetSpans()
	if len(told) != 2 {
		t.Fatalf("%d spans", len(told))
	}
	for i, want := range []struct {
		trace, parent string
		linked        string
	}{
		{"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "b7ad6b7169203333"},
		{"2af7651916cd43dd8448eb211c80319c", "b7ad6b7169203333", told[0].SpanContext.SpanID().String()},
	} {
		span := told[i]
		if span.Name != "fold into postgres" || span.SpanContext.TraceID().String() != want.trace || span.Parent.SpanID().String() != want.parent {
			t.Errorf("span %d is %s in %s below %s", i, span.Name, span.SpanContext.TraceID(), span.Parent.SpanID())
		}
		if len(span.Links) != 1 || span.Links[0].SpanContext.SpanID().String() != want.linked {
			t.Errorf("span %d links to %v", i, span.Links)
		}
	}
}
