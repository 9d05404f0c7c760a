package kafka

// This file stands at the assignment: which partitions are ours for now, and from where each of them is read.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// session implements sarama's ConsumerGroupHandler for one generation of the group.
type session struct {
	consumer *Consumer
	client   sarama.Client
	end      context.CancelCauseFunc // of Run
	begun    func()                  // called when all partitions have been sought
	moved    func()                  // called at the first batch that was applied

	lanes    map[int32]*lane // written by Setup alone
	skips    Skips           // as they stood at Setup
	fenced   atomic.Bool     // a handler was overtaken
	progress atomic.Bool     // a batch was applied
}

// Setup seeks every assigned partition. The heartbeats have begun, so that waiting for the handler's store costs
// nothing; a rebalance meanwhile ends the session's context.
func (s *session) Setup(group sarama.ConsumerGroupSession) error {
	ctx, topic := group.Context(), s.consumer.Topic
	s.lanes = map[int32]*lane{}
	s.consumer.board.outage(nil)
	s.consumer.board.assign(group.Claims()[topic])
	var err error
	if s.skips, err = s.consumer.skips(ctx); err != nil {
		return err
	}
	for _, partition := range group.Claims()[topic] {
		lane := &lane{session: s, partition: partition, place: s.consumer.board.place(partition), logger: s.consumer.logger.With("partition", partition)}
		begin, err := lane.seek(ctx)
		if err != nil {
			if errors.Is(err, ErrLogBehind) || errors.Is(err, ErrLogDiffers) {
				s.end(&fatalError{err})
			}
			return err
		}
		s.lanes[partition] = lane
		// One of the two takes effect, since each goes in one direction only.
		group.ResetOffset(topic, partition, begin, "")
		group.MarkOffset(topic, partition, begin, "")
	}
	s.begun()
	return nil
}

// Cleanup implements sarama's interface.
func (s *session) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim works on one partition until the session ends. Returning earlier ends it for all partitions.
func (s *session) ConsumeClaim(group sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	lane := s.lanes[claim.Partition()]
	lane.place.watch(func() int64 { return max(lane.end, claim.HighWaterMarkOffset()) }) // which is 0 before the first fetch
	err := lane.run(group.Context(), claim.Messages(), func(next int64) {
		group.MarkOffset(s.consumer.Topic, lane.partition, next, "")
	})
	switch {
	case errors.Is(err, ErrLogBehind) || errors.Is(err, ErrLogDiffers):
		s.end(&fatalError{err})
	case errors.Is(err, ErrReseek):
		s.fenced.Store(true)
	}
	return nil
}

// cut reports an error of Consume that only says that the session ended while it was being set up.
func (s *session) cut(err error) bool {
	return s.lanes != nil && (errors.Is(err, context.Canceled) || errors.Is(err, sarama.ErrRebalanceInProgress))
}

// seek asks the handler where it stands and compares that with the log's extent. It returns the offset to read first:
// that of the checkpoint itself, whose record must be the one that was folded.
func (l *lane) seek(ctx context.Context) (int64, error) {
	var hash []byte
	err := l.persist(ctx, func() (err error) {
		l.stored, hash, err = l.session.consumer.Handler.Checkpoint(ctx, l.partition)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("checkpoint of partition %d: %w", l.partition, err)
	}
	begin, end, err := l.extent(ctx)
	l.end = end
	if err != nil {
		return 0, fmt.Errorf("extent of partition %d: %w", l.partition, err)
	}
	l.next, l.proof, l.proven = l.stored+1, hash, true
	l.place.moved(l.stored)
	l.place.watch(func() int64 { return end })
	expires := l.session.consumer.Expires
	switch {
	case l.stored >= end:
		return 0, fmt.Errorf("%w: partition %d ends at offset %d, the checkpoint is %d", ErrLogBehind, l.partition, end-1, l.stored)
	case begin > l.stored && expires, l.stored < 0 && begin == 0:
		if begin > l.next {
			l.logger.WarnContext(ctx, "records expired before they were read", "checkpoint", l.stored, "begin", begin)
		}
		return begin, nil
	case begin > l.stored:
		return 0, fmt.Errorf("%w: partition %d begins at offset %d, the checkpoint is %d", ErrLogDiffers, l.partition, begin, l.stored)
	}
	l.proven = false // the record at the checkpoint comes first
	return l.stored, nil
}

// extent asks for the partition's first and next offset. Where that lies before the checkpoint, it asks again for a
// little while: after an election the new leader may not know yet how far the old one had come.
func (l *lane) extent(ctx context.Context) (begin, end int64, err error) {
	topic := l.session.consumer.Topic
	ask := func(which int64) (int64, error) {
		return await(ctx, func() (int64, error) { return l.session.client.GetOffset(topic, l.partition, which) }, nil)
	}
	for deadline := time.Now().Add(behindGrace); ; {
		if begin, err = ask(sarama.OffsetOldest); err != nil {
			return 0, 0, err
		}
		if end, err = ask(sarama.OffsetNewest); err != nil {
			return 0, 0, err
		}
		if end > l.stored || time.Now().After(deadline) {
			return begin, end, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
}
