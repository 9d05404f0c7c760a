package kafka

// This file stands at the log as a whole, where brokers come back with other leaders than they had.

import (
	"log/slog"
	"testing"

	"github.com/IBM/sarama"
)

// After an outage every connection is dead, and each one is found to be so by the first request on it. Where leaders
// have moved meanwhile, one question may meet a dead connection twice, which is more than the client library forgives.
func TestTheEndsAreFoundOverConnectionsThatDiedOneAfterTheOther(t *testing.T) {
	const topic = "nido.events"
	seed, one, two := sarama.NewMockBroker(t, 1), sarama.NewMockBroker(t, 2), sarama.NewMockBroker(t, 3)
	defer func() { seed.Close(); one.Close(); two.Close() }()
	ledBy := func(leader *sarama.MockBroker) sarama.MockResponse {
		return sarama.NewMockMetadataResponse(t).SetBroker(one.Addr(), one.BrokerID()).SetBroker(two.Addr(), two.BrokerID()).SetLeader(topic, 0, leader.BrokerID())
	}
	serve := func(broker *sarama.MockBroker, metadata sarama.MockResponse) {
		broker.SetHandlerByMap(map[string]sarama.MockResponse{
			"ApiVersionsRequest": sarama.NewMockApiVersionsResponse(t).SetApiKeys([]sarama.ApiVersionsResponseKey{{ApiKey: 2, MaxVersion: 4}, {ApiKey: 3, MaxVersion: 5}, {ApiKey: 18, MaxVersion: 3}}),
			"MetadataRequest":    metadata,
			"OffsetRequest":      sarama.NewMockOffsetResponse(t).SetOffset(topic, 0, sarama.OffsetNewest, 42),
		})
	}
	restarted := func(broker *sarama.MockBroker) *sarama.MockBroker {
		broker.Close()
		return sarama.NewMockBrokerAddr(t, broker.BrokerID(), broker.Addr())
	}
	for _, broker := range []*sarama.MockBroker{seed, one, two} {
		serve(broker, ledBy(one))
	}
	cluster, err := connect(t.Context(), Config{Brokers: []string{seed.Addr()}, Logger: slog.New(slog.DiscardHandler)}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { ignore(cluster.Close()) }()
	for _, leader := range []*sarama.MockBroker{two, one} {
		for _, broker := range []*sarama.MockBroker{seed, one, two} {
			serve(broker, ledBy(leader))
		}
		if err := cluster.client.RefreshMetadata(topic); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Ends(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	one, two = restarted(one), restarted(two)
	for _, broker := range []*sarama.MockBroker{seed, one, two} {
		serve(broker, ledBy(two))
	}
	ends, err := cluster.Ends(t.Context())
	if err != nil || ends[0] != 42 {
		t.Errorf("got %v, %v; want the end at 42", ends, err)
	}
}
