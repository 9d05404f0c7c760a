package enginestest

// This file stands below the tests of the log.

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka answers with the brokers and with a prefix for topics and consumer groups that no other test has. The topics
// and groups "<prefix>.…" are deleted when the test ends; a group that still has members stays.
func Kafka(t testing.TB) (brokers []string, prefix string) {
	t.Helper()
	brokers = strings.Split(variable(t, kafkaVariable), ",")
	// Kafka's metrics cannot tell "_" from ".", which stands behind the prefix.
	prefix = strings.ReplaceAll(uniqueName(t), "_", "-")

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatalf("reach the Kafka of %s: %v", kafkaVariable, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		t.Fatalf("reach the Kafka of %s: %v", kafkaVariable, err)
	}
	t.Cleanup(func() {
		defer client.Close()
		ctx, cancel := cleanUpContext(t)
		defer cancel()
		if err := deleteKafka(ctx, kadm.NewClient(client), prefix+"."); err != nil {
			t.Logf("delete the test's topics and groups: %v", err) // they are in nobody's way
		}
	})
	return brokers, prefix
}

func deleteKafka(ctx context.Context, admin *kadm.Client, prefix string) error {
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	groups, err := admin.ListGroups(ctx)
	if err != nil {
		return err
	}
	own := func(names []string) (mine []string) {
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				mine = append(mine, name)
			}
		}
		return mine
	}
	var faults []error
	if mine := own(groups.Groups()); len(mine) > 0 {
		answers, err := admin.DeleteGroups(ctx, mine...)
		faults = append(faults, err, answers.Error())
	}
	if mine := own(topics.Names()); len(mine) > 0 {
		answers, err := admin.DeleteTopics(ctx, mine...)
		faults = append(faults, err, answers.Error())
	}
	return errors.Join(faults...)
}

// ReadTopic reads a topic from its beginning to its present end, with a client that knows nothing of Nido. It gives up
// after two minutes.
func ReadTopic(t testing.TB, brokers []string, topic string) (records []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(end kadm.ListedOffset) { left += end.Offset })
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records of %s were not read: %v", left, topic, fetches.Errors())
		}
		records = append(records, fetches.Records()...)
		left -= int64(fetches.NumRecords())
	}
	return records
}
