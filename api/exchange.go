package api

// This file stands beside a request on its way: what is known about it so far, from its id to the line that the request
// log will have.

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

// exchange is one request and its answer.
type exchange struct {
	id      string
	op      *operation // nil where no route matched
	slug    string     // the label of the agent's host, empty on other hosts
	key     apikey.Key // as it was presented; it prints without its secret
	caller  projections.Caller
	until   *time.Time // when the secret stops working that the caller came with; nil for the key's newest
	client  netip.Addr // where it comes from; not valid where nobody knows
	inputs  commands.Inputs
	body    []byte            // of the request, once it has been read
	header  http.Header       // of the answer
	counted bool              // against the limits
	refused bool              // a chat that was not accepted: nothing of what it said is kept
	decided bool              // a chat whose message was on its way to the log, whatever became of it
	begun   func(turn string) // called once a streamed turn has been accepted, nil where nobody wants to know
	fading  []deprecation     // what of the request will be gone one day
	failed  bool              // the turn had an end that was no reply
	said    []byte            // of a stream: what the request log has as the answer
	streams bool              // the answer is a stream
	left    func()            // gives the request's place in the node to the next; nil where it has none
	rest    func()            // of the answer, once the route's handler has returned; nil for nothing
	behind  []func()          // what is done once the answer is out
	taken   bool              // the answer goes on without the request's goroutine
	record  projections.Request
	span    trace.Span // the request's part of a trace

	// present ends when the client goes, by leaves; tied undoes that this is when the request's own context ends. Nil before
	// somebody needs it.
	present context.Context //nolint:containedctx // an exchange is what goes with a request
	leaves  context.CancelCauseFunc
	tied    func() bool

	forgotten bool // the answer tells nothing of what was said in the conversation that the request is about
}

type exchangeKey struct{}

// exchangeOf finds the request's exchange. There is always one: the first step puts it there.
func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

func withExchange(r *http.Request, x *exchange) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
}

// meta is the command's: who asks, when, under which trace.
func (x *exchange) meta(r *http.Request) commands.Meta {
	return commands.Meta{
		Account: x.caller.Account,
		Actor:   domain.Actor{Kind: "key", ID: x.caller.PublicID},
		Trace:   traceOf(r),
		Inputs:  x.inputs,
	}
}

// afterwards does something once the answer is out, the part of it too that goes out behind the route's handler.
func (x *exchange) afterwards(do func()) { x.behind = append(x.behind, do) }

// owner is the stream of the conversation whose texts are in the answer.
func (x *exchange) owner() string {
	if x.forgotten {
		return ""
	}
	return x.record.Owner
}

// ended notes how a turn came out.
func (x *exchange) ended(end commands.TurnEnd) {
	x.record.Model, x.record.FirstToken = end.Reply.Model, end.Reply.FirstReply
	x.record.InputTokens, x.record.OutputTokens = end.Reply.Usage.InputTokens, end.Reply.Usage.OutputTokens
	_, x.failed = errors.AsType[*commands.ModelError](end.Err)
	x.failed = x.failed || errors.Is(end.Err, commands.ErrClientGone)
}

// traceparent is the client's trace context, if it has the form of one.
func traceparent(header http.Header) string {
	value := header.Get("Traceparent")
	if len(value) < 55 || len(value) > 128 || value[2] != '-' || value[35] != '-' || value[52] != '-' {
		return ""
	}
	for _, c := range []byte(value) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return value
}
