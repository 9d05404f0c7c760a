// Package modeltest stands where a model provider stands in a chat turn: a mock that speaks the OpenAI-compatible and
// the Anthropic protocol, for tests (scripted replies, failures, hangs, cut connections) and for benchmarks (pre-built
// bytes, so that what is measured is the caller).
//
// New starts one on a free port of the loopback interface; Handler is the same thing for a listener of one's own.
package modeltest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Server is a Handler that listens on 127.0.0.1.
type Server struct {
	*Handler
	URL string // scheme, host and port

	http    *http.Server
	stopped chan struct{}
}

// New starts a server. It panics where the loopback interface has no free port.
func New(options Options) *Server {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic("modeltest: " + err.Error())
	}
	s := &Server{
		Handler: NewHandler(options),
		URL:     "http://" + listener.Addr().String(),
		stopped: make(chan struct{}),
	}
	s.http = &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.count(func(stats *Stats) { stats.Connections++ })
			}
		},
	}
	go func() {
		defer close(s.stopped)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			panic("modeltest: " + err.Error())
		}
	}()
	return s
}

// OpenAI is the base URL for an OpenAI-compatible client.
func (s *Server) OpenAI() string { return s.URL + "/v1" }

// Anthropic is the base URL for an Anthropic client.
func (s *Server) Anthropic() string { return s.URL }

// Close ends every connection, waits until no request is being handled, and releases the port.
func (s *Server) Close() {
	s.release()
	_ = s.http.Close() // its only errors come from the listener, which is closed either way
	<-s.stopped
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Await(ctx, func(stats Stats) bool { return stats.Active == 0 }); err != nil {
		panic("modeltest: requests are still being handled after Close")
	}
}
