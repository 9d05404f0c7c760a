package kafka

// This file stands beside the fold: what it takes to say how far a projector is behind, in records and in seconds.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/domain"
)

// Extents are a topic's partitions: the first offset of each that is still there, and the next that will be given out.
type Extents map[int32]struct{ Begin, End int64 }

// Ends are the offsets that will be given out next.
func (e Extents) Ends() map[int32]int64 {
	ends := make(map[int32]int64, len(e))
	for partition, extent := range e {
		ends[partition] = extent.End
	}
	return ends
}

// Extents asks the brokers, and waits while they elect leaders.
func (c *Cluster) Extents(ctx context.Context, topic string) (Extents, error) {
	ends, err := c.settledEnds(ctx, topic)
	if err != nil {
		return nil, err
	}
	found := make(Extents, len(ends))
	for partition, end := range ends {
		begin, err := c.offset(ctx, topic, partition, sarama.OffsetOldest)
		if err != nil {
			return nil, fmt.Errorf("begin of %s, partition %d: %w", topic, partition, err)
		}
		found[partition] = struct{ Begin, End int64 }{begin, end}
	}
	return found, nil
}

// errNotThere: a partition did not give out a record that it should have.
var errNotThere = errors.New("the record was not given out")

// Written says when records were written, by one small fetch for each partition, side by side.
func (c *Cluster) Written(ctx context.Context, topic string, offsets map[int32]int64) (map[int32]time.Time, error) {
	found, results := make(map[int32]time.Time, len(offsets)), make(chan struct {
		partition int32
		at        time.Time
	}, len(offsets))
	asking, ctx := errgroup.WithContext(ctx)
	for partition, offset := range offsets {
		asking.Go(func() error {
			at, err := settled(ctx, func() (time.Time, error) {
				return await(ctx, func() (time.Time, error) {
					return c.written(topic, domain.Position{Partition: partition, Offset: offset})
				}, nil)
			})
			if err != nil {
				return fmt.Errorf("time of %s, %d:%d: %w", topic, partition, offset, err)
			}
			results <- struct {
				partition int32
				at        time.Time
			}{partition, at}
			return nil
		})
	}
	err := asking.Wait()
	close(results)
	for result := range results {
		found[result.partition] = result.at
	}
	return found, err
}

// written fetches one record's batch: a broker gives out at least one, however little is asked for.
func (c *Cluster) written(topic string, at domain.Position) (time.Time, error) {
	leader, err := c.client.Leader(topic, at.Partition)
	if err != nil {
		return time.Time{}, err
	}
	request := &sarama.FetchRequest{Version: 4, MaxWaitTime: 100, MinBytes: 1, MaxBytes: 1}
	request.AddBlock(topic, at.Partition, at.Offset, 1, -1)
	response, err := leader.Fetch(request)
	if err != nil {
		ignore(leader.Close()) // else a connection that has died stays, and the next question meets it again
		ignore(c.client.RefreshMetadata(topic))
		return time.Time{}, err
	}
	block := response.GetBlock(topic, at.Partition)
	if block == nil {
		return time.Time{}, errNotThere
	}
	if block.Err != sarama.ErrNoError {
		ignore(c.client.RefreshMetadata(topic)) // the leader may be another one by now
		return time.Time{}, block.Err
	}
	for _, set := range block.RecordsSet {
		if set.RecordBatch == nil {
			continue
		}
		for _, record := range set.RecordBatch.Records {
			if set.RecordBatch.FirstOffset+record.OffsetDelta == at.Offset {
				return set.RecordBatch.FirstTimestamp.Add(record.TimestampDelta), nil
			}
		}
	}
	return time.Time{}, errNotThere
}
