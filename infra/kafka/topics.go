package kafka

// This file stands at the log's creation: the topics, their settings, and the partition count that must not change.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

// forever is said explicitly: what a topic does not say itself, the broker's defaults decide, which forget after a week.
var forever = map[string]string{
	"cleanup.policy":    "delete", // never compact: a key is a stream, and all of its commits count
	"retention.ms":      "-1",
	"retention.bytes":   "-1",
	"max.message.bytes": strconv.Itoa(MaxRecordBytes),
}

// week is the request log's buffer: from it, what ClickHouse missed is caught up.
var week = map[string]string{
	"cleanup.policy":    "delete",
	"retention.ms":      strconv.FormatInt((7 * 24 * time.Hour).Milliseconds(), 10),
	"retention.bytes":   "-1",
	"max.message.bytes": strconv.Itoa(MaxRecordBytes),
}

// topology is the control topic's record of what must not change.
type topology struct {
	Type       string    `json:"type"` // "topology"
	Topic      string    `json:"topic"`
	Partitions int32     `json:"partitions"`
	Time       time.Time `json:"time"`
}

const topologyType = "topology"

// ensureTopics creates what is missing. The control topic comes first, since it knows whether the others were there.
func (c *Cluster) ensureTopics(ctx context.Context) error {
	admin, err := sarama.NewClusterAdminFromClient(c.client)
	if err != nil {
		return fmt.Errorf("administer kafka: %w", err)
	}
	if _, _, err := c.ensureTopic(ctx, admin, c.Control(), 1, forever, true); err != nil {
		return err
	}
	recorded, found, err := c.recordedPartitions(ctx)
	if err != nil {
		return err
	}
	if found {
		if _, exists, err := c.countPartitions(ctx, c.Events()); err != nil {
			return err
		} else if !exists {
			return fmt.Errorf("%w: %s was created with %d partitions", ErrEventsMissing, c.Events(), recorded)
		}
	}
	count, created, err := c.ensureTopic(ctx, admin, c.Events(), c.config.Partitions, forever, true)
	if err != nil {
		return err
	}
	switch {
	case found && recorded != count:
		return fmt.Errorf("%w: %s has %d, but was created with %d", ErrPartitionsChanged, c.Events(), count, recorded)
	case !found:
		if !created {
			c.config.Logger.WarnContext(ctx, "events topic had no recorded partition count", "topic", c.Events(), "partitions", count)
		}
		if err := c.recordPartitions(ctx, count); err != nil {
			return err
		}
	}
	_, _, err = c.ensureTopic(ctx, admin, c.RequestsTopic(), c.config.Partitions, week, false)
	return err
}

// findTopics looks whether there is a log and whether it is the one that was created.
func (c *Cluster) findTopics(ctx context.Context) error {
	for _, topic := range []string{c.Control(), c.Events()} {
		if _, exists, err := c.countPartitions(ctx, topic); err != nil {
			return err
		} else if !exists {
			return fmt.Errorf("%w: no topic %s", ErrNoLog, topic)
		}
	}
	recorded, found, err := c.recordedPartitions(ctx)
	if err != nil {
		return err
	}
	count, _, err := c.countPartitions(ctx, c.Events())
	if err == nil && found && recorded != count {
		err = fmt.Errorf("%w: %s has %d, but was created with %d", ErrPartitionsChanged, c.Events(), count, recorded)
	}
	return err
}

// ensureTopic returns the topic's partition count and whether this call created it. A topic that exists keeps its
// count; where strict, settings that differ are put right.
func (c *Cluster) ensureTopic(ctx context.Context, admin sarama.ClusterAdmin, topic string, partitions int32, settings map[string]string, strict bool) (int32, bool, error) {
	count, exists, err := c.countPartitions(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	if exists {
		if strict {
			err = c.correctSettings(ctx, admin, topic, settings)
		}
		return count, false, err
	}
	replicas := c.config.ReplicationFactor
	if replicas == 0 {
		replicas = int16(min(3, max(1, len(c.client.Brokers()))))
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replicas, ConfigEntries: map[string]*string{
		// With all replicas but one a commit is durable, and one broker may be away.
		"min.insync.replicas": new(strconv.Itoa(int(max(1, replicas-1)))),
	}}
	for name, value := range settings {
		detail.ConfigEntries[name] = new(value)
	}
	_, err = await(ctx, func() (struct{}, error) { return struct{}{}, admin.CreateTopic(topic, detail, false) }, nil)
	created := err == nil
	if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return 0, false, fmt.Errorf("create topic %s: %w", topic, err)
	}
	if count, err = c.awaitTopic(ctx, topic); err != nil {
		return 0, false, err
	}
	switch {
	case created:
		c.config.Logger.InfoContext(ctx, "topic created", "topic", topic, "partitions", count, "replicas", replicas)
	case strict: // another node was faster, or an operator whose topic this broker had not heard of
		err = c.correctSettings(ctx, admin, topic, settings)
	}
	return count, created, err
}

