package telemetry

// This file stands at start: where spans go.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// TraceConfig says whether and where to.
type TraceConfig struct {
	// Endpoint is an OTLP collector's base URL, "http://collector:4318"; spans go to /v1/traces below it. Empty means
	// that nothing is traced.
	Endpoint string
	// Ratio is which part of the requests is traced that come without a trace of their own; one that comes with a trace
	// is traced if its client's part is. Between 0 and 1.
	Ratio float64
	// Instance names the process among its kind.
	Instance string
}

// Validate reports every fault of the configuration at once.
func (c TraceConfig) Validate() error {
	var faults []error
	if c.Endpoint != "" {
		address, err := url.Parse(c.Endpoint)
		if err != nil || address.Host == "" || (address.Scheme != "http" && address.Scheme != "https") {
			faults = append(faults, errors.New("traces: the endpoint is not like http://collector:4318"))
		}
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		faults = append(faults, fmt.Errorf("traces: the ratio %v is not between 0 and 1", c.Ratio))
	}
	return errors.Join(faults...)
}

const (
	// exportTimeout bounds sending one batch of spans, with its repetitions. What a collector does not take is lost: traces
	// are samples.
	exportTimeout = 10 * time.Second
	// maxSpansWaiting bounds the memory that a collector which is away costs.
	maxSpansWaiting = 8192
	// maxAttribute bounds what one attribute may hold. Ours are short.
	maxAttribute = 256
)

// Traces is where spans come from. Closing it sends those that wait.
type Traces struct {
	trace.TracerProvider
	close func(context.Context) error
}

// NewTraces begins to trace, or not.
func NewTraces(ctx context.Context, config TraceConfig) (*Traces, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Endpoint == "" {
		return &Traces{noop.NewTracerProvider(), func(context.Context) error { return nil }}, nil
	}
	address, err := url.Parse(config.Endpoint)
	if err != nil {
		return nil, errors.New("traces: the endpoint is no URL")
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address.JoinPath("v1", "traces").String()), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	limits := sdk.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxAttribute
	provider := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter, sdk.WithMaxQueueSize(maxSpansWaiting), sdk.WithExportTimeout(exportTimeout), sdk.WithBatchTimeout(time.Second)),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(config.Ratio))),
		sdk.WithRawSpanLimits(limits),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "nido"), attribute.String("service.instance.id", config.Instance),
		)),
	)
	return &Traces{provider, provider.Shutdown}, nil
}

// Close sends what waits, until the context ends.
func (t *Traces) Close(ctx context.Context) error {
	if err := t.close(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}
