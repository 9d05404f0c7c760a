package kafka

// This file stands in front of a lane: while the handler works on a batch, the next one is fetched, decoded and grows.

import (
	"context"
	"time"

	"github.com/IBM/sarama"

	"github.com/nidohq/nido/domain"
)

// early is a handler that reads a batch's last message when it comes in, before the batch's turn has come.
type early interface{ readLast(batch *Batch) }

// gather makes batches until the context or the records end. Of two batches, one is at the handler and one grows.
func (l *lane) gather(ctx context.Context, records <-chan *sarama.ConsumerMessage, batches chan<- Batch) {
	for l.gatherOne(ctx, records, batches) {
		continue
	}
}

// gatherOne waits for a record, takes along what comes behind it, and hands the batch on. A full batch waits for the
// lane; one that is not goes on growing until the lane asks for it, and for at least as long as records shall linger.
func (l *lane) gatherOne(ctx context.Context, records <-chan *sarama.ConsumerMessage, batches chan<- Batch) (more bool) {
	limits := l.session.consumer.ConsumerConfig
	reader, _ := limits.Handler.(early)
	batch := Batch{Topic: limits.Topic, Partition: l.partition, skips: l.session.skips}
	size := 0
	take := func(record *sarama.ConsumerMessage) {
		batch.Messages = append(batch.Messages, fromRecord(record))
		if reader != nil {
			reader.readLast(&batch)
		}
		size += len(record.Key) + len(record.Value)
		for _, header := range record.Headers {
			size += len(header.Key) + len(header.Value)
		}
	}
	var hand chan<- Batch // nil while the batch shall not leave yet
	var enough <-chan time.Time
	for {
		if len(batch.Messages) == 1 && hand == nil && enough == nil {
			if limits.Linger > 0 {
				timer := time.NewTimer(limits.Linger)
				defer timer.Stop()
				enough = timer.C
			} else {
				hand = batches
			}
		}
		from := records
		if full := len(batch.Messages) >= limits.MaxRecords || size >= limits.MaxBytes; full {
			from, hand = nil, batches
		}
		select {
		case record, ok := <-from: // what has arrived goes along, even where the lane is ready
			if !ok {
				return false // the partition is being taken away
			}
			take(record)
			continue
		default:
		}
		select {
		case record, ok := <-from:
			if !ok {
				return false
			}
			take(record)
		case hand <- batch:
			return true
		case <-enough:
			hand, enough = batches, nil
		case <-ctx.Done():
			return false
		}
	}
}

// decoded is a message of the events topic as its handler gets it, or why it cannot.
type decoded struct {
	domain.Recorded
	err error
}

// cut is a part of the batch.
func (b Batch) cut(from, to int) Batch {
	b.Messages = b.Messages[from:to]
	if b.commits != nil {
		b.commits = b.commits[from:to]
	}
	return b
}
