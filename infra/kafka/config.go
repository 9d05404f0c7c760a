package kafka

// This file stands before everything else: how the log is reached, and with which patience.

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/IBM/sarama"
	"github.com/rcrowley/go-metrics"
)

// MaxRecordBytes is what a topic of ours takes as one batch, and so the bound of one commit or bundle.
const MaxRecordBytes = 4 << 20

// batchOverhead is a record batch's own header, 61 bytes, rounded up. Keys, headers and values must fit into the rest.
const batchOverhead = 128

func init() {
	// The client library keeps rates and samples of everything by broker and topic, which nobody reads: what operators see is
	// counted where it happens (infra/telemetry). It has no other switch.
	metrics.UseNilMetrics = true
}

// Config says how to reach the log.
type Config struct {
	// Brokers are the addresses to begin with, "host:port". Required.
	Brokers []string
	// Prefix is the first part of the names of topics and consumer groups. Default "nido".
	Prefix string
	// ClientID is how the brokers' logs and quotas name this process. Default: Prefix.
	ClientID string
	// Partitions is the count for topics that do not exist yet; it never changes an existing one. Default 1, which is
	// what an embedded broker does best.
	Partitions int32
	// ReplicationFactor is that of topics that do not exist yet. Default: 3, or the count of brokers if that is less.
	ReplicationFactor int16
	// MustExist refuses to create topics or to change their settings: for those who only look at a log.
	MustExist bool
	// Logger is told what the caller of a method is not. Required.
	Logger *slog.Logger
}

var prefixes = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$`)

// Validate returns all faults, joined.
func (c Config) Validate() error {
	var faults []error
	if len(c.Brokers) == 0 {
		faults = append(faults, errors.New("brokers: none given"))
	}
	for i, broker := range c.Brokers {
		if broker == "" {
			faults = append(faults, fmt.Errorf("brokers: number %d is empty", i+1))
		}
	}
	if c.Prefix != "" && !prefixes.MatchString(c.Prefix) {
		faults = append(faults, fmt.Errorf("prefix: %q cannot begin a topic's name", c.Prefix))
	}
	if c.Partitions < 0 || c.Partitions > 10_000 {
		faults = append(faults, fmt.Errorf("partitions: %d is not between 1 and 10000", c.Partitions))
	}
	if c.ReplicationFactor < 0 {
		faults = append(faults, fmt.Errorf("replication factor: %d is negative", c.ReplicationFactor))
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("logger: none given"))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "nido"
	}
	if c.ClientID == "" {
		c.ClientID = c.Prefix
	}
	if c.Partitions == 0 {
		c.Partitions = 1
	}
	return c
}

// client is what all connections share. An outage must fail in well under a second, so that a caller gets its 503
// while it still listens: few retries, close together.
func (c Config) client() *sarama.Config {
	conf := sarama.NewConfig()
	conf.Version = sarama.V3_6_0_0 // an upper bound: older brokers are asked what they speak
	conf.ClientID = c.ClientID
	conf.Net.DialTimeout = 2 * time.Second
	conf.Net.ReadTimeout = 10 * time.Second
	conf.Net.WriteTimeout = 10 * time.Second
	conf.Metadata.Retry.Max = 3
	conf.Metadata.Retry.Backoff = 100 * time.Millisecond
	conf.Metadata.RefreshFrequency = 30 * time.Second // also how late a topic's new partitions are seen
	conf.Metadata.Full = false                        // other people's topics are none of our business
	// A topic that the broker creates by itself has the broker's retention: a log that forgets.
	conf.Metadata.AllowAutoTopicCreation = false
	return conf
}

// producer is for both publishers.
func (c Config) producer(compression sarama.CompressionCodec) *sarama.Config {
	conf := c.client()
	conf.Net.MaxOpenRequests = 1 // idempotence needs it
	conf.Producer.Idempotent = true
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true // the synchronous producer needs it
	conf.Producer.Partitioner = sarama.NewMurmur2Partitioner
	conf.Producer.MaxMessageBytes = MaxRecordBytes - batchOverhead
	conf.Producer.Compression = compression
	conf.Producer.Timeout = 5 * time.Second // the brokers' for replication
	conf.Net.ReadTimeout = 6 * time.Second
	conf.Producer.Retry.Max = 3
	conf.Producer.Retry.Backoff = 50 * time.Millisecond
	// Flush stays unset: what arrives while a request is under way makes up the next batch, and nothing waits.
	return conf
}

// patient is for what an operator waits for and no caller with a 503: decisions and restores. A broker may not have heard
// of a topic yet that another one has just made.
func (c Config) patient() *sarama.Config {
	conf := c.producer(sarama.CompressionNone)
	conf.Metadata.Retry.Max = 20
	conf.Producer.Retry.Max = 20
	conf.Producer.Retry.Backoff = 500 * time.Millisecond
	return conf
}

// consumer is for consumer groups and plain readers.
func (c Config) consumer() *sarama.Config {
	conf := c.client()
	conf.ChannelBufferSize = 1024
	conf.Consumer.MaxWaitTime = 100 * time.Millisecond
	conf.Consumer.MaxProcessingTime = time.Second
	conf.Consumer.Retry.Backoff = 200 * time.Millisecond
	conf.Consumer.Return.Errors = true
	conf.Consumer.Fetch.Default = MaxRecordBytes + batchOverhead // any record at the first attempt
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	// Committed offsets are a hint for lag monitors. Committing by hand would queue behind the fetch's long poll.
	conf.Consumer.Offsets.AutoCommit.Enable = true
	conf.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	conf.Consumer.Group.Rebalance.Timeout = 8 * time.Second // below Net.ReadTimeout: joining waits this long
	conf.Consumer.Group.Rebalance.Retry.Backoff = 200 * time.Millisecond
	// A dead node's partitions stand still until its session ends; six seconds is what brokers allow at least.
	conf.Consumer.Group.Session.Timeout = 6 * time.Second
	conf.Consumer.Group.Heartbeat.Interval = time.Second
	// A checkpoint that the log does not reach must be refused, not silently replaced by the log's beginning.
	conf.Consumer.Group.ResetInvalidOffsets = false
	return conf
}
