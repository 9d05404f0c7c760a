package commands

// This file stands in the chat turn: the turn as those see it who follow it while it runs. Its text is gathered once, and
// each reader has a place in it; so a slow reader holds up nobody, and costs no more than the text itself.

import (
	"context"
	"strings"
	"sync"
	"time"
)

// Live is a turn from its acceptance on.
type Live struct {
	Turn           string // its id
	ConversationID string // the client's
	MessageID      string // the reply's
	AgentID        string
	StartedAt      time.Time
	DataKey        DataKey

	stop  context.CancelCauseFunc // ends the upstream call
	over  chan struct{}           // closed when nobody works on the turn any more
	untie func() bool
	rests func(context.Context) // until its text is kept next; nil where that is not waited for
	keep  func()                // has the text kept, which may be shown then; nil shows it at once

	finished chan struct{} // closed with the end

	mu      sync.Mutex
	text    strings.Builder
	tied    bool          // its client's leaving cancels it
	safe    int           // bytes that are kept
	shown   int           // bytes that may be shown: kept, and of an accepted turn
	dirty   bool          // the keeper knows that there is more
	early   bool          // the keeper was told before the message was accepted
	begun   bool          // the message has been accepted
	ended   *TurnEnd      // how it ended
	changed chan struct{} // closed and replaced by every change; nil while nobody waits
	awaited []func()      // called at the next change
	cancel  context.CancelFunc
	givenUp bool // nobody brings in its end any more
}

// TurnEnd is how a turn ended. Err is nil for a whole reply, ErrClientGone for a cancelled turn, a *ModelError for a
// failed one, and something else where the end could not be brought in.
type TurnEnd struct {
	Reply Reply
	Err   error
}

// Step is what a reader gets to see next: more text, the end behind it, or neither when it asked not to wait longer.
type Step struct {
	Text string
	End  *TurnEnd
}

// NewLive returns a turn of which nothing has been said yet.
func NewLive(turn, conversation, agent, message string, started time.Time) *Live {
	return &Live{
		Turn: turn, ConversationID: conversation, AgentID: agent, MessageID: message, StartedAt: started,
		stop: func(error) {}, over: make(chan struct{}), finished: make(chan struct{}), untie: func() bool { return false }, begun: true,
	}
}

func (o *opening) newLive(stop context.CancelCauseFunc) *Live {
	live := NewLive(o.id, o.turn.Conversation, o.turn.AgentID, o.replyID(), o.meta.Inputs.Now)
	live.DataKey, live.stop, live.begun = o.key, stop, false
	return live
}

// Tie cancels the turn when its client's context ends.
func (l *Live) Tie(ctx context.Context) {
	l.tied = true
	l.untie = context.AfterFunc(ctx, func() { l.stop(errClientGone) })
}

// Release lets the turn go on without its client: one that reads too slowly has not left, and may come back.
func (l *Live) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tied {
		l.tied = !l.untie()
	}
}

// keptBy has the text kept before anybody sees it. Where it is so before the message has been accepted, what is said first
// is kept meanwhile, which only a turn may do that nobody else can have begun.
func (l *Live) keptBy(ctx context.Context, keeper *keeper) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if keeper.texts != nil {
		l.keep, l.rests = func() { keeper.add(ctx, l, l.safe == 0) }, keeper.frames.rest
	}
}

// open lets readers see the text, as the keeper has it.
func (l *Live) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = true
	l.show(l.safe)
	l.advance()
}

// fail is the end of a turn that was not accepted: nothing is kept from now on. It reports whether something may have been.
func (l *Live) fail(err error) (early bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = &TurnEnd{Err: err}
	return l.early
}

// Say adds a piece of the reply.
func (l *Live) Say(piece string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(piece)
	l.advance()
}

// rest waits until more of the reply may be shown soon: that is, when its first word has been shown, and then once a frame.
func (l *Live) rest(ctx context.Context) {
	l.mu.Lock()
	rests := l.rests
	switch {
	case l.ended != nil, l.text.Len() == 0:
		rests = nil
	case l.shown == 0:
		rests = l.untilShown(l.change())
	}
	l.mu.Unlock()
	if rests != nil {
		rests(ctx)
	}
}

// longestRest bounds the wait for the first word to be shown: the model is not to be kept waiting by stores that hang.
const longestRest = time.Second

func (l *Live) untilShown(changed <-chan struct{}) func(context.Context) {
	return func(ctx context.Context) {
		limit := time.NewTimer(longestRest)
		defer limit.Stop()
		select {
		case <-changed:
		case <-limit.C:
		case <-ctx.Done():
		}
	}
}

