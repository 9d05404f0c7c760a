package kafka

// This file stands where a record leaves the log: as a message that still knows its place.

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
)

// Place is where a message was read.
type Place struct {
	Topic string
	domain.Position
	Key  []byte
	Time time.Time // the record's timestamp
}

type placeKey struct{}

// PlaceOf returns the place of a message that came from the log.
func PlaceOf(msg *message.Message) (Place, bool) {
	place, ok := msg.Context().Value(placeKey{}).(*Place)
	if !ok {
		return Place{}, false
	}
	return *place, true
}

// fromRecord keeps headers as metadata, the last of those with one name.
func fromRecord(record *sarama.ConsumerMessage) *message.Message {
	metadata := make(message.Metadata, len(record.Headers))
	for _, header := range record.Headers {
		metadata[string(header.Key)] = string(header.Value)
	}
	msg := message.NewMessage(metadata[headerID], record.Value)
	msg.Metadata = metadata
	msg.SetContext(context.WithValue(context.Background(), placeKey{}, &Place{
		Topic: record.Topic, Position: domain.Position{Partition: record.Partition, Offset: record.Offset},
		Key: record.Key, Time: record.Timestamp,
	}))
	return msg
}

// Hash is a record's fingerprint: SHA-256 over its key and value. The key's length goes first, so that no byte can
// move between the two unseen.
func Hash(key, value []byte) []byte {
	hash := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(key)))
	hash.Write(length[:])
	hash.Write(key)
	hash.Write(value)
	return hash.Sum(nil)
}
