//go:build linux

package kafkatest

// This file stands beside the nodes: it takes the tests' wishes, which come from other processes.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Serve takes wishes on a port of its own until it is closed, and returns its address.
func (c *Cluster) Serve(ctx context.Context) (address string, stop func() error, err error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen for the tests' wishes: %w", err)
	}
	mux := http.NewServeMux()
	handle := func(path string, do func(ctx context.Context, id int) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			id, err := strconv.Atoi(r.PathValue("node"))
			if r.PathValue("node") != "" && err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			} else if err := do(r.Context(), id); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("/nodes/{node}/kill", func(_ context.Context, id int) error { return c.Kill(id) })
	handle("/nodes/{node}/stop", c.Stop)
	handle("/nodes/{node}/resume", c.Resume)
	handle("/settle", func(ctx context.Context, _ int) error { return c.Settle(ctx) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return listener.Addr().String(), func() error {
		err := server.Close()
		if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
		return err
	}, nil
}
