package model

// This file stands around every upstream call: what those hear of it who watch a node, as counts and as a span of the
// turn's trace. A provider is told by the name that the configuration gives it, never by a model's name, which agents
// choose. Each repetition, and each other provider that is asked instead, is a call of its own.

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

// Observer is told of calls of providers. Its methods must not block.
type Observer interface {
	// CallQueued: a call waited so long for a slot, and has got one or given up. Only where slots are bounded.
	CallQueued(provider string, waited time.Duration)
	CallBegan(provider string)
	// CallEnded: outcome is "ok", "cancelled" by whoever asked, or the code of the failure, also of calls that a provider's
	// bounds did not let begin. first is 0 where no word came.
	CallEnded(provider, outcome string, first, whole time.Duration, inputTokens, outputTokens int64)
}

// The outcomes of a call that are no failure's code.
const (
	callOK        = "ok"
	callCancelled = "cancelled"
)

// nobody watches.
type nobody struct{}

// CallQueued implements Observer.
func (nobody) CallQueued(string, time.Duration) {}

// CallBegan implements Observer.
func (nobody) CallBegan(string) {}

// CallEnded implements Observer.
func (nobody) CallEnded(string, string, time.Duration, time.Duration, int64, int64) {}

// call is one call under way. It holds no prompt.
type call struct {
	observer Observer
	provider string
	span     trace.Span // nil where the turn is not traced
	began    time.Time
	first    time.Duration
	usage    conversation.Usage
}

// beginCall returns the context that the call is made in.
func beginCall(ctx context.Context, observer Observer, provider string) (context.Context, *call) {
	observer.CallBegan(provider)
	c := &call{observer: observer, provider: provider, began: time.Now()}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		ctx, c.span = span.TracerProvider().Tracer("github.com/nidohq/nido/infra/model").Start(ctx, "call the model",
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("nido.provider", provider)))
	}
	return ctx, c
}

func (c *call) hear(chunk commands.Chunk) {
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

// end tells the outcome. It is deferred: a panic that passes through is a failure too.
func (c *call) end(outcome *string) {
	c.observer.CallEnded(c.provider, *outcome, c.first, time.Since(c.began), c.usage.InputTokens, c.usage.OutputTokens)
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attribute.String("nido.outcome", *outcome),
		attribute.Int64("gen_ai.usage.input_tokens", c.usage.InputTokens), attribute.Int64("gen_ai.usage.output_tokens", c.usage.OutputTokens))
	if *outcome != callOK && *outcome != callCancelled {
		c.span.SetStatus(codes.Error, *outcome)
	}
	c.span.End()
}

// watchedEcho is an echo that is watched as others are.
type watchedEcho struct {
	Echo
	name     string
	observer Observer
}

// complete asks nobody else: an echo only fails where its caller ends it.
func (e watchedEcho) complete(ctx context.Context, prompt *commands.Prompt, _ time.Time, _ bool, yield func(commands.Chunk, error) bool) *fault {
	ctx, call := beginCall(ctx, e.observer, e.name)
	outcome := upstreamError
	defer call.end(&outcome)
	for chunk, err := range e.Complete(ctx, *prompt) {
		if err != nil {
			outcome = callCancelled
			return &fault{caller: err}
		}
		call.hear(chunk)
		if !yield(chunk, nil) {
			outcome = callCancelled
			return nil
		}
	}
	outcome = callOK
	return nil
}
