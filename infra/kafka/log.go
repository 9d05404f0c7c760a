package kafka

// This file stands behind the decision: a commit becomes a record in the log.

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/nidohq/nido/domain"
)

// Log implements commands.Log. It is safe for concurrent use; commits that are appended at the same time share
// requests, and so the broker's syncs.
type Log struct {
	topic    string
	producer *producer
}

// Log opens a producer for commits. It needs a broker that answers.
func (c *Cluster) Log(ctx context.Context) (*Log, error) {
	producer, err := newProducer(ctx, c.config, sarama.CompressionNone) // sealed text does not compress
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return &Log{topic: c.Events(), producer: producer}, nil
}

// Append implements commands.Log. A commit that is too large wraps ErrTooLarge and neither of its errors.
func (l *Log) Append(ctx context.Context, commit domain.Commit) (domain.Position, error) {
	msg, err := Encode(commit)
	if err != nil {
		return domain.Position{}, err
	}
	return l.producer.publish(ctx, l.topic, msg)
}

// Close waits for appends under way.
func (l *Log) Close() error {
	if err := l.producer.close(); err != nil {
		return fmt.Errorf("close the log: %w", err)
	}
	return nil
}
