package kafka

// This file stands beside the fold: records that an operator has decided to pass over, kept in the control topic.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
)

// ErrNoRecord: the log has no record at that position.
var ErrNoRecord = errors.New("the log has no such record")

// Skip is an operator's decision that one record of the events topic is not a commit. It is written once and kept for
// ever, so that every replay passes over the same record.
type Skip struct {
	Type      string       `json:"type"` // "skip"
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Hash      []byte       `json:"hash"` // of the record, so that a skip never meets another one
	Actor     domain.Actor `json:"actor"`
	Time      time.Time    `json:"time"`
	Why       string       `json:"why"`
}

const skipType = "skip"

// Skips are all decisions about the events topic.
type Skips map[domain.Position]Skip

// At returns the decision about a record, if there is one.
func (s Skips) At(position domain.Position, hash []byte) (Skip, bool) {
	skip, ok := s[position]
	return skip, ok && bytes.Equal(skip.Hash, hash)
}

// covers is At for a message with a place.
func (s Skips) covers(msg *message.Message) bool {
	if len(s) == 0 {
		return false
	}
	place, ok := PlaceOf(msg)
	if !ok {
		return false
	}
	if _, decided := s[place.Position]; !decided {
		return false
	}
	_, skipped := s.At(place.Position, Hash(place.Key, msg.Payload))
	return skipped
}

// Skips reads the control topic to its end.
func (c *Cluster) Skips(ctx context.Context) (Skips, error) {
	skips := Skips{}
	err := c.readTopic(ctx, c.Control(), func(record *sarama.ConsumerMessage) error {
		if string(record.Key) != skipType {
			return nil
		}
		var skip Skip
		if err := json.Unmarshal(record.Value, &skip); err != nil {
			return fmt.Errorf("%s at %d: no skip: %w", c.Control(), record.Offset, err)
		}
		position := domain.Position{Partition: skip.Partition, Offset: skip.Offset}
		if _, decided := skips[position]; skip.Topic == c.Events() && !decided {
			skips[position] = skip
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the skips: %w", err)
	}
	return skips, nil
}

// Skip writes a decision. Whether the record may be passed over is the fold's to say, before.
func (c *Cluster) Skip(ctx context.Context, record *message.Message, actor domain.Actor, at time.Time, why string) error {
	place, ok := PlaceOf(record)
	if !ok {
		return errors.New("skip: the message has no place in the log")
	}
	return c.decide(ctx, skipType, Skip{
		Type: skipType, Topic: place.Topic, Partition: place.Partition, Offset: place.Offset, Hash: Hash(place.Key, record.Payload),
		Actor: actor, Time: at.UTC(), Why: why,
	})
}

// Record reads one record of the events topic, whatever is in it.
func (c *Cluster) Record(ctx context.Context, at domain.Position) (*message.Message, error) {
	var found *message.Message
	err := c.read(ctx, c.Events(), map[int32]int64{at.Partition: at.Offset}, map[int32]int64{at.Partition: at.Offset + 1},
		func(record *sarama.ConsumerMessage) error {
			if record.Offset == at.Offset {
				found = fromRecord(record)
			}
			return nil
		})
	if err == nil && found == nil {
		err = ErrNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("record %d:%d of %s: %w", at.Partition, at.Offset, c.Events(), err)
	}
	return found, nil
}
