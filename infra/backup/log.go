package backup

// This file stands at the log: records that are new since the last backup become segments.

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/nidohq/nido/infra/kafka"
)

// The topics, as a manifest calls them.
const (
	controlTopic = "control"
	eventsTopic  = "events"
)

// logCopy copies the log's topics.
type logCopy struct {
	Backup
	to       folder
	before   *Manifest
	manifest *Manifest
}

// topic copies what a topic has behind what was copied before, to its present ends.
func (l logCopy) topic(ctx context.Context, name, topic string) error {
	ends, err := l.Cluster.EndsOf(ctx, topic)
	if err != nil {
		return err
	}
	had := l.before.topic(name)
	if err := l.prove(ctx, topic, had, ends); err != nil {
		return err
	}
	from, news := map[int32]int64{}, int64(0)
	lanes := map[int32]*segments{}
	now := Topic{Name: name, Partitions: make([]Partition, len(ends))}
	var saving sync.Mutex
	for number := range int32(len(ends)) {
		now.Partitions[number] = had.partition(number)
		from[number] = now.Partitions[number].End
		news += ends[number] - from[number]
		lanes[number] = &segments{logCopy: l, topic: name, done: &now.Partitions[number], saved: func() error {
			saving.Lock()
			defer saving.Unlock()
			return l.savePart(now)
		}, saving: &saving}
	}
	l.Progress.Begin("copying "+name, "records", news)
	err = l.Cluster.ReadRaw(ctx, topic, from, ends, func(partition int32, record kafka.Raw) error { return lanes[partition].add(record) })
	for _, lane := range lanes {
		err = errors.Join(err, lane.close(err == nil))
	}
	if err != nil {
		return fmt.Errorf("copy the log: %w", err)
	}
	l.manifest.Log = append(l.manifest.Log, now)
	l.Progress.End()
	return nil
}

// savePart keeps what has been copied of the log, for a run that goes on if this one is interrupted. The segments of one
// topic are added under its lock.
func (l logCopy) savePart(now Topic) error {
	part := &Manifest{ID: l.manifest.ID, Began: l.manifest.Began, Taken: l.manifest.Taken, Prefix: l.Prefix}
	part.Log = append(part.Log, l.manifest.Log...)
	part.Log = append(part.Log, now)
	return part.save(l.Dir, partialName, l.Keys)
}

// prove makes sure that the log goes on where the directory's copy of it ends: the last record that was copied must be
// where it was, with the same fingerprint.
func (l logCopy) prove(ctx context.Context, topic string, had Topic, ends map[int32]int64) error {
	if len(had.Partitions) > 0 && len(had.Partitions) != len(ends) {
		return fmt.Errorf("%w: %s has %d partitions, the backup %d", ErrOtherLog, topic, len(ends), len(had.Partitions))
	}
	from, to := map[int32]int64{}, map[int32]int64{}
	for _, partition := range had.Partitions {
		if partition.End > ends[partition.Partition] {
			return fmt.Errorf("%w: %s, partition %d ends at %d, its copy at %d", ErrOtherLog, topic, partition.Partition, ends[partition.Partition], partition.End)
		}
		if partition.End > 0 {
			from[partition.Partition], to[partition.Partition] = partition.End-1, partition.End
		}
	}
	return l.Cluster.ReadRaw(ctx, topic, from, to, func(number int32, record kafka.Raw) error {
		if found := hex.EncodeToString(record.Hash()); found != had.partition(number).Last {
			return fmt.Errorf("%w: record %d of %s, partition %d, is another one", ErrOtherLog, record.Offset, topic, number)
		}
		return nil
	})
}

// segments writes one partition's records into files. One goroutine at a time works on it.
type segments struct {
	logCopy
	topic  string
	done   *Partition
	saved  func() error
	saving *sync.Mutex // of done

	out   *output
	first int64
	plain int64
	last  kafka.Raw
	frame []byte
}

func (s *segments) add(record kafka.Raw) (err error) {
	if s.out == nil {
		name := fmt.Sprintf("log/%s-%d-%020d", s.topic, s.done.Partition, record.Offset)
		if s.out, err = s.to.create(name); err != nil {
			return err
		}
		s.first, s.plain = record.Offset, 0
	}
	s.frame = appendFrame(s.frame[:0], record)
	if _, err := s.out.Write(s.frame); err != nil {
		return fmt.Errorf("write %s: %w", s.out.name, err)
	}
	s.last, s.plain = record, s.plain+int64(len(s.frame))
	s.Progress.Add(1, len(s.frame))
	limit := s.SegmentBytes
	if limit == 0 {
		limit = segmentBytes
	}
	if s.plain < limit {
		return nil
	}
	if err := s.close(true); err != nil {
		return err
	}
	return s.saved()
}

// close ends the segment that is being written, if one is: it counts, or it is given up.
func (s *segments) close(whole bool) error {
	out := s.out
	s.out = nil
	if out == nil {
		return nil
	}
	if !whole {
		out.abort()
		return nil
	}
	file, err := out.close()
	if err != nil {
		return err
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	// Not in place: the slice may be the earlier manifest's, too.
	s.done.Segments = append(s.done.Segments[:len(s.done.Segments):len(s.done.Segments)], Segment{First: s.first, Records: s.last.Offset + 1 - s.first, File: file})
	s.done.End, s.done.Last = s.last.Offset+1, hex.EncodeToString(s.last.Hash())
	return nil
}
