package commands

// This file stands beside every command: what those hear of it who watch a node, as counts and as spans of a trace. A
// command's name and its outcome are among a few words of ours; nothing that a client sends is told.

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/nidohq/nido/domain"
)

// Observer is told what came of commands. Its methods must not block.
type Observer interface {
	// Commanded: a command, such as "agent.configure", came to its outcome. lost is how many of its commits others had
	// beaten.
	Commanded(command, outcome string, lost int, took time.Duration)
	// Appended: the log has taken a commit, or not.
	Appended(outcome string, took time.Duration)
	// Awaited: the fold has said what became of a commit, or could not be heard.
	Awaited(outcome string, took time.Duration)
}

// TurnObserver is told of turns. Its methods must not block.
type TurnObserver interface {
	// TurnStarted: a message has been accepted.
	TurnStarted()
	// TurnEnded: a turn's end has been accepted, whoever wrote it.
	TurnEnded(end string)
	// Replied: a model has given a whole reply, with its first word after first. Whether its turn got this as its end is
	// another matter.
	Replied(first, whole time.Duration)
}

// The outcomes of a command.
const (
	OutcomeAccepted    = "accepted"
	OutcomeNothingNew  = "nothing_new"       // there was nothing to commit
	OutcomeAlready     = "already_committed" // by an earlier try of the same command
	OutcomeRefused     = "refused"
	OutcomeLost        = "lost" // another commit stood on the same version first
	OutcomeConflict    = "conflict"
	OutcomeUnknown     = "unknown"
	OutcomeUnavailable = "unavailable"
	OutcomeCancelled   = "cancelled"
	OutcomeFailed      = "failed"
)

// The ends of a turn.
const (
	EndCompleted   = "completed"
	EndFailed      = "failed"
	EndCancelled   = "cancelled"
	EndInterrupted = "interrupted"
)

// nobody watches.
type nobody struct{}

func (nobody) Commanded(string, string, int, time.Duration) {}
func (nobody) Appended(string, time.Duration)               {}
func (nobody) Awaited(string, time.Duration)                {}
func (nobody) TurnStarted()                                 {}
func (nobody) TurnEnded(string)                             {}
func (nobody) Replied(time.Duration, time.Duration)         {}

func (s Store) observer() Observer {
	if s.Observer == nil {
		return nobody{}
	}
	return s.Observer
}

// outcomeOf is what an error means for whatever failed with it.
func outcomeOf(err error) string {
	_, refused := errors.AsType[*domain.Refusal](err)
	switch {
	case err == nil:
		return OutcomeAccepted
	case refused:
		return OutcomeRefused
	case errors.Is(err, ErrConflict):
		return OutcomeConflict
	case errors.Is(err, ErrStale):
		return OutcomeLost
	case errors.Is(err, ErrUnknownOutcome):
		return OutcomeUnknown
	case errors.Is(err, context.Canceled): // by whoever asked, before anything was sent: no store is at fault
		return OutcomeCancelled
	case errors.Is(err, ErrUnavailable):
		return OutcomeUnavailable
	}
	return OutcomeFailed
}

// outcome is what a command that succeeded came to.
func (r Result[E, S]) outcome() string {
	switch {
	case r.Already:
		return OutcomeAlready
	case len(r.Events) == 0:
		return OutcomeNothingNew
	}
	return OutcomeAccepted
}

// commandName is how a step on a kind of aggregate is called where commands are counted.
func commandName(kind, step string) string { return kind + "." + strings.ReplaceAll(step, " ", "_") }

// silent is the span of what nobody traces.
var silent = noop.Span{}

// span begins a part of the trace that the context is in. Where there is none, or nobody keeps it, it is nothing and
// costs one look into the context.
func span(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, silent
	}
	return parent.TracerProvider().Tracer("github.com/nidohq/nido/commands").Start(ctx, name)
}

// endSpan says how a part of a trace came out, in a word of ours: an error's text may hold anything.
func endSpan(span trace.Span, outcome string) {
	if span.IsRecording() {
		span.SetAttributes(attribute.String("nido.outcome", outcome))
		switch outcome {
		case OutcomeConflict, OutcomeUnknown, OutcomeUnavailable, OutcomeFailed:
			span.SetStatus(codes.Error, outcome)
		}
	}
	span.End()
}

// traceparent is a span as W3C's Trace Context writes it, for those who read the commit; "" where nobody keeps it.
func traceparent(span trace.Span) string {
	if !span.IsRecording() {
		return ""
	}
	at := span.SpanContext()
	return "00-" + at.TraceID().String() + "-" + at.SpanID().String() + "-" + at.TraceFlags().String()
}
