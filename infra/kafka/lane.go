package kafka

// This file stands at one partition of one session: records come in order, batches go to the fold.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
)

// lane is a partition's way to the handler. One goroutine works on it, and another gathers for it (gather.go).
type lane struct {
	session   *session
	partition int32
	place     *place
	logger    *slog.Logger

	stored int64  // the handler's checkpoint, from which it compares and sets
	next   int64  // the offset that must come next
	end    int64  // of the partition, when it was sought
	proof  []byte // the hash of the record at the checkpoint, as the handler keeps it
	proven bool   // no record needs to be compared with it, or one has been
}

// errSkipped ends a session: an operator has decided to pass over the record at which a partition stands.
var errSkipped = errors.New("the record is to be skipped")

// run ends with nil once the session does, or with ErrReseek, ErrLogBehind, ErrLogDiffers or errSkipped.
func (l *lane) run(ctx context.Context, records <-chan *sarama.ConsumerMessage, mark func(next int64)) error {
	gathering, stop := context.WithCancel(ctx)
	batches := make(chan Batch)
	var gatherer sync.WaitGroup
	gatherer.Go(func() {
		defer close(batches)
		l.gather(gathering, records, batches)
	})
	defer gatherer.Wait()
	defer stop()
	for batch := range batches {
		batch, err := l.check(ctx, batch)
		if err == nil && len(batch.Messages) > 0 {
			err = l.apply(ctx, batch)
		}
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the partition may be another's by now
		case err == nil:
			mark(l.next)
		case errors.Is(err, domain.ErrUndecodable), errors.Is(err, ErrGap):
			return l.halt(ctx, batches, batch, err)
		default:
			return err
		}
	}
	return nil
}

// check compares the first record after a seek with the checkpoint's hash, and takes it out; and it sees to it that
// no record is missing.
func (l *lane) check(ctx context.Context, batch Batch) (Batch, error) {
	first, err := placeIn(batch, 0)
	if err != nil {
		return batch, err
	}
	if !l.proven {
		if first.Offset != l.stored {
			return batch, fmt.Errorf("%w: partition %d has offset %d where the checkpoint %d should be", ErrLogDiffers, l.partition, first.Offset, l.stored)
		}
		if !bytes.Equal(l.proof, Hash(first.Key, batch.Messages[0].Payload)) {
			return batch, fmt.Errorf("%w: partition %d, offset %d has another hash than the checkpoint", ErrLogDiffers, l.partition, l.stored)
		}
		l.proven = true
		batch = batch.cut(1, len(batch.Messages))
	}
	expected := l.next
	for i := range batch.Messages {
		at, err := placeIn(batch, i)
		if err != nil {
			return batch, err
		}
		if at.Offset != expected {
			if at.Offset < expected || !l.session.consumer.Expires {
				return batch, fmt.Errorf("%w: partition %d has offset %d where %d should be", ErrGap, l.partition, at.Offset, expected)
			}
			l.logger.WarnContext(ctx, "records expired before they were read", "expected", expected, "found", at.Offset)
		}
		expected = at.Offset + 1
	}
	return batch, nil
}

// apply hands a batch over. Where a record in it cannot be decoded, the records before it still count. The handler may
// have folded them already, so it is asked, and gets the rest one by one: the partition stops exactly in front of the
// culprit.
func (l *lane) apply(ctx context.Context, batch Batch) error {
	err := l.hand(ctx, batch)
	if !errors.Is(err, domain.ErrUndecodable) || len(batch.Messages) == 1 {
		return err
	}
	if err := l.ask(ctx, batch); err != nil {
		return err
	}
	for i := range batch.Messages {
		at, err := placeIn(batch, i)
		if err != nil {
			return err
		}
		if at.Offset < l.next {
			continue
		}
		if err := l.hand(ctx, batch.cut(i, i+1)); err != nil {
			return err
		}
	}
	return nil
}

