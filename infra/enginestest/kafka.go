package enginestest

// This file stands below the tests of the log.

import (
	"context"
	"errors"
	"strings"
	"testing"

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
