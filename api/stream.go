package api

// This file stands where a turn goes out as server-sent events: one loop for every dialect, and our own dialect.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/nidohq/nido/commands"
)

const (
	// pingEvery keeps proxies from closing a stream in which nothing is said.
	pingEvery = 10 * time.Second
	// slowest is how long a reader may take to make room for what comes next. One that takes longer is let go of, and may
	// come back for the rest.
	slowest = 10 * time.Second
	// usageTimeout bounds the wait for the end of a turn whose client has left: its usage belongs into the log.
	usageTimeout = 5 * time.Second
)

// dialect is how a turn's events look.
type dialect interface {
	begin() error
	delta(text string, offset int) error // offset is that behind the text
	end(end commands.TurnEnd) error
}

// stream sends a turn from an offset on until its end, or until its reader has gone. It does so when the route's handler has
// returned: a stream that is held for minutes needs no router and no binding on its stack, which is half as large then.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, turn followed, from int, out dialect) {
	x := exchangeOf(r)
	x.streams = true
	if x.begun != nil {
		x.begun(turn.id)
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold the events back
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	switch {
	case r.Method == http.MethodHead:
	case x.begun != nil: // somebody waits for how it ends
		s.sendStream(w, r, turn, from, out)
		_ = http.NewResponseController(w).Flush() // a client that has left by now has nothing to hear
	default:
		x.rest = func() { s.lastStream(w, r, turn, from, out) }
	}
}

// sendStream sends a stream that its request's goroutine stays with.
func (s *Server) sendStream(w http.ResponseWriter, r *http.Request, turn followed, from int, out dialect) {
	(&telling{server: s, ctx: r.Context(), w: w, r: r, turn: turn, from: from, out: out}).run()
}

// lastStream sends a stream behind which the request has nothing more to do.
func (s *Server) lastStream(w http.ResponseWriter, r *http.Request, turn followed, from int, out dialect) {
	(&telling{server: s, ctx: r.Context(), w: w, r: r, turn: turn, from: from, out: out, free: s.config.Returned != nil && turn.live != nil}).run()
}

// lostTurn is why a turn cannot be followed any more.
type lostTurn struct{ cause error }

func (l *lostTurn) Error() string { return "follow the turn: " + l.cause.Error() }

// Unwrap returns the cause.
func (l *lostTurn) Unwrap() error { return l.cause }

// telling is a turn on its way to one of its readers. What it needs while it waits stands here, and not on the stack of who
// waits: Go halves a stack only where three quarters of it are free.
type telling struct {
	server *Server
	ctx    context.Context //nolint:containedctx // ends when the reader goes; it is another one for a stream that is held
	w      http.ResponseWriter
	r      *http.Request
	turn   followed
	from   int // bytes of the text that are out
	out    dialect
	free   bool // the connection may be taken over
}

// errTakenOver ends a loop whose stream goes on without it.
var errTakenOver = errors.New("the stream's connection has been taken over")

func (t *telling) run() {
	observer := t.server.config.Observer
	observer.StreamHeld(1)
	defer func() {
		if !exchangeOf(t.r).taken {
			observer.StreamHeld(-1)
		}
	}()
	if err := t.tell(); !errors.Is(err, errTakenOver) && t.over(err) {
		panic(http.ErrAbortHandler) // only a broken connection says that the turn has not come to its end
	}
}

// tell is the loop.
func (t *telling) tell() error {
	if err := t.begin(); err != nil {
		return err
	}
	began := time.Now()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		step, err := t.turn.Next(t.ctx, t.from, ping.C)
		if over, err := t.pass(step, err); over || err != nil {
			return err
		}
		if t.free && time.Since(began) >= t.server.lasts {
			if t.takeOver() {
				return errTakenOver
			}
			t.free = false
		}
	}
}

func (t *telling) begin() error {
	t.patience()
	err := t.out.begin()
	if err == nil && t.turn.live != nil && t.turn.live.Speaks(t.from) {
		return nil // it goes out with the first words
	}
	return t.flush(err)
}

// pass hands on what there is, which is a ping where there is nothing. It reports whether that was the end.
func (t *telling) pass(step commands.Step, err error) (over bool, _ error) {
	if err != nil {
		return false, &lostTurn{err}
	}
	t.patience()
	if step.Text != "" {
		t.from += len(step.Text)
		err = t.out.delta(step.Text, t.from)
	}
	switch {
	case err != nil:
		return false, err
	case step.End != nil:
		exchangeOf(t.r).ended(*step.End)
		return true, t.out.end(*step.End) // who has the connection sends it in one packet with the mark of the body's end
	case step.Text == "":
		_, err = t.w.Write([]byte(": ping\n\n"))
	}
	return false, t.flush(err)
}

