package api

// This file stands behind the streams whose connections have been taken over: who they are, for a node that stops, and how the
// connections come back to Go's server.

import (
	"context"
	"net"
	"sync"
)

// holds are the connections that have been taken over.
type holds struct {
	mu       sync.Mutex
	all      map[*held]bool // whether the stream still runs; else the connection waits for its next request
	running  int
	stopping bool
	broken   bool          // all that run are broken off
	none     chan struct{} // closed when none runs any more; nil while nobody waits for that
}

// add notes one, unless the node stops: then Go's server waits for it, which knows it still.
func (h *holds) add(one *held) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return false
	}
	if h.all == nil {
		h.all = map[*held]bool{}
	}
	h.all[one] = true
	h.running++
	return true
}

// took notes the connection itself.
func (h *holds) took(one *held, conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.conn = conn
	if h.broken {
		_ = conn.Close()
	}
}

// ended notes that a stream is over, and tells whether its connection may have another request.
func (h *holds) ended(one *held) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end(one)
	return !h.stopping
}

func (h *holds) end(one *held) {
	if !h.all[one] {
		return
	}
	h.all[one] = false
	if h.running--; h.running == 0 && h.none != nil {
		close(h.none)
		h.none = nil
	}
}

// drop forgets a connection.
func (h *holds) drop(one *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end(one)
	delete(h.all, one)
}

// stop takes over no further ones, lets go of connections on which nobody is told anything, and returns those with streams.
func (h *holds) stop() (none <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
	for one, runs := range h.all {
		if !runs {
			_ = one.conn.Close() // whoever watches it hears that
		}
	}
	if h.none == nil {
		h.none = make(chan struct{})
	}
	none = h.none
	if h.running == 0 {
		close(h.none)
		h.none = nil
	}
	return none
}

// breakOff ends them all, as if their clients had left.
func (h *holds) breakOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = true
	for one := range h.all {
		one.gone(net.ErrClosed)
		if one.conn != nil {
			_ = one.conn.Close()
		}
	}
}

// Finish waits for streams whose connections have been taken over, while the server is shut down, which does not know them;
// when the context ends, it breaks them off, and returns why.
func (s *Server) Finish(ctx context.Context) error {
	none := s.holds.stop()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		s.holds.breakOff()
		return context.Cause(ctx)
	}
}

// Returned is a listener that hands out the connections of streams that have come to their end. A server that serves it
// beside its own may have long streams taken over.
type Returned struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewReturned returns one that nobody serves yet.
func NewReturned() *Returned {
	return &Returned{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (r *Returned) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		return conn, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (r *Returned) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

// Addr implements net.Listener. It has no address of its own.
func (r *Returned) Addr() net.Addr { return &net.TCPAddr{} }

// give hands a connection to the server, with what has been read of its next request.
func (r *Returned) give(conn net.Conn, unread []byte) {
	if before, again := conn.(*returned); again { // not one more around it for each stream that it has had
		conn, unread = before.Conn, append(unread, before.unread...)
	}
	conn = &returned{Conn: conn, unread: unread}
	select {
	case r.conns <- conn:
	case <-r.closed:
		_ = conn.Close() // the node stops
	}
}

// returned is such a connection, with what has been read of its next request.
type returned struct {
	net.Conn
	unread []byte
}

// CloseWrite lets the server close a connection behind an error without taking the answer back from who still sends.
func (r *returned) CloseWrite() error {
	if half, can := r.Conn.(interface{ CloseWrite() error }); can {
		return half.CloseWrite()
	}
	return nil
}

// Read implements net.Conn.
func (r *returned) Read(into []byte) (int, error) {
	if len(r.unread) == 0 {
		return r.Conn.Read(into)
	}
	n := copy(into, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}
