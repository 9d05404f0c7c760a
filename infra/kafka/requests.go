package kafka

// This file stands beside the commands: bundles of request log entries on their way to ClickHouse.

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Requests publishes request log bundles. It has a producer of its own, so that telemetry never stands in front of
// commits.
type Requests struct {
	topic    string
	producer *producer
}

// Requests opens a producer for bundles. It needs a broker that answers.
func (c *Cluster) Requests(ctx context.Context) (*Requests, error) {
	producer, err := newProducer(ctx, c.config, sarama.CompressionLZ4)
	if err != nil {
		return nil, fmt.Errorf("open the request log: %w", err)
	}
	return &Requests{topic: c.RequestsTopic(), producer: producer}, nil
}

// Publish appends one bundle, opaque to the log, as one record. Its errors are those of Log.Append; the size is
// bounded before compression.
func (r *Requests) Publish(ctx context.Context, payload []byte) error {
	_, err := r.producer.publish(ctx, r.topic, &message.Message{Payload: payload})
	return err
}

// Close waits for bundles under way.
func (r *Requests) Close() error {
	if err := r.producer.close(); err != nil {
		return fmt.Errorf("close the request log: %w", err)
	}
	return nil
}
