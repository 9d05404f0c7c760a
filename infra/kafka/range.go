package kafka

// This file stands beside the fold: it reads a part of the log in batches, for operators' commands, which fold it anew
// or look at it outside of any consumer group.

import (
	"context"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/domain"
)

// Entry is one record of the events topic, whatever is in it. Its place and hash are always there.
type Entry struct {
	domain.Recorded
	Skip *Skip // an operator's decision to pass over it; Recorded.Skipped is true then
	Err  error // why it cannot be decoded, or nil
}

// Read hands out the records of some partitions in batches of at most size, from the offsets given, or the beginning,
// to before the ends. Partitions are read side by side: fn is called for several of them at a time, but for each in
// order. Its error ends the reading.
func (c *Cluster) Read(ctx context.Context, from, ends map[int32]int64, size int, fn func(ctx context.Context, partition int32, entries []Entry) error) error {
	skips, err := c.Skips(ctx)
	if err != nil {
		return err
	}
	group, within := errgroup.WithContext(ctx)
	batches, gathered := map[int32]chan []Entry{}, map[int32]*[]Entry{}
	for partition := range ends {
		batch := make(chan []Entry, 1) // the next one is decoded while this one is worked on
		batches[partition], gathered[partition] = batch, new([]Entry)
		group.Go(func() error {
			for entries := range batch {
				if err := fn(within, partition, entries); err != nil {
					return err
				}
			}
			return nil
		})
	}
	hand := func(partition int32) error {
		entries := gathered[partition]
		if len(*entries) == 0 {
			return nil
		}
		select {
		case batches[partition] <- *entries:
			*entries = nil
			return nil
		case <-within.Done():
			return context.Cause(within)
		}
	}
	group.Go(func() error {
		defer func() {
			for _, batch := range batches {
				close(batch)
			}
		}()
		err := c.read(within, c.Events(), from, ends, func(record *sarama.ConsumerMessage) error {
			entries := gathered[record.Partition]
			*entries = append(*entries, skips.entry(record))
			if len(*entries) < size {
				return nil
			}
			return hand(record.Partition)
		})
		for partition := range ends {
			if err == nil {
				err = hand(partition)
			}
		}
		return err
	})
	return group.Wait()
}

// entry says what a record is.
func (s Skips) entry(record *sarama.ConsumerMessage) Entry {
	position := domain.Position{Partition: record.Partition, Offset: record.Offset}
	entry := Entry{Recorded: domain.Recorded{Position: position, Hash: Hash(record.Key, record.Value)}}
	if skip, skipped := s.At(position, entry.Hash); skipped {
		entry.Skip, entry.Skipped = &skip, true
		return entry
	}
	recorded, err := Decode(fromRecord(record))
	if err != nil {
		entry.Err = err
		return entry
	}
	entry.Recorded = recorded
	return entry
}
