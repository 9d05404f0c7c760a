package model

// This file stands around every upstream call: what those hear of it who watch a node, as counts and as a span of the
// turn's trace. A provider is told by the host that the configuration names, never by a model's name, which agents choose.

import (
	"context"
	"errors"
	"iter"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

// Observer is told of calls of providers. Its methods must not block.
type Observer interface {
	CallBegan(provider string)
	// CallEnded: outcome is "ok", "cancelled" by whoever asked, or the code of the failure. first is 0 where no word came.
	CallEnded(provider, outcome string, first, whole time.Duration, inputTokens, outputTokens int64)
}

// The outcomes of a call that are no failure's code.
const (
	callOK        = "ok"
	callCancelled = "cancelled"
)

// observed is a provider that is watched.
type observed struct {
	commands.Model
	provider string
	observer Observer
}

// label is how a provider is called where calls are counted.
func (p Provider) label() string {
	if address, err := url.Parse(p.BaseURL); err == nil && address.Host != "" {
		return address.Host
	}
	return p.Kind
}

// Complete is the provider's, and tells what came of it. It holds no prompt while the reply comes.
func (o observed) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	call := o.begin(ctx)
	reply := o.Model.Complete(call.ctx, prompt)
	return func(yield func(commands.Chunk, error) bool) {
		defer call.end()
		for chunk, err := range reply {
			call.hear(chunk, err)
			if !yield(chunk, err) {
				call.stopped = true
				return
			}
		}
		call.whole = true
	}
}

// call is one call under way.
type call struct {
	observed
	ctx     context.Context //nolint:containedctx // of this call alone
	span    trace.Span
	began   time.Time
	first   time.Duration
	usage   conversation.Usage
	err     error
	stopped bool // whoever asked has heard enough
	whole   bool // it came to its own end
}

func (o observed) begin(ctx context.Context) *call {
	o.observer.CallBegan(o.provider)
	c := &call{observed: o, ctx: ctx, span: trace.SpanFromContext(ctx), began: time.Now()}
	if c.span.IsRecording() {
		c.ctx, c.span = c.span.TracerProvider().Tracer("github.com/nidohq/nido/infra/model").Start(ctx, "call the model",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("server.address", o.provider)))
	} else {
		c.span = nil
	}
	return c
}

func (c *call) hear(chunk commands.Chunk, err error) {
	if err != nil {
		c.err = err
	}
	if chunk.Text != "" && c.first == 0 {
		c.first = time.Since(c.began)
		if c.span != nil {
			c.span.AddEvent("first token")
		}
	}
	if chunk.Usage != nil {
		c.usage = *chunk.Usage
	}
}

func (c *call) end() {
	outcome := c.outcome()
	c.observer.CallEnded(c.provider, outcome, c.first, time.Since(c.began), c.usage.InputTokens, c.usage.OutputTokens)
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attribute.String("nido.outcome", outcome),
		attribute.Int64("gen_ai.usage.input_tokens", c.usage.InputTokens), attribute.Int64("gen_ai.usage.output_tokens", c.usage.OutputTokens))
	if outcome != callOK && outcome != callCancelled {
		c.span.SetStatus(codes.Error, outcome)
	}
	c.span.End()
}

// outcome is the code of the failure where the provider is to blame, and not whoever ended the call.
func (c *call) outcome() string {
	failure, ok := errors.AsType[*commands.ModelError](c.err)
	switch {
	case ok:
		return failure.Code
	case c.err != nil && c.ctx.Err() == nil:
		return upstreamError
	case c.err != nil || c.stopped:
		return callCancelled
	case !c.whole: // a panic passes through
		return upstreamError
	}
	return callOK
}
