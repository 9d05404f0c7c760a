package api

// This file stands where a stream lasts: its connection is taken over from Go's HTTP server, which needs three buffers and a
// goroutine of its own for each. Nobody waits then for the turn's next word: whoever brings it starts a goroutine that writes
// it and is over. What is left per stream is one goroutine with next to nothing on its stack, which hears when the client goes.
// Behind the stream's end the server gets the connection back.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nidohq/nido/commands"
)

// lasts is how long a stream has to have lasted; most are over by then, and cost no more than they did.
const lasts = 2 * time.Second

var errReaderLeft = errors.New("the reader has left")

// held is a stream whose connection has been taken over.
type held struct {
	server *Server
	conn   net.Conn                // written by holds
	gone   context.CancelCauseFunc // ends the telling's context
	over   atomic.Bool             // the stream has ended
	hears  func()                  // is hear

	mu     sync.Mutex // whoever writes has it
	tells  *telling   // nil once it is over
	closes bool       // the client wants the connection closed behind the answer
	unread []byte     // what the client has sent behind its request
	ping   *time.Timer
}

// takeOver makes a stream one that is held, where that can be done. The request's goroutine has no part in it any more then.
func (t *telling) takeOver() bool {
	s, x := t.server, exchangeOf(t.r)
	out, ours := t.w.(*capture)
	if !ours || t.r.ProtoMajor != 1 || !t.r.ProtoAtLeast(1, 1) { // only this has chunks
		return false
	}
	x.attend(t.r)
	h := &held{server: s, gone: x.leaves, tells: t, closes: t.r.Close}
	if !s.holds.add(h) {
		return false
	}
	conn, buffered, err := http.NewResponseController(t.w).Hijack()
	if err != nil {
		s.holds.drop(h)
		return false // it goes on as it began
	}
	s.holds.took(h, conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !x.tied() {
		h.gone(context.Cause(t.r.Context())) // the client went just now
	}
	t.ctx, x.taken = x.present, true
	out.ResponseWriter = &chunks{conn: conn, header: out.Header()}
	out.request.Body = http.NoBody // the server's, which has its buffers
	h.ping = time.AfterFunc(pingEvery, h.say)
	h.ping.Reset(pingEvery) // behind which it is there for say
	if ahead, err := buffered.Reader.Peek(buffered.Reader.Buffered()); err == nil && len(ahead) > 0 {
		h.unread = bytes.Clone(ahead) // as Go's server does, one who asks ahead is believed to stay
	} else {
		go h.watch(conn)
	}
	h.hears = h.hear
	t.turn.live.Await(t.from, h.hears)
	return true
}

// watch waits until the client says something, which is its next request, or goes.
func (h *held) watch(conn net.Conn) {
	var next [1]byte
	n, err := conn.Read(next[:])
	h.heard(next[:n], err)
}

// heard is kept apart from watch, for the stack of that to remain small.
//
//go:noinline
func (h *held) heard(next []byte, err error) {
	if len(next) == 0 && !h.over.Load() {
		h.gone(fmt.Errorf("%w: %w", errReaderLeft, err)) // though somebody may be writing
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unread = append(h.unread, next...)
	switch {
	case h.tells == nil:
		h.giveBack(len(next) > 0)
	case len(next) == 0:
		defer h.recover(h.tells)
		h.end(&lostTurn{context.Cause(h.tells.ctx)})
	}
}

// hear is called where there is something behind what has been told.
func (h *held) hear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tells == nil {
		return
	}
	defer h.recover(h.tells)
	live := h.tells.turn.live
	if step := live.Look(h.tells.from); step != (commands.Step{}) { // a reader may know of more than there is yet
		if over, err := h.tells.pass(step, nil); over || err != nil {
			h.end(err)
			return
		}
	}
	live.Await(h.tells.from, h.hears)
}

// say is called where a while has passed since the last ping.
func (h *held) say() {
	if !h.mu.TryLock() { // somebody tells something, which is as good
		h.ping.Reset(pingEvery)
		return
	}
	defer h.mu.Unlock()
	if h.tells == nil {
		return
	}
	defer h.recover(h.tells)
	if _, err := h.tells.pass(commands.Step{}, nil); err != nil {
		h.end(err)
		return
	}
	h.ping.Reset(pingEvery)
}

// end ends the stream. The connection is the next request's, unless it broke.
func (h *held) end(err error) {
	t := h.tells
	h.finish()
	broken := t.over(err)
	if err == nil {
		_, err = h.conn.Write([]byte("0\r\n\r\n"))
	}
	h.release(t, err == nil && !broken && !h.closes)
}

// finish has nobody tell any more.
func (h *held) finish() {
	h.tells = nil
	h.over.Store(true)
	h.ping.Stop()
}

// release closes the exchange, and keeps the connection or closes it.
func (h *held) release(t *telling, keep bool) {
	h.server.config.Observer.StreamHeld(-1)
	t.w.(*capture).finish()
	keep = h.server.holds.ended(h) && keep
	switch {
	case !keep:
		h.giveBack(false)
	case len(h.unread) > 0:
		h.giveBack(true)
	default: // whoever watches gives it back with what they hear
		_ = h.conn.SetDeadline(time.Now().Add(idleTimeout)) // a connection without deadlines is closed already
	}
}

// giveBack is the last that is done with it.
func (h *held) giveBack(keep bool) {
	h.server.holds.drop(h)
	if !keep {
		_ = h.conn.Close() // nobody wants to know
		return
	}
	_ = h.conn.SetDeadline(time.Time{}) // the server sets its own
	h.server.config.Returned.give(h.conn, h.unread)
}

// recover does what the server does for a handler: a panic ends its request and nothing else.
func (h *held) recover(t *telling) {
	reason := recover()
	if reason == nil {
		return
	}
	h.server.logger.ErrorContext(t.ctx, "stream panicked", "panic", fmt.Sprint(reason), "stack", string(debug.Stack()))
	if h.tells == nil { // it was at its end
		h.giveBack(false)
		return
	}
	exchangeOf(t.r).record.ErrorCode = "internal_error"
	h.finish()
	h.release(t, false)
}

// attend makes a context that ends when the client goes, whoever notices that, and not with the request's handler.
func (x *exchange) attend(r *http.Request) context.Context {
	if x.present == nil {
		x.present, x.leaves = context.WithCancelCause(context.WithoutCancel(r.Context()))
		x.tied = context.AfterFunc(r.Context(), func() { x.leaves(context.Cause(r.Context())) })
	}
	return x.present
}

// chunks is what is left to write of a chunked answer whose connection has been taken over: each part is one chunk, and at
// once on its way.
type chunks struct {
	conn   net.Conn
	header http.Header
}

// Header implements http.ResponseWriter.
func (c *chunks) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter: the head is out.
func (c *chunks) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (c *chunks) Write(part []byte) (int, error) {
	chunk := make([]byte, 0, len(part)+12)
	chunk = append(strconv.AppendInt(chunk, int64(len(part)), 16), "\r\n"...)
	chunk = append(append(chunk, part...), "\r\n"...)
	if _, err := c.conn.Write(chunk); err != nil {
		return 0, err
	}
	return len(part), nil
}

// FlushError is what http.ResponseController calls.
func (c *chunks) FlushError() error { return nil }

// SetWriteDeadline is what http.ResponseController calls.
func (c *chunks) SetWriteDeadline(at time.Time) error { return c.conn.SetWriteDeadline(at) }