// advance shows what may be shown, or has it kept first.
func (l *Live) advance() {
	switch {
	case l.ended != nil || l.text.Len() == max(l.safe, l.shown):
	case l.keep == nil:
		if l.begun {
			l.show(l.text.Len())
		}
	case !l.dirty && (l.begun || l.safe == 0):
		l.dirty, l.early = true, l.early || !l.begun
		l.keep()
	}
}

func (l *Live) show(until int) {
	if until > l.shown {
		l.shown = until
		l.announce()
	}
}

// unkept takes the text that is to be kept next. Before the message has been accepted that is one piece.
func (l *Live) unkept() (piece string, offset int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = false
	if l.ended != nil || !l.begun && l.safe > 0 {
		return "", 0
	}
	return l.text.String()[l.safe:], l.safe
}

// kept shows what has been kept, once the message has been accepted.
func (l *Live) kept(until int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until <= l.safe || l.ended != nil {
		return
	}
	l.safe = until
	if l.begun {
		l.show(until)
	}
}

// End says how the turn ended, with its whole text.
func (l *Live) End(reply Reply, err error) {
	l.mu.Lock()
	l.shown = l.text.Len()
	l.mu.Unlock()
	l.close(reply, err)
}

// close ends the turn with no more text than has been shown.
func (l *Live) close(reply Reply, err error) {
	l.untie()
	l.mu.Lock()
	defer l.mu.Unlock()
	reply.Text = l.text.String()[:l.shown]
	l.ended = &TurnEnd{Reply: reply, Err: err}
	close(l.finished)
	l.announce()
}

// closing notes how to give up bringing in the end. Whoever wants that may have come before.
func (l *Live) closing(cancel context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel = cancel
	if l.givenUp {
		cancel()
	}
}

// giveUp ends the bringing in of the end, also where that has not begun.
func (l *Live) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.givenUp = true
	if l.cancel != nil {
		l.cancel()
	}
}

func (l *Live) announce() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	for i, ready := range l.awaited {
		go ready()
		l.awaited[i] = nil
	}
	l.awaited = l.awaited[:0]
}

// Speaks reports whether a reader at an offset can see text now.
func (l *Live) Speaks(from int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return from < l.shown
}

// Await has ready called, on a goroutine of its own, once there is something behind an offset. So a reader need not wait, and
// holds nothing while nothing is said.
func (l *Live) Await(from int, ready func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from < l.shown || l.ended != nil {
		go ready()
		return
	}
	l.awaited = append(l.awaited, ready)
}

// Look returns what a reader at an offset can see now, which may be nothing.
func (l *Live) Look(from int) Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen(from)
}

func (l *Live) seen(from int) (step Step) {
	if from < l.shown {
		step.Text = l.text.String()[from:l.shown]
	}
	step.End = l.ended
	return step
}

// look is Look, with what to wait for where there is nothing.
func (l *Live) look(from int) (step Step, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if step = l.seen(from); step.Text == "" && step.End == nil {
		changed = l.change()
	}
	return step, changed
}

// change returns what is closed with the next change.
func (l *Live) change() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// Next returns what comes behind an offset as soon as there is something: text, the end, or both. It returns nothing when
// the alarm goes off first, and the context's cause when that ends.
func (l *Live) Next(ctx context.Context, from int, alarm <-chan time.Time) (Step, error) {
	for {
		step, changed := l.look(from)
		if changed == nil {
			return step, nil
		}
		select {
		case <-changed:
		case <-alarm:
			return Step{}, nil
		case <-ctx.Done():
			return Step{}, context.Cause(ctx)
		}
	}
}

// Ended waits for the end alone; no text wakes it.
func (l *Live) Ended(ctx context.Context) (TurnEnd, error) {
	select {
	case <-l.finished:
		return *l.ended, nil // never changes any more
	case <-ctx.Done():
		return TurnEnd{}, context.Cause(ctx)
	}
}

// Cancelled waits for the end of a turn that its client's leaving has cancelled. It is not ok where the turn goes on, or
// where the context ends first.
func (l *Live) Cancelled(ctx context.Context) (end TurnEnd, ok bool) {
	l.mu.Lock()
	tied := l.tied
	l.mu.Unlock()
	if !tied {
		return TurnEnd{}, false
	}
	end, err := l.Ended(ctx)
	return end, err == nil
}
