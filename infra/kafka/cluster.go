package kafka

// This file stands at the log as a whole: its topics, and where they end.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
)

// Cluster is the log and what belongs to it. It is safe for concurrent use.
type Cluster struct {
	config Config
	client sarama.Client

	mu     sync.Mutex
	closed bool
}

// Errors of Open. They need an operator.
var (
	// ErrPartitionsChanged: the events topic has another count of partitions than at its creation. Streams are spread
	// by the count, so a stream's later commits would land behind another order. Growing means an offline copy.
	ErrPartitionsChanged = errors.New("the events topic's partition count has changed")
	// ErrEventsMissing: the control topic says that there was an events topic, but there is none.
	ErrEventsMissing = errors.New("the events topic is gone")
	// ErrNoLog: there is no log of this name, and none was to be made.
	ErrNoLog = errors.New("there is no such log")
)

// Open connects, makes sure that the topics exist with their settings, and checks the partition count. Where they must
// exist it only looks.
func Open(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("kafka configuration: %w", err)
	}
	cluster, err := connect(ctx, config.withDefaults())
	if err != nil {
		return nil, err
	}
	prepare := cluster.ensureTopics
	if config.MustExist {
		prepare = cluster.findTopics
	}
	if err := prepare(ctx); err != nil {
		return nil, errors.Join(err, cluster.client.Close())
	}
	return cluster, nil
}

// connect knows the brokers, and looks at no topic.
func connect(ctx context.Context, config Config) (*Cluster, error) {
	conf := config.client()
	conf.Metadata.Full = true // to know the controller, who creates topics, and the brokers, whose count sets the replicas
	client, err := await(ctx, func() (sarama.Client, error) { return sarama.NewClient(config.Brokers, conf) },
		func(late sarama.Client) { ignore(late.Close()) })
	if err != nil {
		return nil, fmt.Errorf("connect to kafka: %w", err)
	}
	return &Cluster{config: config, client: client}, nil
}

// Events is the topic of commits.
func (c *Cluster) Events() string { return c.config.Prefix + ".events" }

// Control is the topic of operators' decisions and of what must never change.
func (c *Cluster) Control() string { return c.config.Prefix + ".control" }

// RequestsTopic is the topic of request log bundles.
func (c *Cluster) RequestsTopic() string { return c.config.Prefix + ".requests" }

// Group names a consumer group: "postgres" becomes "nido.postgres".
func (c *Cluster) Group(name string) string { return c.config.Prefix + "." + name }

// Partitions is the events topic's fixed count.
func (c *Cluster) Partitions() (int, error) {
	partitions, err := c.client.Partitions(c.Events())
	if err != nil {
		return 0, fmt.Errorf("partitions of %s: %w", c.Events(), err)
	}
	return len(partitions), nil
}

// Ends asks the brokers for the next offset of every partition of the events topic, and waits while they elect leaders.
func (c *Cluster) Ends(ctx context.Context) (map[int32]int64, error) {
	return c.settledEnds(ctx, c.Events())
}

func (c *Cluster) settledEnds(ctx context.Context, topic string) (map[int32]int64, error) {
	return settled(ctx, func() (map[int32]int64, error) { return c.ends(ctx, topic) })
}

// settled asks again where an answer of the brokers only says that they are not ready yet.
func settled[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	for deadline := time.Now().Add(electionGrace); ; {
		answer, err := ask()
		if !passing(err) || time.Now().After(deadline) {
			return answer, err
		}
		if cause := pause(ctx, 100*time.Millisecond); cause != nil {
			return answer, cause
		}
	}
}

// electionGrace is how long a partition may be without a leader that knows its end: Kafka notices a dead node after
// nine seconds, and the replica that takes over must hear from another one first.
const electionGrace = 15 * time.Second

// passing reports that a partition has no leader right now, or one that does not know yet how far the old one had come,
// or that a connection had died unnoticed. Each connection dies once, so asking again meets a living broker or the
// refusal of a dead one, which is not passing.
func passing(err error) bool {
	for _, passing := range []error{
		sarama.ErrOffsetNotAvailable, sarama.ErrLeaderNotAvailable, sarama.ErrNotLeaderForPartition, sarama.ErrFencedLeaderEpoch, sarama.ErrUnknownLeaderEpoch,
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, sarama.ErrNotConnected,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

func (c *Cluster) ends(ctx context.Context, topic string) (map[int32]int64, error) {
	ends, err := await(ctx, func() (map[int32]int64, error) {
		partitions, err := c.client.Partitions(topic)
		if err != nil {
			return nil, err
		}
		ends := make(map[int32]int64, len(partitions))
		for _, partition := range partitions {
			if ends[partition], err = c.client.GetOffset(topic, partition, sarama.OffsetNewest); err != nil {
				return nil, fmt.Errorf("partition %d: %w", partition, err)
			}
		}
		return ends, nil
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("ends of %s: %w", topic, err)
	}
	return ends, nil
}

// Close ends the connections that the cluster itself holds. Logs, requests and consumers are closed by their owners.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if err := c.client.Close(); err != nil {
		return fmt.Errorf("close kafka: %w", err)
	}
	return nil
}

// await runs a call of the client library, which knows no contexts, until the context ends. A result that comes too
// late goes to late; the library's own time-outs bound how long that takes.
func await[T any](ctx context.Context, call func() (T, error), late func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	if err := context.Cause(ctx); err != nil {
		return none, err
	}
	outcomes := make(chan outcome, 1)
	go func() {
		value, err := call()
		outcomes <- outcome{value, err}
	}()
	select {
	case got := <-outcomes:
		return got.value, got.err
	case <-ctx.Done():
		if late != nil {
			go func() {
				if got := <-outcomes; got.err == nil {
					late(got.value)
				}
			}()
		}
		return none, context.Cause(ctx)
	}
}

// ignore marks an error that nobody can act on: of closing what is being given up anyway.
func ignore(error) {}
