// Package replay folds the log anew beside the read models that serve: to replace them, and to compare them with what
// the log says. The projectors are the same ones; only what feeds them is another.
package replay

// This file stands before such a fold: it takes it from where it stands to some ends.

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/progress"
)

var (
	// ErrOtherLog: what has been folded so far is not the beginning of this log.
	ErrOtherLog = errors.New("the log is not the one that was folded")
	// ErrBusy: another process is at the same work, or at one that does not go together with it.
	ErrBusy = errors.New("another rebuild or verify is under way")
)

// Target is a projector.
type Target interface {
	Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error)
	Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error
}

// Fold feeds a projector.
type Fold struct {
	Cluster *kafka.Cluster
	Target  Target
	// BatchRecords is how many records make a transaction.
	BatchRecords int
	// Applied is told of every batch that has been folded, for several partitions at a time; may be nil.
	Applied func(ctx context.Context, partition int32, batch []domain.Recorded) error
	// Progress is told how many records that were; may be nil.
	Progress *progress.Progress
}

// To folds until the checkpoint of every partition stands directly before its end. It goes on where the projector stands.
func (f Fold) To(ctx context.Context, ends map[int32]int64) error {
	lanes, from := map[int32]*lane{}, map[int32]int64{}
	for partition := range ends {
		offset, hash, err := f.Target.Checkpoint(ctx, partition)
		if err != nil {
			return err
		}
		lanes[partition] = &lane{Fold: f, after: offset, proof: hash}
		from[partition] = max(offset, 0) // the record at the checkpoint comes first, as a proof
	}
	err := f.Cluster.Read(ctx, from, ends, f.BatchRecords, func(ctx context.Context, partition int32, entries []kafka.Entry) error {
		return lanes[partition].apply(ctx, partition, entries)
	})
	if err != nil {
		return fmt.Errorf("fold the log: %w", err)
	}
	for partition, end := range ends {
		if stands := lanes[partition].after; stands < end-1 {
			return fmt.Errorf("%w: partition %d ends at %d, before offset %d", ErrOtherLog, partition, stands, end-1)
		}
	}
	return nil
}

// lane is one partition's way.
type lane struct {
	Fold
	after int64  // the checkpoint
	proof []byte // the hash of the record there; nil once it has been compared
}

func (l *lane) apply(ctx context.Context, partition int32, entries []kafka.Entry) error {
	if l.after >= 0 && entries[0].Offset == l.after {
		if l.proof != nil && !bytes.Equal(l.proof, entries[0].Hash) {
			return fmt.Errorf("%w: record %d:%d has another hash", ErrOtherLog, partition, l.after)
		}
		entries = entries[1:]
	}
	batch := make([]domain.Recorded, len(entries))
	for i, entry := range entries {
		if entry.Err != nil {
			return entry.Err
		}
		if entry.Offset != l.after+1+int64(i) {
			return fmt.Errorf("%w: partition %d has offset %d where %d should be", ErrOtherLog, partition, entry.Offset, l.after+1+int64(i))
		}
		batch[i] = entry.Recorded
	}
	if len(batch) == 0 {
		return nil
	}
	if err := l.Target.Apply(ctx, partition, l.after, batch); err != nil {
		return err
	}
	l.after = batch[len(batch)-1].Offset
	l.Progress.Add(int64(len(batch)), 0)
	if l.Applied == nil {
		return nil
	}
	return l.Applied(ctx, partition, batch)
}
