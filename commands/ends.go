package commands

// This file stands at the end of a chat turn: exactly one of completed, failed and cancelled, whoever writes it.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// Interrupted is the code of a turn that was ended because nobody worked on it any more.
const Interrupted = "interrupted"

// ErasedConversation is the code of a turn whose conversation was erased while it ran.
const ErasedConversation = "conversation_erased"

// finish gives an accepted turn its end, and tells whoever follows or waits for it once that is accepted.
func (c *Chat) finish(ctx context.Context, open *opening, live *Live, said generation) {
	end, failure := c.end(open, said)
	known := Known[conversation.State]{State: open.decision.State, Version: open.decision.Version}
	patience := c.EndTimeout
	if open.turn.Streamed { // its readers can wait: an end that they were told would be their last word
		patience = c.TotalTimeout
	}
	waiting, giveUp := context.WithTimeout(ctx, patience)
	defer giveUp()
	live.closing(giveUp)
	ended := open.ending()
	err := c.untilAccepted(waiting, open, stepEnd, &known, end)
	ended()
	reply := Reply{
		Turn: open.id, MessageID: open.replyID(), ConversationID: open.turn.Conversation, Text: said.text, Model: said.model,
		Usage: said.usage, Finish: said.finish, FirstReply: said.first, CreatedAt: endedAt(end), DataKey: open.key,
	}
	c.turns.drop(live)
	if c.Line != nil {
		c.Line.Freed(c.handler.Aggregate.Stream(open.stream))
	}
	switch refusal, refused := errors.AsType[*domain.Refusal](err); {
	case refused && refusal.Code == ErasedConversation:
		live.close(reply, &ModelError{Code: ErasedConversation, Err: err})
	case refused && refusal.Code == "turn_closed":
		// Only a sweeper ends another's turn, and only as interrupted, with what had been shown.
		live.close(reply, &ModelError{Code: Interrupted, Retryable: true, Err: err})
	case err != nil:
		c.later(ctx, open, end)
		live.close(reply, err)
		return
	case failure != nil:
		live.End(reply, failure)
	default:
		live.End(reply, nil)
	}
	c.keeper.forget(ctx, live)
}

// endedAt is the time of an end.
func endedAt(end conversation.Command) time.Time {
	switch end := end.(type) {
	case conversation.Complete:
		return end.At
	case conversation.Fail:
		return end.At
	case conversation.Cancel:
		return end.At
	}
	return time.Time{}
}

// end says what a generation means for its turn, and what its caller gets to hear if it is not a reply.
func (c *Chat) end(open *opening, said generation) (conversation.Command, error) {
	now := c.Clock().UTC().Truncate(time.Microsecond)
	text := open.key.Seal([]byte(said.text))
	begun := text // what is kept of a reply that is not whole
	if said.text == "" {
		begun = domain.Sealed{} // it ended before its first word, and is no message
	}
	failed := func(code string) conversation.Command {
		return conversation.Fail{ReplyFailed: conversation.ReplyFailed{
			Turn: open.id, Message: open.replyID(), Text: begun, Model: said.model, Usage: said.usage, Code: code, At: now,
		}}
	}
	modelError, ok := errors.AsType[*ModelError](said.err)
	switch {
	case said.err == nil:
		return conversation.Complete{ReplyCompleted: conversation.ReplyCompleted{
			Turn: open.id, Message: open.replyID(), Text: text, Model: said.model, Usage: said.usage,
			FirstReply: said.first, FullReply: said.full, Finish: said.finish, At: now,
		}}, nil
	case errors.Is(said.err, ErrClientGone):
		return conversation.Cancel{ReplyCancelled: conversation.ReplyCancelled{
			Turn: open.id, Message: open.replyID(), Text: begun, Model: said.model, Usage: said.usage, At: now,
		}}, ErrClientGone
	case errors.Is(said.err, errStopping):
		return failed(Interrupted), &ModelError{Code: Interrupted, Retryable: true, Err: said.err}
	case errors.Is(said.err, context.DeadlineExceeded):
		return failed("upstream_timeout"), &ModelError{Code: "upstream_timeout", Retryable: true, Timeout: "total", Err: said.err}
	case ok:
		return failed(modelError.Code), modelError
	}
	return failed("upstream_error"), &ModelError{Code: "upstream_error", Retryable: true, Err: said.err}
}

func (o *opening) ending() (ended func()) {
	if o.turn.Ending == nil {
		return func() {}
	}
	return o.turn.Ending()
}

func (o *opening) replyID() string { return o.meta.Inputs.ID("msg", " reply") }

// How the two ways to an end are called. They must differ: runs of one request have the same ids, and whoever finds their
// own command committed takes what it says for the turn's end.
const (
	stepEnd     = "end"     // by whoever ran the turn
	stepAbandon = "abandon" // by whoever was not told whether there is one
)

