package kafka

// This file stands before the fold: it keeps a projector supplied with batches, through rebalances and outages.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// Errors that end a Consumer's Run. Both name partition and offset, and both mean that the handler's store and this
// log do not belong together: an operator decides, and until then nothing may be folded.
var (
	// ErrLogBehind: the log ends before the handler's checkpoint, for example after a power cut took its last records.
	ErrLogBehind = errors.New("the log ends before the checkpoint")
	// ErrLogDiffers: the record at the handler's checkpoint is not the one that was folded, or is no longer there.
	ErrLogDiffers = errors.New("the log is not the one that was folded")
)

// Errors that concern one partition.
var (
	// ErrReseek is wrapped by a handler whose compare-and-set failed: another one has moved the checkpoint. The
	// consumer asks for the checkpoint again and goes on behind it.
	ErrReseek = errors.New("the checkpoint has moved")
	// ErrGap stops a partition: the log goes on elsewhere than behind the last record.
	ErrGap = errors.New("records are missing from the log")
)

// ConsumerConfig says what to read and who gets it.
type ConsumerConfig struct {
	// Topic to read, for example Cluster.Events(). Required.
	Topic string
	// Name of the consumer group behind the prefix: "postgres" becomes "nido.postgres". Required.
	Name string
	// Handler gets the batches. Required.
	Handler Handler
	// Expires says that the topic forgets: records older than its retention may be missing. Without it a missing
	// record stops the partition.
	Expires bool
	// MaxRecords bounds a batch. Default 512.
	MaxRecords int
	// MaxBytes ends a batch once its keys, headers and values have reached it. Default 4 MiB.
	MaxBytes int
	// Linger is how long a batch that is not full waits for more. Default 0: only what has already arrived.
	Linger time.Duration
	// Observer is told of batches. Default nobody.
	Observer Observer
}

// Validate returns all faults, joined.
func (c ConsumerConfig) Validate() error {
	var faults []error
	if c.Topic == "" {
		faults = append(faults, errors.New("topic: none given"))
	}
	if c.Name == "" {
		faults = append(faults, errors.New("name: none given"))
	}
	if c.Handler == nil {
		faults = append(faults, errors.New("handler: none given"))
	}
	if c.MaxRecords < 0 || c.MaxBytes < 0 || c.Linger < 0 {
		faults = append(faults, errors.New("a bound of the batch is negative"))
	}
	return errors.Join(faults...)
}

// Consumer feeds one handler from one topic, sharing its partitions with the other members of its group.
type Consumer struct {
	ConsumerConfig
	cluster *Cluster
	group   string
	config  Config
	logger  *slog.Logger
	board   board
}

// Consumer makes a consumer; Run starts it.
func (c *Cluster) Consumer(config ConsumerConfig) (*Consumer, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("consumer configuration: %w", err)
	}
	if config.MaxRecords == 0 {
		config.MaxRecords = 512
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 4 << 20
	}
	if config.Observer == nil {
		config.Observer = nobody{}
	}
	group := c.Group(config.Name)
	return &Consumer{ConsumerConfig: config, cluster: c, group: group, config: c.config, logger: c.config.Logger.With("group", group, "topic", config.Topic)}, nil
}

// skips are the decisions that concern this consumer's topic.
func (c *Consumer) skips(ctx context.Context) (Skips, error) {
	if c.Topic != c.cluster.Events() {
		return nil, nil
	}
	return c.cluster.Skips(ctx)
}

// How long things may take, and how often they are tried again.
const (
	stopGrace   = 2 * time.Second // for leaving the group, before the connections are cut
	behindGrace = 2 * time.Second // a partition's new leader may not know the end at once
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 500 * time.Millisecond // commands are waiting behind every outage
	maxFenced   = 5 * time.Second        // every new session disturbs the whole group
	lookForSkip = time.Second            // how often a stopped partition asks whether an operator has decided
)

// Run consumes until the context ends, and then returns nil. It outlives every outage of the log and of the handler's
// store; only ErrLogBehind and ErrLogDiffers end it. Run is called once.
func (c *Consumer) Run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	client, err := sarama.NewClient(c.config.Brokers, c.config.consumer()) // connects later
	if err != nil {
		return fmt.Errorf("consume %s: %w", c.Topic, err)
	}
	group, err := sarama.NewConsumerGroupFromClient(c.group, client)
	if err != nil {
		return errors.Join(fmt.Errorf("consume %s: %w", c.Topic, err), client.Close())
	}
	finished := make(chan struct{})
	var aside sync.WaitGroup
	aside.Go(func() {
		for err := range group.Errors() { // of single fetches and heartbeats, which the library repeats
			c.logger.DebugContext(ctx, "kafka client", "error", err)
		}
	})
	aside.Go(func() { // joining a group cannot be cancelled otherwise
		<-ctx.Done()
		select {
		case <-finished:
		case <-time.After(stopGrace):
			ignore(client.Close())
		}
	})
	c.sessions(ctx, client, group, end)
	end(nil)
	ignore(group.Close()) // leaves the group, where there still is one
	close(finished)
	aside.Wait()
	if !client.Closed() {
		ignore(client.Close())
	}
	c.board.clear()
	if fatal, ok := errors.AsType[*fatalError](context.Cause(ctx)); ok {
		return fmt.Errorf("consume %s: %w", c.Topic, fatal.err)
	}
	return nil
}

// fatalError is the cause with which a session ends Run.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

// sessions runs one session of the group after the other until the context ends. A rebalance, a fence and an outage
// each end a session.
func (c *Consumer) sessions(ctx context.Context, client sarama.Client, group sarama.ConsumerGroup, end context.CancelCauseFunc) {
	outage := trouble{logger: c.logger, begin: "log cannot be consumed", done: "log is consumed again", most: maxBackoff}
	fences := trouble{logger: c.logger, begin: "projector was overtaken", done: "projector goes on", most: maxFenced}
	for ctx.Err() == nil {
		session := &session{consumer: c, client: client, end: end, begun: func() { outage.over(ctx) }, moved: func() { fences.over(ctx) }}
		err := group.Consume(ctx, []string{c.Topic}, session)
		switch {
		case ctx.Err() != nil:
		case err != nil && !session.cut(err):
			c.board.outage(err)
			ignore(outage.wait(ctx, err)) // the loop's condition sees the context
		case session.progress.Load():
		case session.fenced.Load():
			ignore(fences.wait(ctx, ErrReseek))
		default: // a rebalance, or a claim that could not begin: never in a tight loop
			ignore(pause(ctx, minBackoff))
		}
	}
}

// trouble is a state that is logged when it begins and when it ends, not in between, and waits longer each time.
type trouble struct {
	logger      *slog.Logger
	begin, done string
	most        time.Duration // between two attempts
	since       time.Time
	attempts    int
}

// wait returns an error if the context ends first.
func (t *trouble) wait(ctx context.Context, err error) error {
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	if t.attempts == 0 {
		t.since = time.Now()
		t.logger.WarnContext(ctx, "trouble begins", "what", t.begin, "error", err)
	}
	backoff := min(t.most, minBackoff<<min(t.attempts, 10))
	t.attempts++
	return pause(ctx, backoff)
}

func (t *trouble) over(ctx context.Context) {
	if t.attempts > 0 {
		t.logger.InfoContext(ctx, "trouble is over", "what", t.done, "attempts", t.attempts, "after", time.Since(t.since))
	}
	t.attempts = 0
}