// hand repeats a batch until the handler's store takes it.
func (l *lane) hand(ctx context.Context, batch Batch) error {
	last, err := placeIn(batch, len(batch.Messages)-1)
	if err != nil {
		return err
	}
	if err := l.persist(ctx, func() error { return l.fold(ctx, batch) }); err != nil {
		return err
	}
	l.stored, l.next = last.Offset, last.Offset+1
	l.place.moved(last.Offset)
	if l.session.progress.CompareAndSwap(false, true) {
		l.session.moved()
	}
	return nil
}

// fold gives the handler a batch, once.
func (l *lane) fold(ctx context.Context, batch Batch) error {
	consumer, began := l.session.consumer, time.Now()
	err := consumer.Handler.Apply(ctx, l.stored, batch)
	if err != nil {
		consumer.Observer.NotApplied(consumer.Name)
		return err
	}
	consumer.Observer.Applied(consumer.Name, len(batch.Messages), time.Since(began))
	return nil
}

// ask reads the handler's checkpoint again, which a batch of ours may have moved, but only within itself.
func (l *lane) ask(ctx context.Context, batch Batch) error {
	last, err := placeIn(batch, len(batch.Messages)-1)
	if err != nil {
		return err
	}
	return l.persist(ctx, func() error {
		stored, _, err := l.session.consumer.Handler.Checkpoint(ctx, l.partition)
		if err != nil {
			return err
		}
		if stored < l.stored || stored > last.Offset {
			return fmt.Errorf("%w: from %d to %d", ErrReseek, l.stored, stored)
		}
		l.stored, l.next = stored, stored+1
		l.place.moved(stored)
		return nil
	})
}

// persist repeats a call while the handler's store is down. It returns what repeating does not help against.
func (l *lane) persist(ctx context.Context, call func() error) error {
	down := trouble{logger: l.logger, begin: "projector waits for its store", done: "projector goes on", most: maxBackoff}
	for {
		err := call()
		switch {
		case err == nil:
			down.over(ctx)
			l.place.wait(nil)
			return nil
		case errors.Is(err, domain.ErrUndecodable), errors.Is(err, ErrReseek):
			return err
		}
		l.place.wait(err)
		if err := down.wait(ctx, err); err != nil {
			return err
		}
	}
}

// halt stops in front of a record, loudly, until an operator has decided to pass over it. It reads on meanwhile without
// folding, so that the lag that Status tells stays true.
func (l *lane) halt(ctx context.Context, batches <-chan Batch, batch Batch, err error) error {
	culprit := l.culprit(batch)
	if l.skipped(ctx, culprit) {
		return errSkipped // decided before we came here
	}
	l.place.stop(err)
	l.logger.ErrorContext(ctx, "projector stopped", "offset", l.next, "error", err)
	ticker := time.NewTicker(lookForSkip)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-batches:
			if !ok {
				return nil
			}
		case <-ticker.C:
			if l.skipped(ctx, culprit) {
				return errSkipped
			}
		}
	}
}

// culprit is the record at which the partition stands, or nil where that one is missing.
func (l *lane) culprit(batch Batch) *message.Message {
	for i, msg := range batch.Messages {
		if place, err := placeIn(batch, i); err == nil && place.Offset == l.next {
			return msg
		}
	}
	return nil
}

// skipped asks the control topic anew.
func (l *lane) skipped(ctx context.Context, culprit *message.Message) bool {
	if culprit == nil {
		return false
	}
	skips, err := l.session.consumer.skips(ctx)
	if err != nil {
		l.logger.DebugContext(ctx, "cannot look for a skip", "error", err) // the next look tells
		return false
	}
	if !skips.covers(culprit) {
		return false
	}
	place, _ := PlaceOf(culprit)
	l.logger.WarnContext(ctx, "record skipped by an operator", "offset", l.next, "actor", skips[place.Position].Actor.ID, "why", skips[place.Position].Why)
	return true
}

// placeIn is PlaceOf for a batch's own messages, which all have one.
func placeIn(batch Batch, i int) (Place, error) {
	place, ok := PlaceOf(batch.Messages[i])
	if !ok {
		return Place{}, fmt.Errorf("%s, partition %d: message %d of the batch has no place", batch.Topic, batch.Partition, i)
	}
	return place, nil
}
