package model

// This file stands around every upstream call: time-outs, repetitions, the size of a reply, and the end of it all when
// the caller has heard enough.

import (
	"context"
	"errors"
	"iter"
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
)

// errStopped ends an attempt whose caller has heard enough.
var errStopped = errors.New("the caller has heard enough")

// protocol speaks one provider's API.
type protocol interface {
	// attempt sends the prompt once and tells the reply what comes back. It returns nil once the reply is complete.
	attempt(ctx context.Context, sender *sender, prompt commands.Prompt, reply *reply) error
}

// upstream is a provider on the other side of the network.
type upstream struct {
	protocol protocol
	sender   *sender
	config   Config
}

func newUpstream(c Config, transport *http.Transport, protocol protocol) *upstream {
	return &upstream{protocol: protocol, sender: newSender(transport, maxEvent(c.MaxReplyBytes)), config: c}
}

// maxEvent is how long one JSON document of a reply may be: text is escaped, and there is something around it.
func maxEvent(maxReplyBytes int) int { return 2*maxReplyBytes + 64<<10 }

// Complete calls the provider, again where that may help and no text has come yet.
func (u *upstream) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	return func(yield func(commands.Chunk, error) bool) {
		calling, cancel := context.WithCancel(ctx)
		defer cancel() // closes the connection of a call that is still under way
		reply := &reply{
			yield: yield, sent: func() { prompt.Messages, prompt.Instructions = nil, "" }, model: prompt.Model, limit: u.config.MaxReplyBytes,
			first: u.config.FirstTokenTimeout, idle: u.config.IdleTimeout,
			patience: time.AfterFunc(u.config.FirstTokenTimeout, cancel), deadline: time.Now().Add(u.config.FirstTokenTimeout),
		}
		defer reply.patience.Stop()
		for repetition := 0; ; repetition++ {
			err := u.protocol.attempt(calling, u.sender, prompt, reply)
			if err == nil || reply.stopped {
				return
			}
			fault := blame(ctx, calling, err, reply)
			if reply.size > 0 || repetition >= u.config.Retries || !fault.waitedFor(calling, repetition, u.config.MaxRetryWait) {
				yield(commands.Chunk{}, fault.err())
				return
			}
		}
	}
}

// reply is what has come of a reply so far.
type reply struct {
	yield   func(commands.Chunk, error) bool
	sent    func()              // lets go of the prompt, which is not sent again once there is text
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
	r.generating = r.generating || token
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
	if !r.yield(commands.Chunk{Text: text, Model: r.model, Usage: usage, Finish: r.finish}, nil) {
		r.stopped = true
		return errStopped
	}
	if !r.generating {
		r.deadline = time.Now().Add(left)
	}
	r.patience.Reset(left)
	return nil
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
