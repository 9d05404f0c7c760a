package model

// This file stands around every upstream call: time-outs, repetitions, the size of a reply, and the end of it all when
// the caller has heard enough.

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

const (
	firstRetryWait = 250 * time.Millisecond
	// drainTimeout is how long a reply that is complete may take to end its HTTP body. Only a body read to its end gives
	// the connection back for the next call.
	drainTimeout = 50 * time.Millisecond
	// shortWait is the longest wait for a provider where another one can be asked instead.
	shortWait = time.Second
)

var (
	// errStopped ends an attempt whose caller has heard enough.
	errStopped = errors.New("the caller has heard enough")
	// errTotal ends a call that takes too long as a whole.
	errTotal = errors.New("the whole call took too long")
)

// protocol speaks one provider's API.
type protocol interface {
	// attempt sends the prompt once and tells the reply what comes back. It returns nil once the reply is complete.
	attempt(ctx context.Context, sender *sender, prompt commands.Prompt, reply *reply) error
}

// upstream is a provider on the other side of the network.
type upstream struct {
	protocol protocol
	sender   *sender
	gate     *gate
	config   Config
}

func newUpstream(name string, c Config, transport *http.Transport, protocol protocol) *upstream {
	return &upstream{protocol: protocol, sender: newSender(transport, maxEvent(c.MaxReplyBytes)), gate: newGate(name, c), config: c}
}

// maxEvent is how long one JSON document of a reply may be: text is escaped, and there is something around it.
func maxEvent(maxReplyBytes int) int { return 2*maxReplyBytes + 64<<10 }

// complete calls the provider, again where that may help and no text has come yet.
func (u *upstream) complete(ctx context.Context, prompt *commands.Prompt, until time.Time, more bool, yield func(commands.Chunk, error) bool) *fault {
	calling, cancel := context.WithCancel(ctx)
	defer cancel() // closes the connection of a call that is still under way
	if u.config.TotalTimeout > 0 {
		var expire context.CancelFunc
		calling, expire = context.WithTimeoutCause(calling, u.config.TotalTimeout, errTotal)
		defer expire()
	}
	first := min(u.config.FirstTokenTimeout, max(0, time.Until(until)))
	reply := &reply{
		yield: yield, sent: func() { prompt.Messages, prompt.Instructions = nil, "" }, rest: prompt.Rest, model: prompt.Model, limit: u.config.MaxReplyBytes, first: first, idle: u.config.IdleTimeout,
		patience: time.AfterFunc(first, cancel), deadline: time.Now().Add(first),
	}
	defer reply.patience.Stop()
	longest := u.config.MaxRetryWait
	if more {
		longest = min(longest, shortWait)
	}
	for repetition := 0; ; repetition++ {
		fault := u.attempt(ctx, calling, *prompt, reply)
		switch {
		case fault == nil:
			return nil
		case reply.size > 0:
			fault.elsewhere = false // what has been said cannot be taken back
			return fault
		case repetition >= u.config.Retries || !fault.waitedFor(calling, repetition, longest):
			if ctx.Err() != nil { // while it waited
				return blame(ctx, calling, fault, reply)
			}
			return fault
		}
	}
}

// attempt calls once. A nil fault is a whole reply, or a caller that has heard enough.
func (u *upstream) attempt(ctx, calling context.Context, prompt commands.Prompt, reply *reply) (failure *fault) {
	pass, queued, err := u.gate.enter(calling)
	if u.gate.slots != nil {
		u.config.Observer.CallQueued(u.gate.name, queued)
	}
	calling, call := beginCall(calling, u.config.Observer, u.gate.name)
	outcome := upstreamError
	defer call.end(&outcome)
	if err != nil {
		failure = blame(ctx, calling, err, reply)
		outcome = failure.outcome()
		return failure
	}
	reply.pass, reply.call = pass, call
	err = u.protocol.attempt(calling, u.sender, prompt, reply)
	switch {
	case reply.stopped:
		outcome = callCancelled
		pass.leave(&fault{caller: errStopped})
		return nil
	case err != nil:
		failure = blame(ctx, calling, err, reply)
		outcome = failure.outcome()
	default:
		outcome = callOK
	}
	pass.leave(failure)
	return failure
}

// reply is what has come of a reply so far.
type reply struct {
	yield   func(commands.Chunk, error) bool
	sent    func()                // lets go of the prompt, which is not sent again once there is text
	rest    func(context.Context) // as in the prompt
	pass    *pass                 // of the attempt that is under way
	call    *call
	model   string              // what the provider says answers
	finish  conversation.Finish // why it ends, once the provider says
	size    int                 // bytes of text
	limit   int
	stopped bool // the caller has heard enough
	ended   bool // the provider says that the reply is complete

	// patience cancels the call when it runs out. It does not run while the caller is busy with a chunk.
	patience    *time.Timer
	deadline    time.Time // of the first token
	first, idle time.Duration
	generating  bool // the first token, thought or said, has come
}

// says names what answers.
func (r *reply) says(model string) {
	if model != "" && model != r.model {
		r.model = strings.Clone(model)
	}
}

// alive notes that an event of the reply has come; it is a token where it carries something generated.
func (r *reply) alive(token bool) {
	if token && !r.generating {
		r.generating = true
		r.pass.alive()
	}
	if r.generating {
		r.patience.Reset(r.idle)
	}
}

// tell hands on a piece of the reply.
func (r *reply) tell(text string, usage *conversation.Usage) error {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if r.size += len(text); r.size > r.limit {
		return replyTooLarge()
	}
	if r.size > 0 {
		r.sent()
	}
	r.patience.Stop()
	left := r.idle
	if !r.generating {
		left = time.Until(r.deadline)
	}
	chunk := commands.Chunk{Text: text, Model: r.model, Usage: usage, Finish: r.finish}
	r.call.hear(chunk)
	if !r.yield(chunk, nil) {
		r.stopped = true
		return errStopped
	}
	if !r.generating {
		r.deadline = time.Now().Add(left)
	}
	r.patience.Reset(left)
	return nil
}

// pause waits until more of the reply is wanted, where all that came of it has been told. Nobody waits for what is between
// the first word and the end at any moment; what comes before that and behind it is read as it comes.
func (r *reply) pause(ctx context.Context) {
	if r.rest == nil || r.size == 0 || r.finish != "" || r.ended {
		return
	}
	r.patience.Stop()
	r.rest(ctx)
	r.patience.Reset(r.idle)
}

// finishes names the reason of the end, in whatever words the provider has for it.
func (r *reply) finishes(reason string) {
	switch reason {
	case "":
	case "length", "max_tokens", "model_context_window_exceeded":
		r.finish = conversation.FinishLength
	case "content_filter", "refusal", "safety":
		r.finish = conversation.FinishFiltered
	default: // stop, end_turn, stop_sequence, eos, …: the model was done
		r.finish = conversation.FinishStop
	}
}

// end notes that the reply is complete. What is left of the body is only read to keep the connection.
func (r *reply) end() {
	r.ended = true
	r.patience.Reset(drainTimeout)
}

// waitedFor waits until the call may be repeated; false means that it may not.
func (f *fault) waitedFor(ctx context.Context, repetition int, longest time.Duration) bool {
	if !f.again || f.retryAfter > longest {
		return false
	}
	wait := f.retryAfter
	if wait == 0 {
		wait = min(firstRetryWait<<repetition, longest)
	}
	// Callers that failed together do not come back together.
	wait += rand.N(wait/2 + 1)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
