package backup

// This file stands where segments become the log again: every record at its offset.

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/infra/kafka"
)

// What is appended at a time.
const (
	appendRecords = 2000
	appendBytes   = 2 << 20
)

// log restores both topics and says what has been erased in them.
func (r Restore) log(ctx context.Context, from folder, m *Manifest) (*erased, error) {
	events := m.topic(eventsTopic)
	if err := r.Log.Create(ctx, int32(len(events.Partitions))); err != nil {
		return nil, err
	}
	named := newCandidates()
	for _, part := range []struct {
		Topic
		name string
		see  func(kafka.Raw)
	}{{m.topic(controlTopic), r.Log.Control(), func(kafka.Raw) {}}, {events, r.Log.Events(), named.see}} {
		if err := r.topic(ctx, from, part.Topic, part.name, part.see); err != nil {
			return nil, fmt.Errorf("restore the log: %w", err)
		}
	}
	found, err := named.accepted(ctx, r.Log.Cluster(), events, r.Progress)
	if err != nil {
		return nil, fmt.Errorf("look for erasures in the log: %w", err)
	}
	return found, nil
}

// topic appends what a topic lacks. Partitions go side by side; see is told of every record, for several at a time.
func (r Restore) topic(ctx context.Context, from folder, topic Topic, name string, see func(kafka.Raw)) error {
	ends, err := r.Log.Cluster().EndsOf(ctx, name)
	if err != nil {
		return err
	}
	r.Progress.Begin("restoring "+topic.Name, "records", topic.records())
	for _, partition := range topic.Partitions { // before any of them is appended to
		if ends[partition.Partition] > partition.End {
			return fmt.Errorf("%w: %s, partition %d ends at %d, the backup's at %d", ErrNotEmpty, name, partition.Partition, ends[partition.Partition], partition.End)
		}
	}
	lanes, within := errgroup.WithContext(ctx)
	for _, partition := range topic.Partitions {
		lanes.Go(func() error {
			lane := refill{Restore: r, topic: name, partition: partition.Partition, there: ends[partition.Partition], see: see}
			return lane.run(within, from, partition)
		})
	}
	if err := lanes.Wait(); err != nil {
		return err
	}
	r.Progress.End()
	return nil
}

// refill is one partition's way back.
type refill struct {
	Restore
	topic     string
	partition int32
	there     int64 // the partition's end: what is before it was appended by a restore that was interrupted
	see       func(kafka.Raw)

	waiting []kafka.Raw
	size    int
}

func (l *refill) run(ctx context.Context, from folder, partition Partition) error {
	for _, segment := range partition.Segments {
		err := from.each(segment.File, nil, func(content io.Reader) error {
			return eachRecord(content, segment, func(record kafka.Raw) error { return l.take(ctx, record) })
		})
		if err != nil {
			return err
		}
	}
	return l.flush(ctx)
}

func (l *refill) take(ctx context.Context, record kafka.Raw) error {
	l.see(record)
	switch {
	case record.Offset < l.there-1:
		l.Progress.Add(1, record.Bytes())
		return context.Cause(ctx)
	case record.Offset == l.there-1:
		l.Progress.Add(1, record.Bytes())
		return l.same(ctx, record)
	}
	l.waiting = append(l.waiting, record)
	l.size += record.Bytes()
	if len(l.waiting) < appendRecords && l.size < appendBytes {
		return nil
	}
	return l.flush(ctx)
}

// same makes sure that what is there already is this log's.
func (l *refill) same(ctx context.Context, record kafka.Raw) error {
	return l.Log.Cluster().ReadRaw(ctx, l.topic, map[int32]int64{l.partition: record.Offset}, map[int32]int64{l.partition: l.there},
		func(_ int32, found kafka.Raw) error {
			if !bytes.Equal(found.Hash(), record.Hash()) {
				return fmt.Errorf("%w: record %d of %s, partition %d, is not the backup's", ErrNotEmpty, record.Offset, l.topic, l.partition)
			}
			return nil
		})
}

func (l *refill) flush(ctx context.Context) error {
	if len(l.waiting) == 0 {
		return nil
	}
	if err := l.Log.Append(ctx, l.topic, l.partition, l.waiting); err != nil {
		return err
	}
	l.Progress.Add(int64(len(l.waiting)), l.size)
	l.waiting, l.size = l.waiting[:0], 0
	return nil
}
