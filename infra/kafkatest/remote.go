// Package kafkatest stands below the tests: a real Apache Kafka of three nodes on this machine, each of which can be
// stopped, killed and started again. What the embedded broker cannot show is shown here: elections, replicas that fall
// behind, brokers that come and go one at a time.
package kafkatest

// This file stands between the tests and the nodes: one process runs the nodes for the tests of all packages, and takes
// their wishes over HTTP.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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

// NodeCount is how many nodes there are: the fewest of which one may be away while two still hold every commit.
const NodeCount = 3

const (
	// startPatience bounds a start, of one node or of all: three virtual machines on two busy cores.
	startPatience = 3 * time.Minute
	// stopPatience bounds an ordered stop; a node that hands its partitions over takes a second or two.
	stopPatience = 30 * time.Second
)

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