// untilAccepted sends an end until the log has accepted it or the turn is found closed. known, if not nil, saves the
// first look.
func (c *Chat) untilAccepted(ctx context.Context, open *opening, step string, known *Known[conversation.State], end conversation.Command) error {
	meta := open.meta
	meta.Inputs.Now = c.Clock().UTC().Truncate(time.Microsecond)
	result, err := c.handler.attempt(ctx, open.stream, step, meta, end, known)
	for pause := 20 * time.Millisecond; retryable(err); pause = min(2*pause, time.Second) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("end the turn: %w", err)
		case <-time.After(pause):
		}
		result, err = c.handler.Handle(ctx, open.stream, step, meta, end)
	}
	if err == nil && (result.Already || len(result.Events) > 0) {
		c.Observer.TurnEnded(endName(end))
	}
	return err
}

// endName is how an end is called where turns are counted.
func endName(end conversation.Command) string {
	switch end := end.(type) {
	case conversation.Complete:
		return EndCompleted
	case conversation.Cancel:
		return EndCancelled
	case conversation.Fail:
		if end.Code == Interrupted {
			return EndInterrupted
		}
	}
	return EndFailed
}

func retryable(err error) bool {
	return errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrConflict)
}

// later goes on ending a turn whose client has been told that the outcome is unknown, until the turn's deadline, when
// any sweeper may end it.
func (c *Chat) later(ctx context.Context, open *opening, end conversation.Command) {
	c.closings.start(ctx, c.TotalTimeout, func(ctx context.Context) {
		err := c.untilAccepted(ctx, open, stepEnd, nil, end)
		if err != nil && !over(err) {
			c.Logger.ErrorContext(ctx, "turn left to the sweeper", "turn", open.id, "error", err)
		}
	})
}

// over reports that a turn could not be ended because it has had its end.
func over(err error) bool {
	refusal, ok := errors.AsType[*domain.Refusal](err)
	return ok && (refusal.Code == "turn_closed" || refusal.Code == ErasedConversation)
}

// abandon ends a turn whose message may or may not have reached the log. While the turn is not to be seen, the message
// may still be on its way to the fold; so it is looked for until the turn's deadline, when any sweeper may end it.
func (c *Chat) abandon(ctx context.Context, open *opening) {
	c.closings.start(ctx, c.TotalTimeout, func(ctx context.Context) {
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			known, err := c.handler.load(ctx, open.stream, stepAbandon, open.meta)
			if err == nil && c.settled(ctx, open, known) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
}

// settled ends the abandoned turn if its message has arrived and nobody works on it, and reports whether it has no open end
// any more. A stream that stands beyond the base has decided about the message, whichever way.
//
// The client may have sent the request again meanwhile, under the same Idempotency-Key: that run makes the same turn, and
// where its message came first it is the one that answers. It may be another node's, or still be hearing of its message.
func (c *Chat) settled(ctx context.Context, open *opening, known Known[conversation.State]) bool {
	turn := known.State.Turn
	switch {
	case turn == nil || turn.ID != open.id:
		return known.Version > open.decision.Commit.Base
	case turn.Boot != c.Boot:
		return true
	}
	runs, beginning := c.turns.has(open.id)
	switch {
	case runs:
		return true
	case beginning:
		return false
	}
	return c.untilAccepted(ctx, open, stepAbandon, &known, conversation.Fail{ReplyFailed: conversation.ReplyFailed{
		Turn: open.id, Message: open.replyID(), Model: open.model, Code: Interrupted, At: c.Clock().UTC().Truncate(time.Microsecond),
	}}) == nil
}

// closings are the ends that outlive their requests.
type closings struct {
	running sync.WaitGroup
	mu      sync.Mutex
	next    int
	cancels map[int]context.CancelFunc
	closed  bool
}

// start works in the background for at most limit, until Close.
func (c *closings) start(ctx context.Context, limit time.Duration, work func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		return
	}
	id := c.next
	c.next++
	c.cancels[id] = cancel
	c.running.Go(func() {
		work(ctx)
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.cancels, id)
	})
}

// errStopping is the cancellation cause of turns that outlast the process.
var errStopping = errors.New("the process stops")

// Drain sends away who waits for a conversation, and waits until no turn is running. When the context ends, it ends those
// that are left as interrupted, so that whoever follows them is told. Where the log or the fold takes no ends, it waits for
// all of them together as long as it would for one: a process that stops must not go on for each turn that cannot end.
func (c *Chat) Drain(ctx context.Context) {
	if c.Line != nil {
		c.Line.Close()
	}
	if c.turns.wait(ctx) {
		return
	}
	c.turns.stop()
	ending, giveUp := context.WithTimeout(context.WithoutCancel(ctx), c.EndTimeout) // of all together
	defer giveUp()
	c.turns.wait(ending)
}

// Close gives up the ends that are still being tried and waits for that; the sweeper takes over.
func (c *Chat) Close() {
	if c.Line != nil {
		c.Line.Close()
	}
	c.closings.mu.Lock()
	c.closings.closed = true
	for _, cancel := range c.closings.cancels {
		cancel()
	}
	c.closings.mu.Unlock()
	for _, live := range c.turns.stop() {
		live.giveUp()
		<-live.over
	}
	c.closings.running.Wait()
	c.keeper.close()
}

// Ending counts the ends that are still being tried behind their requests.
func (c *Chat) Ending() int {
	c.closings.mu.Lock()
	defer c.closings.mu.Unlock()
	return len(c.closings.cancels)
}
