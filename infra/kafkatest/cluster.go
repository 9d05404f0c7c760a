//go:build linux

package kafkatest

// This file stands at the cluster as a whole: it is started, its nodes come and go, and it is looked at.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// Config says where the nodes keep their data.
type Config struct {
	// Dir holds the nodes' data, settings and logs. Required.
	Dir string
	// Jars is the folder that setup.sh fills. Required.
	Jars string
	// Logger hears about starts and stops. Required.
	Logger *slog.Logger
}

// Cluster is three combined brokers and controllers. Its methods may be called at any time, from any goroutine.
type Cluster struct {
	Config
	admin *kadm.Client
	nodes []*node
}

// Start formats and starts the nodes, and returns when all of them serve. On an error nothing is left running.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	var err error
	if config.Dir, err = filepath.Abs(config.Dir); err != nil {
		return nil, fmt.Errorf("start kafka: %w", err)
	}
	if config.Jars, err = filepath.Abs(config.Jars); err != nil { // the nodes have working directories of their own
		return nil, fmt.Errorf("start kafka: %w", err)
	}
	c := &Cluster{Config: config}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		return nil, fmt.Errorf("make a client of the brokers: %w", err)
	}
	c.admin = kadm.NewClient(client)
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	err = c.each(func(n *node) error { return n.format(ctx, c.Jars) })
	if err == nil {
		err = c.each(func(n *node) error { return n.start(ctx, c.Jars) })
	}
	if err == nil {
		err = c.serving(ctx, c.nodes...)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start kafka: %w", err), c.Close())
	}
	c.Logger.InfoContext(ctx, "kafka started", "brokers", c.Brokers(), "dir", c.Dir, "took", time.Since(began).Round(time.Millisecond))
	return c, nil
}

func (c Config) validate() error {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, errors.New("kafkatest: no folder for the data"))
	}
	if jars, err := filepath.Glob(filepath.Join(c.Jars, "kafka_*.jar")); err != nil || len(jars) != 1 {
		faults = append(faults, fmt.Errorf("kafkatest: %q does not hold Kafka's jars: run infra/kafkatest/setup.sh", c.Jars))
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("kafkatest: no logger"))
	}
	return errors.Join(faults...)
}

// prepare chooses ports and writes the nodes' settings.
func (c *Cluster) prepare() error {
	ports, err := FreePorts(2 * NodeCount)
	if err != nil {
		return err
	}
	for i := range NodeCount {
		c.nodes = append(c.nodes, &node{
			id: i + 1, dir: filepath.Join(c.Dir, fmt.Sprintf("node-%d", i+1)), port: ports[i], controller: ports[NodeCount+i],
		})
	}
	for _, n := range c.nodes {
		if err := n.configure(c.nodes); err != nil {
			return err
		}
	}
	return nil
}

// Brokers are the addresses of all nodes, running or not, in the order of their ids.
func (c *Cluster) Brokers() []string {
	var addresses []string
	for _, n := range c.nodes {
		addresses = append(addresses, n.address())
	}
	return addresses
}

// Kill ends a node as a power cut does, and waits until it is dead. The others find out by themselves.
func (c *Cluster) Kill(id int) error {
	n, err := c.node(id)
	if err != nil {
		return err
	}
	c.Logger.Info("kafka node killed", "node", id)
	return n.kill()
}

// Stop ends a node in order: it hands its partitions over first.
func (c *Cluster) Stop(ctx context.Context, id int) error {
	n, err := c.node(id)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err = n.stop(ctx)
	c.Logger.InfoContext(ctx, "kafka node stopped", "node", id, "took", time.Since(began).Round(time.Millisecond))
	return err
}

// Resume starts a node again and returns when it takes part.
func (c *Cluster) Resume(ctx context.Context, id int) error {
	n, err := c.node(id)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := n.start(ctx, c.Jars); err != nil {
		return err
	}
	if err := c.serving(ctx, n); err != nil {
		return err
	}
	c.Logger.InfoContext(ctx, "kafka node started", "node", id, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// Settle waits until every partition has all of its replicas in sync: until then the loss of another node would stop
// writes.
func (c *Cluster) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return poll(ctx, "every replica to be in sync", func(ctx context.Context) error {
		topics, err := c.admin.ListTopicsWithInternal(ctx)
		if err != nil {
			return err
		}
		for _, topic := range topics {
			for _, partition := range topic.Partitions {
				if partition.Err != nil || partition.Leader < 0 || len(partition.ISR) < len(partition.Replicas) {
					return fmt.Errorf("%s, partition %d: leader %d, %v of %v in sync: %w", topic.Topic, partition.Partition,
						partition.Leader, partition.ISR, partition.Replicas, errors.Join(partition.Err))
				}
			}
		}
		return nil
	})
}

// Close ends all nodes at once. Their data stays where it is.
func (c *Cluster) Close() error {
	if c.admin != nil {
		c.admin.Close()
	}
	return c.each((*node).kill)
}

func (c *Cluster) node(id int) (*node, error) {
	if id < 1 || id > len(c.nodes) {
		return nil, fmt.Errorf("there is no kafka node %d", id)
	}
	return c.nodes[id-1], nil
}

func (c *Cluster) each(do func(*node) error) error {
	var group errgroup.Group
	for _, n := range c.nodes {
		group.Go(func() error { return do(n) })
	}
	return group.Wait()
}

// serving waits until each of these nodes answers by itself, which it does once the controller lets it take part.
func (c *Cluster) serving(ctx context.Context, nodes ...*node) error {
	for _, n := range nodes {
		err := poll(ctx, fmt.Sprintf("kafka node %d to serve", n.id), func(ctx context.Context) error {
			if n.gone() {
				return fmt.Errorf("%w, the log of node %d ends:\n%s", errEnded, n.id, n.tail())
			}
			alone, err := kgo.NewClient(kgo.SeedBrokers(n.address()), kgo.RequestRetries(0)) // knows no other node
			if err != nil {
				return err
			}
			defer alone.Close()
			return alone.Ping(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// errEnded stops a poll that waits for a node which will not come.
var errEnded = errors.New("the node has ended")

// poll repeats a question until it has no error, or the context ends.
func poll(ctx context.Context, what string, ask func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ask(once)
		cancel()
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}
