package kafka

// This file stands beside the log: its records as they are, byte for byte, on their way into a backup and back.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Raw is a record as the log has it. A key or value that is nil is none, which is another thing than an empty one.
type Raw struct {
	Offset  int64
	Time    time.Time // of the record, in milliseconds
	Key     []byte
	Value   []byte
	Headers []RawHeader
}

// RawHeader is one header; a name may come more than once.
type RawHeader struct{ Name, Value []byte }

// Hash is the record's fingerprint.
func (r Raw) Hash() []byte { return Hash(r.Key, r.Value) }

// Bytes is about what the record takes.
func (r Raw) Bytes() int {
	size := len(r.Key) + len(r.Value)
	for _, header := range r.Headers {
		size += len(header.Name) + len(header.Value)
	}
	return size
}

var (
	// ErrHoles: a topic that is kept for ever lacks records. What is left is no log, and no backup is made of it.
	ErrHoles = errors.New("the topic lacks records")
	// ErrOffset: the broker gave a restored record another offset than it had.
	ErrOffset = errors.New("a record did not get its offset")
)

// EndsOf asks for the next offset of every partition of one of the log's topics.
func (c *Cluster) EndsOf(ctx context.Context, topic string) (map[int32]int64, error) {
	return c.settledEnds(ctx, topic)
}

// ReadRaw calls fn for every record of some partitions from the offsets given to before the ends. Partitions are read
// side by side: fn is called for several of them at a time, but for each in order and without a gap; else it is ErrHoles.
func (c *Cluster) ReadRaw(ctx context.Context, topic string, from, ends map[int32]int64, fn func(partition int32, record Raw) error) error {
	next := make(map[int32]*int64, len(ends))
	for partition := range ends {
		next[partition] = new(from[partition])
	}
	err := c.read(ctx, topic, from, ends, func(record *sarama.ConsumerMessage) error {
		expected := next[record.Partition]
		if record.Offset != *expected {
			return fmt.Errorf("%w: the record behind offset %d is %d", ErrHoles, *expected-1, record.Offset)
		}
		*expected++
		return fn(record.Partition, raw(record))
	})
	if err != nil {
		return err
	}
	for partition, end := range ends {
		if *next[partition] < end {
			return fmt.Errorf("read %s, partition %d: %w: nothing is behind offset %d, and the end is %d", topic, partition, ErrHoles, *next[partition]-1, end)
		}
	}
	return nil
}

func raw(record *sarama.ConsumerMessage) Raw {
	headers := make([]RawHeader, len(record.Headers))
	for i, header := range record.Headers {
		headers[i] = RawHeader{Name: header.Key, Value: header.Value}
	}
	return Raw{Offset: record.Offset, Time: record.Timestamp, Key: record.Key, Value: record.Value, Headers: headers}
}

// Target is where a log is restored to: the topics of a prefix that nobody has used yet.
type Target struct {
	cluster  *Cluster
	producer sarama.SyncProducer
}

// OpenTarget connects, and changes nothing.
func OpenTarget(ctx context.Context, config Config) (*Target, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("kafka configuration: %w", err)
	}
	config = config.withDefaults()
	cluster, err := connect(ctx, config)
	if err != nil {
		return nil, err
	}
	conf := config.patient()
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := await(ctx, func() (sarama.SyncProducer, error) { return sarama.NewSyncProducer(config.Brokers, conf) },
		func(late sarama.SyncProducer) { ignore(late.Close()) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a producer: %w", err), cluster.Close())
	}
	return &Target{cluster: cluster, producer: producer}, nil
}

// Close ends the connections.
func (t *Target) Close() error { return errors.Join(t.producer.Close(), t.cluster.Close()) }

// Cluster is the log that has been restored.
func (t *Target) Cluster() *Cluster { return t.cluster }

// Events is the topic of commits.
func (t *Target) Events() string { return t.cluster.Events() }

// Control is the topic of operators' decisions.
func (t *Target) Control() string { return t.cluster.Control() }

// Occupied says of each of the log's topics that holds records how many these are.
func (t *Target) Occupied(ctx context.Context) (occupied []string, err error) {
	for _, topic := range []string{t.Control(), t.Events(), t.cluster.RequestsTopic()} {
		_, exists, err := t.cluster.countPartitions(ctx, topic)
		if err != nil {
			return nil, err
		}
		if !exists {
			continue
		}
		ends, err := t.cluster.settledEnds(ctx, topic)
		if err != nil {
			return nil, err
		}
		records := int64(0)
		for _, end := range ends {
			records += end
		}
		if records > 0 {
			occupied = append(occupied, fmt.Sprintf("topic %s has had %d records", topic, records))
		}
	}
	return occupied, nil
}

// Create makes the topics that are missing, with the settings of a log and this many partitions. Unlike Open it writes
// nothing into the control topic, whose records are about to be restored.
func (t *Target) Create(ctx context.Context, partitions int32) error {
	admin, err := sarama.NewClusterAdminFromClient(t.cluster.client)
	if err != nil {
		return fmt.Errorf("administer kafka: %w", err)
	}
	for _, topic := range []struct {
		name       string
		partitions int32
		settings   map[string]string
	}{{t.Control(), 1, forever}, {t.Events(), partitions, forever}, {t.cluster.RequestsTopic(), partitions, week}} {
		count, _, err := t.cluster.ensureTopic(ctx, admin, topic.name, topic.partitions, topic.settings, true)
		if err != nil {
			return err
		}
		if count != topic.partitions {
			return fmt.Errorf("%w: %s has %d, the backup %d; delete the topic", ErrPartitionsChanged, topic.name, count, topic.partitions)
		}
	}
	return nil
}

// Append writes records to one partition, all at their offsets. Where it fails, some of them may be there: the partition's
// end tells.
func (t *Target) Append(ctx context.Context, topic string, partition int32, records []Raw) error {
	messages := make([]*sarama.ProducerMessage, len(records))
	for i, record := range records {
		message := &sarama.ProducerMessage{Topic: topic, Partition: partition, Timestamp: record.Time, Offset: -1}
		if record.Key != nil {
			message.Key = sarama.ByteEncoder(record.Key)
		}
		if record.Value != nil {
			message.Value = sarama.ByteEncoder(record.Value)
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: header.Name, Value: header.Value})
		}
		messages[i] = message
	}
	_, err := await(ctx, func() (struct{}, error) { return struct{}{}, t.producer.SendMessages(messages) }, nil)
	if err != nil {
		return fmt.Errorf("append to %s, partition %d: %w", topic, partition, sendFault(err))
	}
	for i, message := range messages {
		if message.Offset != records[i].Offset {
			return fmt.Errorf("%w: %s, partition %d: %d instead of %d", ErrOffset, topic, partition, message.Offset, records[i].Offset)
		}
	}
	return nil
}

// sendFault says what the first record of many met with; the library only counts them.
func sendFault(err error) error {
	if faults, ok := errors.AsType[sarama.ProducerErrors](err); ok && len(faults) > 0 {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(faults.Error(), "kafka: "), faults[0].Err)
	}
	return err
}
