package kafka

// This file stands in front of a lane: what happens to records that come in while a batch is at the handler.

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/IBM/sarama"
)

// busy is a handler whose first batch takes until a message behind it has been read.
type busy struct {
	until   int64
	read    chan struct{}
	batches []string
}

func (b *busy) Checkpoint(context.Context, int32) (int64, []byte, error) { return -1, nil, nil }

func (b *busy) readLast(batch *Batch) {
	if place, err := placeIn(*batch, len(batch.Messages)-1); err == nil && place.Offset == b.until {
		close(b.read)
	}
}

func (b *busy) Apply(_ context.Context, after int64, batch Batch) error {
	<-b.read
	last, err := placeIn(batch, len(batch.Messages)-1)
	b.batches = append(b.batches, fmt.Sprintf("%d-%d", after+1, last.Offset))
	return err
}

// newLane is a lane of a log of its own, at its beginning.
func newLane(config ConsumerConfig) *lane {
	config.Topic, config.Observer = "events", nobody{}
	consumer := &Consumer{ConsumerConfig: config, logger: slog.New(slog.DiscardHandler)}
	consumer.board.assign([]int32{0})
	return &lane{session: &session{consumer: consumer, moved: func() {}}, place: consumer.board.place(0), logger: consumer.logger, stored: -1, proven: true}
}

func TestTheNextBatchGrowsAndIsReadWhileOneIsFolded(t *testing.T) {
	for name, c := range map[string]struct {
		most  int
		until int64
		want  []string
	}{
		"up to its bound":              {2, 2, []string{"0-0", "1-2", "3-3"}},
		"by all that comes until then": {10, 5, []string{"0-0", "1-5", "6-6"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := &busy{until: c.until, read: make(chan struct{})}
				lane := newLane(ConsumerConfig{Handler: handler, MaxRecords: c.most, MaxBytes: 1 << 20})
				records, ended, marked := make(chan *sarama.ConsumerMessage), make(chan error), int64(0)
				go func() { ended <- lane.run(t.Context(), records, func(next int64) { marked = next }) }()
				for offset := range int64(7) {
					records <- &sarama.ConsumerMessage{Topic: "events", Offset: offset, Value: []byte("x")}
					synctest.Wait()
				}
				close(records)
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if got := handler.batches[:min(len(handler.batches), 3)]; !slices.Equal(got, c.want) {
					t.Errorf("folded %v, want %v", handler.batches, c.want)
				}
				if marked != lane.next || lane.stored != lane.next-1 {
					t.Errorf("marked %d, the lane stands at %d", marked, lane.next)
				}
			})
		})
	}
}