// awaitTopic waits until a new topic's leaders are known, and known to every broker: to one that has not heard of it, there
// is no such topic, and whoever asks that one next gives up sooner than it hears.
func (c *Cluster) awaitTopic(ctx context.Context, topic string) (int32, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("topic %s was created but has no leaders", topic))
	defer cancel()
	for {
		count, exists, err := c.countPartitions(ctx, topic)
		if err != nil {
			return 0, err
		}
		if exists {
			if _, err = c.ends(ctx, topic); err == nil && c.knownEverywhere(topic, count) {
				return count, nil
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// knownEverywhere asks each broker by itself. One that does not answer is not one that anybody will ask.
func (c *Cluster) knownEverywhere(topic string, partitions int32) bool {
	conf := c.client.Config()
	for _, broker := range c.client.Brokers() {
		ignore(broker.Open(conf)) // it is open already, mostly
		answer, err := broker.GetMetadata(sarama.NewMetadataRequest(conf.Version, []string{topic}))
		if err != nil {
			continue
		}
		for _, told := range answer.Topics {
			led := slices.IndexFunc(told.Partitions, func(p *sarama.PartitionMetadata) bool { return p.Err == sarama.ErrLeaderNotAvailable }) < 0
			if told.Err != sarama.ErrNoError || len(told.Partitions) != int(partitions) || !led {
				return false
			}
		}
	}
	return true
}

// countPartitions looks at all topics: asked for a single one, the client library would wait for it to appear. That some
// topic has a partition without a leader says nothing: it may be another's, and stay so, and of one of ours all partitions
// are known nevertheless.
func (c *Cluster) countPartitions(ctx context.Context, topic string) (count int32, exists bool, err error) {
	partitions, err := await(ctx, func() ([]int32, error) {
		if err := c.client.RefreshMetadata(); err != nil && !errors.Is(err, sarama.ErrLeaderNotAvailable) {
			return nil, err
		}
		topics, err := c.client.Topics()
		if err != nil || !slices.Contains(topics, topic) {
			return nil, err
		}
		return c.client.Partitions(topic)
	}, nil)
	if err != nil && !errors.Is(err, sarama.ErrLeaderNotAvailable) { // of a topic that is being created
		return 0, false, fmt.Errorf("look up topic %s: %w", topic, err)
	}
	return int32(len(partitions)), len(partitions) > 0, nil
}

// correctSettings puts the settings right on which the log's being a log depends, wherever they differ.
func (c *Cluster) correctSettings(ctx context.Context, admin sarama.ClusterAdmin, topic string, settings map[string]string) error {
	resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: topic}
	//nolint:staticcheck // its successor takes several resources and has nothing more to say about one
	entries, err := await(ctx, func() ([]sarama.ConfigEntry, error) { return admin.DescribeConfig(resource) }, nil)
	if err != nil {
		return fmt.Errorf("read settings of topic %s: %w", topic, err)
	}
	present := map[string]string{}
	for _, entry := range entries {
		if entry.Source == sarama.SourceTopic { // what comes from the broker's defaults may change with them
			present[entry.Name] = entry.Value
		}
	}
	changes := map[string]sarama.IncrementalAlterConfigsEntry{}
	for name, value := range settings {
		if present[name] != value {
			changes[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: new(value)}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	_, err = await(ctx, func() (struct{}, error) {
		return struct{}{}, admin.IncrementalAlterConfig(sarama.TopicResource, topic, changes, false)
	}, nil)
	if err != nil {
		return fmt.Errorf("correct settings of topic %s: %w", topic, err)
	}
	c.config.Logger.WarnContext(ctx, "topic settings corrected", "topic", topic, "settings", len(changes))
	return nil
}

// recordedPartitions reads the control topic to its end. The first record about the events topic counts: nodes that
// start together may each write one, and they agree, since all write what the topic has.
func (c *Cluster) recordedPartitions(ctx context.Context) (count int32, found bool, err error) {
	err = c.readTopic(ctx, c.Control(), func(record *sarama.ConsumerMessage) error {
		var entry topology
		if string(record.Key) != topologyType || found {
			return nil
		}
		if err := json.Unmarshal(record.Value, &entry); err != nil || entry.Partitions < 1 {
			return fmt.Errorf("%s at %d: no topology: %q", c.Control(), record.Offset, record.Value)
		}
		if entry.Topic == c.Events() {
			count, found = entry.Partitions, true
		}
		return nil
	})
	return count, found, err
}

func (c *Cluster) recordPartitions(ctx context.Context, count int32) error {
	return c.decide(ctx, topologyType, topology{Type: topologyType, Topic: c.Events(), Partitions: count, Time: time.Now().UTC()})
}

// decide appends a record to the control topic. Decisions are so few that each has a producer of its own.
func (c *Cluster) decide(ctx context.Context, kind string, decision any) error {
	value, err := json.Marshal(decision)
	if err != nil {
		return fmt.Errorf("record a %s: %w", kind, err)
	}
	_, err = await(ctx, func() (struct{}, error) {
		producer, err := sarama.NewSyncProducer(c.config.Brokers, c.config.patient())
		if err != nil {
			return struct{}{}, err
		}
		_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: c.Control(), Key: sarama.StringEncoder(kind), Value: sarama.ByteEncoder(value)})
		return struct{}{}, errors.Join(err, producer.Close())
	}, nil)
	if err != nil {
		return fmt.Errorf("record a %s in %s: %w", kind, c.Control(), err)
	}
	return nil
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
