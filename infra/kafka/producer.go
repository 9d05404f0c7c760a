package kafka

// This file stands at the append: Watermill's publisher, made to tell where a record went, and to come back after an
// outage without a restart.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/eapache/go-resiliency/breaker"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// ErrTooLarge: the message is more than MaxRecordBytes. It was not sent, and sending it again would not help.
var ErrTooLarge = errors.New("the record is larger than the log takes")

// closeGrace bounds how long closing waits for records under way.
const closeGrace = 5 * time.Second

// renewEvery bounds how often a producer is replaced that has given up for a while.
const renewEvery = 500 * time.Millisecond

// producer publishes through Watermill.
type producer struct {
	config Config
	sarama *sarama.Config

	mu      sync.Mutex
	current *generation
	renewed time.Time // when replacing was last begun
	closed  bool
}

// generation is one publisher and those who use it. It is closed after the last of them: the client library panics
// where it is closed earlier.
type generation struct {
	publisher *wmkafka.Publisher
	users     sync.WaitGroup
}

func newProducer(ctx context.Context, config Config, compression sarama.CompressionCodec) (*producer, error) {
	p := &producer{config: config, sarama: config.producer(compression)}
	first, err := await(ctx, p.open, func(late *generation) { ignore(late.publisher.Close()) })
	if err != nil {
		return nil, fmt.Errorf("open a producer: %w", err)
	}
	p.current = first
	return p, nil
}

func (p *producer) open() (*generation, error) {
	publisher, err := wmkafka.NewPublisher(wmkafka.PublisherConfig{
		Brokers: p.config.Brokers, Marshaler: marshaler{limit: p.sarama.Producer.MaxMessageBytes}, OverwriteSaramaConfig: p.sarama, Tracer: receiptTracer{},
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	return &generation{publisher: publisher}, nil
}

// publish returns where the broker says that the record is. Its errors are as commands.Log wants them.
func (p *producer) publish(ctx context.Context, topic string, msg *message.Message) (domain.Position, error) {
	var none domain.Position
	if err := context.Cause(ctx); err != nil {
		return none, fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
	}
	using, err := p.enter()
	if err != nil {
		return none, err
	}
	written := &receipt{offset: -1}
	msg.SetContext(context.WithValue(context.WithoutCancel(ctx), receiptKey{}, written))
	done := make(chan error, 1)
	go func() { // the publisher knows no contexts
		defer using.users.Done()
		done <- using.publisher.Publish(topic, msg)
	}()
	select {
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w", commands.ErrUnknownOutcome, context.Cause(ctx))
	case err := <-done:
		switch {
		case err != nil:
			return none, p.classify(err)
		case written.offset < 0:
			// A broker that has the record from an earlier attempt but no longer knows where says no more than that.
			return none, fmt.Errorf("%w: acknowledged without an offset", commands.ErrUnknownOutcome)
		}
		return domain.Position{Partition: written.partition, Offset: written.offset}, nil
	}
}

func (p *producer) enter() (*generation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("%w: the producer is closed", commands.ErrUnavailable)
	}
	p.current.users.Add(1)
	return p.current, nil
}

// classify says whether the record may be in the log. Only where the client library cannot have sent it may the
// answer be no: a batch that was sent once fails later with the error of its last attempt, so a refused connection
// proves nothing, while no broker to ask (before a batch is built) and an open breaker do.
func (p *producer) classify(err error) error {
	switch {
	case errors.Is(err, ErrTooLarge):
		return err
	case errors.Is(err, sarama.ErrMessageSizeTooLarge): // the broker's limit is lower than ours
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, breaker.ErrBreakerOpen):
		p.renew()
		return fmt.Errorf("%w: the brokers have not answered for a while", commands.ErrUnavailable)
	case errors.Is(err, sarama.ErrOutOfBrokers):
		return fmt.Errorf("%w: %w", commands.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", commands.ErrUnknownOutcome, err)
}

// renew replaces the publisher in the background. After three failures the client library refuses to try for ten
// seconds, also when the brokers have long been back.
func (p *producer) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || time.Since(p.renewed) < renewEvery {
		return
	}
	p.renewed = time.Now()
	old := p.current
	old.users.Add(1) // it stays open until it is replaced
	go func() {
		defer old.users.Done()
		next, err := p.open()
		if err != nil {
			return // the brokers are still away; the next refused record tries again
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.closed || p.current != old {
			go func() { ignore(next.publisher.Close()) }()
			return
		}
		p.current = next
		go func() {
			old.users.Wait()
			ignore(old.publisher.Close())
		}()
	}()
}

// close waits for what is under way, but not for ever: a broker that is silent may take half a minute to be given up.
func (p *producer) close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	last := p.current
	p.mu.Unlock()
	closed := make(chan error, 1)
	go func() {
		last.users.Wait()
		closed <- last.publisher.Close()
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(closeGrace):
		return errors.New("records are still under way")
	}
}

// receipt is where the broker says that a record is. It travels down in the message's context, and sideways through
// the client library in the record's Metadata.
type receipt struct {
	partition int32
	offset    int64
}

type receiptKey struct{}

// marshaler makes a Kafka record of a message: metadata become headers, in one order, and nothing is added.
type marshaler struct{ limit int }

// Marshal implements Watermill's interface.
func (m marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	record := &sarama.ProducerMessage{
		Topic: topic, Value: sarama.ByteEncoder(msg.Payload),
		Offset: -1, // stays where the acknowledgement has none
	}
	if key := msg.Metadata[headerPartitionKey]; key != "" {
		record.Key = sarama.StringEncoder(key)
	}
	record.Headers = make([]sarama.RecordHeader, 0, len(msg.Metadata))
	for _, name := range slices.Sorted(maps.Keys(msg.Metadata)) {
		record.Headers = append(record.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(msg.Metadata[name])})
	}
	if size := record.ByteSize(2); size > m.limit {
		return nil, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, size, m.limit)
	}
	if written, ok := msg.Context().Value(receiptKey{}).(*receipt); ok {
		record.Metadata = written
	}
	return record, nil
}

// receiptTracer is Watermill's hook around the synchronous producer; the others are for its subscriber.
type receiptTracer struct{}

func (receiptTracer) WrapConsumer(c sarama.Consumer) sarama.Consumer { return c }

func (receiptTracer) WrapPartitionConsumer(c sarama.PartitionConsumer) sarama.PartitionConsumer {
	return c
}

func (receiptTracer) WrapConsumerGroupHandler(h sarama.ConsumerGroupHandler) sarama.ConsumerGroupHandler {
	return h
}

func (receiptTracer) WrapSyncProducer(_ *sarama.Config, inner sarama.SyncProducer) sarama.SyncProducer {
	return receiptProducer{inner}
}

type receiptProducer struct{ sarama.SyncProducer }

// SendMessage notes where the record went before Watermill forgets it.
func (p receiptProducer) SendMessage(record *sarama.ProducerMessage) (int32, int64, error) {
	partition, offset, err := p.SyncProducer.SendMessage(record)
	if written, ok := record.Metadata.(*receipt); ok && err == nil {
		written.partition, written.offset = partition, offset
	}
	return partition, offset, err
}