// patience bounds how long the reader may take to make room for what comes now.
func (t *telling) patience() {
	_ = http.NewResponseController(t.w).SetWriteDeadline(time.Now().Add(slowest)) // without a connection there is nothing to bound
}

func (t *telling) flush(err error) error {
	if err == nil {
		err = http.NewResponseController(t.w).Flush()
	}
	return err
}

// over says how the telling has ended to those who want to know. It reports whether the connection must not look as if the
// turn had come to its end.
func (t *telling) over(err error) (broken bool) {
	if err == nil {
		return false
	}
	s, x := t.server, exchangeOf(t.r)
	if lost, ok := errors.AsType[*lostTurn](err); ok && t.ctx.Err() == nil {
		x.record.ErrorCode = explain(t.ctx, lost.cause).Code
		s.logger.WarnContext(t.ctx, "stream broken off", "turn", t.turn.id, "error", err)
		return true
	}
	x.record.ErrorCode = "request_cancelled"
	if errors.Is(err, os.ErrDeadlineExceeded) && t.turn.live != nil {
		t.turn.live.Release()
	}
	s.awaitUsage(t.r, t.turn)
	return false
}

// awaitUsage waits a moment for the end of a turn that its client's leaving has cancelled.
func (s *Server) awaitUsage(r *http.Request, turn followed) {
	if turn.live == nil || exchangeOf(r).failed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), usageTimeout)
	defer cancel()
	if end, ok := turn.live.Cancelled(ctx); ok {
		exchangeOf(r).ended(end)
	}
}

// turnEvents is our own dialect.
type turnEvents struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	turn   followed
	fresh  bool // from the turn's beginning
	buffer bytes.Buffer
}

func newTurnEvents(s *Server, w http.ResponseWriter, r *http.Request, turn followed, fresh bool) *turnEvents {
	return &turnEvents{server: s, w: w, r: r, turn: turn, fresh: fresh}
}

// TurnStarted is the data of turn.started.
type TurnStarted struct {
	TurnID         string    `json:"turnId"`
	ConversationID string    `json:"conversationId"`
	AgentID        string    `json:"agentId"`
	CreatedAt      Timestamp `json:"createdAt"`
}

// MessageDelta is the data of message.delta.
type MessageDelta struct {
	Text string `json:"text"`
}

// TurnReply is the data of turn.completed and turn.cancelled.
type TurnReply struct {
	TurnID string `json:"turnId"`
	ChatReply
}

func (t *turnEvents) begin() error {
	t.buffer.WriteString("retry: 2000\n\n")
	if t.fresh {
		return t.event("0", "turn.started", TurnStarted{
			TurnID: t.turn.id, ConversationID: t.turn.conversation, AgentID: t.turn.agent, CreatedAt: Timestamp(t.turn.started),
		})
	}
	return t.write()
}

func (t *turnEvents) delta(text string, offset int) error {
	return t.event(strconv.Itoa(offset), "message.delta", MessageDelta{Text: text})
}

func (t *turnEvents) end(end commands.TurnEnd) error {
	reply := TurnReply{TurnID: t.turn.id, ChatReply: ChatReply{
		Response: end.Reply.Text, ConversationID: end.Reply.ConversationID, MessageID: end.Reply.MessageID, AgentID: t.turn.agent,
		Model: end.Reply.Model, Usage: usageOf(end.Reply.Usage), FinishReason: finishOf(end.Reply.Finish), CreatedAt: Timestamp(end.Reply.CreatedAt),
	}}
	name, data := "turn.completed", any(reply)
	switch {
	case errors.Is(end.Err, commands.ErrClientGone):
		name = "turn.cancelled"
	case end.Err != nil:
		name, data = "turn.failed", t.server.failure(t.r, t.turn, end.Err)
	}
	if err := t.append("end", name, data); err != nil {
		return err
	}
	t.buffer.WriteString("data: [DONE]\n\n")
	return t.write()
}

func (t *turnEvents) event(place, name string, data any) error {
	if err := t.append(place, name, data); err != nil {
		return err
	}
	return t.write()
}

func (t *turnEvents) append(place, name string, data any) error {
	encoded, err := encode(data)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if place == "end" {
		exchangeOf(t.r).said = bytes.Clone(encoded)
	}
	for _, part := range []string{"id: ", t.turn.id, ":", place, "\nevent: ", name, "\ndata: "} {
		t.buffer.WriteString(part)
	}
	t.buffer.Write(encoded)
	t.buffer.WriteString("\n\n")
	return nil
}

func (t *turnEvents) write() error {
	_, err := t.w.Write(t.buffer.Bytes())
	t.buffer.Reset()
	return err
}

// encode writes JSON on one line.
func encode(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buffer.Bytes(), "\n"), nil
}
