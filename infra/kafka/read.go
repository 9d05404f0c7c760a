package kafka

// This file stands beside the fold: it reads a topic once from its beginning to its present end, for rebuilding and
// verifying, outside of any consumer group.

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/domain"
)

// ReadAll hands every commit of the events topic, accepted or not, from the beginning to the ends at the time of the
// call. Each partition comes in order; partitions interleave at will; fn is never called twice at a time. Records that
// an operator skipped are passed over; another one that cannot be decoded ends it, with an error that wraps
// domain.ErrUndecodable and says where.
func (c *Cluster) ReadAll(ctx context.Context, fn func(domain.Recorded) error) error {
	skips, err := c.Skips(ctx)
	if err != nil {
		return err
	}
	var one sync.Mutex
	return c.readTopic(ctx, c.Events(), func(record *sarama.ConsumerMessage) error {
		msg := fromRecord(record)
		if skips.covers(msg) {
			return nil
		}
		recorded, err := Decode(msg)
		if err != nil {
			return err
		}
		one.Lock()
		defer one.Unlock()
		return fn(recorded)
	})
}

// readTopic calls fn for every record, one goroutine per partition.
func (c *Cluster) readTopic(ctx context.Context, topic string, fn func(*sarama.ConsumerMessage) error) error {
	ends, err := c.settledEnds(ctx, topic)
	if err != nil {
		return err
	}
	return c.read(ctx, topic, nil, ends, fn)
}

// read calls fn for the records of some partitions, from the offsets given, or the beginning, to before the ends. Each
// partition has a goroutine.
func (c *Cluster) read(ctx context.Context, topic string, from, ends map[int32]int64, fn func(*sarama.ConsumerMessage) error) error {
	consumer, err := await(ctx, func() (sarama.Consumer, error) { return sarama.NewConsumer(c.config.Brokers, c.config.consumer()) },
		func(late sarama.Consumer) { ignore(late.Close()) })
	if err != nil {
		return fmt.Errorf("read %s: %w", topic, err)
	}
	readers, within := errgroup.WithContext(ctx)
	for partition, end := range ends {
		readers.Go(func() error {
			if err := c.readPartition(within, consumer, topic, partition, from[partition], end, fn); err != nil {
				return fmt.Errorf("read %s, partition %d: %w", topic, partition, err)
			}
			return nil
		})
	}
	return errors.Join(readers.Wait(), consumer.Close())
}

func (c *Cluster) readPartition(ctx context.Context, consumer sarama.Consumer, topic string, partition int32, from, end int64, fn func(*sarama.ConsumerMessage) error) (err error) {
	begin, err := c.offset(ctx, topic, partition, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	next, err := c.offset(ctx, topic, partition, sarama.OffsetNewest)
	if err != nil {
		return err
	}
	begin, end = max(begin, from), min(end, next)
	if begin >= end {
		return nil
	}
	records, err := settled(ctx, func() (sarama.PartitionConsumer, error) { return consumer.ConsumePartition(topic, partition, begin) })
	if err != nil {
		return err
	}
	defer func() { ignore(records.Close()) }() // its errors are those of fetches that were repeated
	for {
		select {
		case record, ok := <-records.Messages():
			if !ok {
				return fmt.Errorf("the reader ended before offset %d", end)
			}
			if record.Offset >= end {
				return nil
			}
			if err := fn(record); err != nil {
				return err
			}
			if record.Offset == end-1 {
				return nil
			}
		case err := <-records.Errors():
			if err != nil { // the library fetches again by itself
				c.config.Logger.DebugContext(ctx, "fetch failed", "topic", topic, "partition", partition, "error", err.Err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// offset is the first one of a partition that is kept, or the next that will be given.
func (c *Cluster) offset(ctx context.Context, topic string, partition int32, which int64) (int64, error) {
	return settled(ctx, func() (int64, error) {
		return await(ctx, func() (int64, error) { return c.client.GetOffset(topic, partition, which) }, nil)
	})
}
