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
	default:
		x.rest = func() { s.sendStream(w, r, turn, from, out) }
	}
}

func (s *Server) sendStream(w http.ResponseWriter, r *http.Request, turn followed, from int, out dialect) {
	err := s.tell(w, r, turn, from, out)
	if err == nil {
		return
	}
	x := exchangeOf(r)
	if lost, ok := errors.AsType[*lostTurn](err); ok && r.Context().Err() == nil {
		x.record.ErrorCode = explain(r.Context(), lost.cause).Code
		s.logger.WarnContext(r.Context(), "stream broken off", "turn", turn.id, "error", err)
		panic(http.ErrAbortHandler) // only a broken connection says that the turn has not come to its end
	}
	x.record.ErrorCode = "request_cancelled"
	if errors.Is(err, os.ErrDeadlineExceeded) && turn.live != nil {
		turn.live.Release()
	}
	s.awaitUsage(r, turn)
}

// lostTurn is why a turn cannot be followed any more.
type lostTurn struct{ cause error }

func (l *lostTurn) Error() string { return "follow the turn: " + l.cause.Error() }

// Unwrap returns the cause.
func (l *lostTurn) Unwrap() error { return l.cause }

// tell is the loop.
func (s *Server) tell(w http.ResponseWriter, r *http.Request, turn followed, from int, out dialect) error {
	s.config.Observer.StreamHeld(1)
	defer s.config.Observer.StreamHeld(-1)
	control := http.NewResponseController(w)
	send := func(err error) error {
		if err == nil {
			err = control.Flush()
		}
		return err
	}
	patience := func() { _ = control.SetWriteDeadline(time.Now().Add(slowest)) } // without a connection there is nothing to bound
	patience()
	if err := send(out.begin()); err != nil {
		return err
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		step, err := turn.Next(r.Context(), from, ping.C)
		if err != nil {
			return &lostTurn{err}
		}
		patience()
		if step.Text != "" {
			from += len(step.Text)
			err = out.delta(step.Text, from)
		}
		switch {
		case err != nil:
			return err
		case step.End != nil:
			exchangeOf(r).ended(*step.End)
			return send(out.end(*step.End))
		case step.Text == "":
			_, err = w.Write([]byte(": ping\n\n"))
		}
		if err := send(err); err != nil {
			return err
		}
	}
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
