//go:build linux

package kafkatest

// This file stands between the tests and the nodes: one process runs the nodes for the tests of all packages, and takes
// their wishes over HTTP.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// The variables that the command exports.
const (
	// BrokersVariable holds the addresses of the nodes. Tests that would start an embedded broker take these instead.
	BrokersVariable = "NIDO_TEST_KAFKA_BROKERS"
	// ControlVariable holds the address at which nodes are stopped and started.
	ControlVariable = "NIDO_TEST_KAFKA_CONTROL"
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

// Remote is a cluster that another process runs.
type Remote struct {
	Brokers []string
	control string
}

// FromEnvironment finds the cluster that the command started, if it did.
func FromEnvironment() (Remote, bool) {
	brokers, control := os.Getenv(BrokersVariable), os.Getenv(ControlVariable)
	return Remote{Brokers: strings.Split(brokers, ","), control: control}, brokers != "" && control != ""
}

// Kill is Cluster's.
func (r Remote) Kill(ctx context.Context, id int) error { return r.ask(ctx, id, "kill") }

// Stop is Cluster's.
func (r Remote) Stop(ctx context.Context, id int) error { return r.ask(ctx, id, "stop") }

// Resume is Cluster's.
func (r Remote) Resume(ctx context.Context, id int) error { return r.ask(ctx, id, "resume") }

// Settle is Cluster's.
func (r Remote) Settle(ctx context.Context) error { return r.post(ctx, "/settle") }

// All does the same with all nodes at once.
func (r Remote) All(ctx context.Context, do func(context.Context, int) error) error {
	faults := make(chan error, NodeCount)
	for id := range NodeCount {
		go func() { faults <- do(ctx, id+1) }()
	}
	var all error
	for range NodeCount {
		all = errors.Join(all, <-faults)
	}
	return all
}

func (r Remote) ask(ctx context.Context, id int, what string) error {
	return r.post(ctx, fmt.Sprintf("/nodes/%d/%s", id, what))
}

func (r Remote) post(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.control+path, nil)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	response, err := (&http.Client{Timeout: startPatience + stopPatience}).Do(request)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for %s: status %d: %s: %w", path, response.StatusCode, strings.TrimSpace(string(text)), errors.Join(err))
	}
	return nil
}
