package kafka

// This file stands at the seam to the fold: what a projector implements, and how records become what it understands.

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// Batch is records of one partition, one behind the other. PlaceOf knows each message's offset.
type Batch struct {
	Topic     string
	Partition int32
	Messages  []*message.Message

	skips   Skips
	commits []decoded // of the messages one by one, where the handler reads them early
}

// Handler folds batches and keeps the checkpoint.
type Handler interface {
	// Checkpoint returns the offset of the last record that was folded, and the hash that came with it, or -1.
	Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error)
	// Apply folds a batch and moves the checkpoint from after to the batch's last offset, both or neither. The context
	// ends with the assignment. Its error decides what happens next: one that wraps ErrReseek (the checkpoint was not
	// at after) has the consumer seek anew; one that wraps domain.ErrUndecodable stops the partition; after any other
	// the same batch comes again.
	Apply(ctx context.Context, after int64, batch Batch) error
}

// CommitHandler is a Handler of the events topic.
// Its Apply may wrap projections.ErrFenced, which means ErrReseek.
type CommitHandler interface {
	Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error)
	// Apply is Handler's; the checkpoint becomes the last commit's offset and Hash.
	Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error
}

// Commits decodes records for a CommitHandler. One that an operator skipped comes as what it is: a place without a commit.
func Commits(handler CommitHandler) Handler { return commits{handler} }

type commits struct{ CommitHandler }

func (c commits) Apply(ctx context.Context, after int64, batch Batch) error {
	for len(batch.commits) < len(batch.Messages) {
		c.read(&batch, len(batch.commits))
	}
	recorded := make([]domain.Recorded, len(batch.Messages))
	for i, commit := range batch.commits {
		if commit.err != nil {
			return commit.err
		}
		recorded[i] = commit.Recorded
	}
	return reseeking(c.CommitHandler.Apply(ctx, batch.Partition, after, recorded))
}

// readLast implements early.
func (c commits) readLast(batch *Batch) { c.read(batch, len(batch.Messages)-1) }

// read decodes a message whose predecessors have been.
func (c commits) read(batch *Batch, i int) {
	msg := batch.Messages[i]
	if batch.skips.covers(msg) {
		place, err := placeIn(*batch, i)
		batch.commits = append(batch.commits, decoded{
			domain.Recorded{Position: place.Position, Hash: Hash(place.Key, msg.Payload), Skipped: true}, err,
		})
		return
	}
	recorded, err := Decode(msg)
	batch.commits = append(batch.commits, decoded{recorded, err})
}

// BundleHandler is a Handler of the requests topic.
// Its Apply may wrap projections.ErrFenced, which means ErrReseek.
type BundleHandler interface {
	Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error)
	// Apply is Handler's; the checkpoint becomes last and hash.
	Apply(ctx context.Context, partition int32, after, last int64, hash []byte, payloads [][]byte) error
}

// Bundles hands payloads as they are.
func Bundles(handler BundleHandler) Handler { return bundles{handler} }

type bundles struct{ BundleHandler }

func (b bundles) Apply(ctx context.Context, after int64, batch Batch) error {
	payloads := make([][]byte, len(batch.Messages))
	for i, msg := range batch.Messages {
		payloads[i] = msg.Payload
	}
	end := len(batch.Messages) - 1
	last, err := placeIn(batch, end)
	if err != nil {
		return err
	}
	return reseeking(b.BundleHandler.Apply(ctx, batch.Partition, after, last.Offset, Hash(last.Key, payloads[end]), payloads))
}

// reseeking says in this package's words that the handler's compare-and-set failed.
func reseeking(err error) error {
	if errors.Is(err, projections.ErrFenced) {
		return fmt.Errorf("%w: %w", ErrReseek, err)
	}
	return err
}
