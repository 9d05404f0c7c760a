package kafka

// This file stands before the first commit: the topics, what they keep, and who may make them.

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/nidohq/nido/infra/enginestest"
)

func TestNodesThatStartTogetherAgreeOnThePartitions(t *testing.T) {
	brokers := startBrokers(t, 1)
	counts := make([]int, 6)
	var wait sync.WaitGroup
	for node := range counts {
		wait.Go(func() {
			config := brokers.config()
			config.Partitions = int32(node + 1)
			cluster, err := Open(t.Context(), config)
			if err != nil {
				t.Errorf("node %d: %v", node, err)
				return
			}
			defer func() { ignore(cluster.Close()) }()
			if counts[node], err = cluster.Partitions(); err != nil {
				t.Errorf("node %d: %v", node, err)
			}
		})
	}
	wait.Wait()
	if slices.Min(counts) != slices.Max(counts) || counts[0] == 0 {
		t.Errorf("the nodes see %v partitions", counts)
	}
	cluster, err := Open(t.Context(), brokers.config())
	if err != nil {
		t.Fatal(err)
	}
	ignore(cluster.Close())
}

func TestBundlesAreCompressedRecordsOfTheirOwnTopic(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, _ := brokers.open(1)
	requests, err := cluster.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := requests.Close(); err != nil {
			t.Error(err)
		}
	}()
	bundle := bytes.Repeat([]byte("a request, "), 1000)
	if err := requests.Publish(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	if err := requests.Publish(t.Context(), make([]byte, MaxRecordBytes)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	records := enginestest.ReadTopic(t, brokers.addrs, cluster.RequestsTopic())
	if len(records) != 1 || !bytes.Equal(records[0].Value, bundle) || len(records[0].Headers) != 0 {
		t.Fatalf("%d records, want the one bundle without headers", len(records))
	}
	if codec := records[0].Attrs.CompressionType(); codec != 3 {
		t.Errorf("compression %d, want 3 (lz4)", codec)
	}
}

func TestTopicsSayWhatTheyKeep(t *testing.T) {
	brokers := startBrokers(t, 3)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	events, control, requests := brokers.prefix+".events", brokers.prefix+".control", brokers.prefix+".requests"
	// An operator made the events topic by hand, with a week's retention.
	if _, err := admin.CreateTopic(t.Context(), 4, 3, map[string]*string{"retention.ms": new("604800000")}, events); err != nil {
		t.Fatal(err)
	}
	lines := &lines{}
	for range 2 { // the second time finds everything
		config := brokers.config()
		config.Logger = lines.logger()
		config.Partitions = 2
		cluster, err := Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		if err := cluster.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if lines.count("topic settings corrected") != 1 || lines.count("topic created") != 2 {
		t.Errorf("want one correction and two new topics:\n%s", lines)
	}
	topics, err := admin.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), events, control, requests)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][3]string{ // partitions, retention.ms, max.message.bytes
		events: {"4", "-1", "4194304"}, control: {"1", "-1", "4194304"}, requests: {"2", "604800000", "4194304"},
	}
	for _, config := range configs {
		got := [3]string{fmt.Sprint(len(topics[config.Name].Partitions))}
		for _, entry := range config.Configs {
			switch entry.Key {
			case "retention.ms":
				got[1] = entry.MaybeValue()
			case "max.message.bytes":
				got[2] = entry.MaybeValue()
			case "retention.bytes":
				if entry.MaybeValue() != "-1" {
					t.Errorf("%s: retention.bytes is %s", config.Name, entry.MaybeValue())
				}
			}
		}
		if got != want[config.Name] {
			t.Errorf("%s has %v, want %v", config.Name, got, want[config.Name])
		}
		if replicas := topics[config.Name].Partitions.NumReplicas(); replicas != 3 {
			t.Errorf("%s has %d replicas, want 3", config.Name, replicas)
		}
	}
}

func TestStartRefusesAnotherPartitionCountAndAMissingLog(t *testing.T) {
	brokers := startBrokers(t, 1)
	brokers.open(4)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	if _, err := admin.UpdatePartitions(t.Context(), 6, brokers.prefix+".events"); err != nil {
		t.Fatal(err)
	}
	// Not at once: the broker that is asked may hear of it later than the one that did it.
	refuses := func(want error) {
		t.Helper()
		poll(t, want.Error(), func() bool {
			var cluster *Cluster
			if cluster, err = Open(t.Context(), brokers.config()); err == nil {
				ignore(cluster.Close())
			}
			return errors.Is(err, want)
		})
	}
	refuses(ErrPartitionsChanged)
	if !strings.Contains(err.Error(), brokers.prefix+".events has 6, but was created with 4") {
		t.Errorf("%v does not name both counts", err)
	}
	if _, err := admin.DeleteTopics(t.Context(), brokers.prefix+".events"); err != nil {
		t.Fatal(err)
	}
	refuses(ErrEventsMissing)
}

// A topic of somebody else may have lost its only broker for good, and then every question for all topics says so. Nothing
// is to be concluded from that about the log: neither that it is gone, nor that it is to be made.
func TestALogIsFoundBesideATopicThatHasNoLeader(t *testing.T) {
	brokers := startEmbedded(t, 1)
	cluster, _ := brokers.open(4)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	told, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	orphan := kmsg.NewMetadataResponseTopicPartition()
	orphan.ErrorCode, orphan.Leader = kerr.LeaderNotAvailable.Code, -1
	others := kmsg.NewMetadataResponseTopic()
	others.Topic, others.Partitions = new("others"), []kmsg.MetadataResponseTopicPartition{orphan}
	told.Topics = append(told.Topics, others)
	brokers.cluster.ControlKey(int16(kmsg.Metadata), func(request kmsg.Request) (kmsg.Response, error, bool) {
		brokers.cluster.KeepControl()
		if request.(*kmsg.MetadataRequest).Topics != nil {
			return nil, nil, false
		}
		answer := *told
		answer.SetVersion(request.GetVersion())
		return &answer, nil, true
	})
	config := brokers.config()
	for _, config.MustExist = range []bool{true, false} {
		found, err := Open(t.Context(), config)
		if err != nil {
			t.Fatalf("must exist: %v: %v", config.MustExist, err)
		}
		if count, err := found.Partitions(); err != nil || count != 4 {
			t.Errorf("%d partitions, %v", count, err)
		}
		ignore(found.Close())
	}
	if _, err := cluster.Ends(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhoOnlyLooksAtALogMakesNone(t *testing.T) {
	brokers := startBrokers(t, 1)
	looking := brokers.config()
	looking.MustExist = true
	for range 2 { // the first look must not have made it
		if _, err := Open(t.Context(), looking); !errors.Is(err, ErrNoLog) {
			t.Fatalf("a log that is not there: %v", err)
		}
	}
	brokers.open(3)
	cluster, err := Open(t.Context(), looking)
	if err != nil {
		t.Fatal(err)
	}
	if count, err := cluster.Partitions(); err != nil || count != 3 {
		t.Errorf("%d partitions, %v", count, err)
	}
	if err := cluster.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfigurationsNameAllTheirFaults(t *testing.T) {
	err := Config{Brokers: []string{""}, Prefix: "a b", Partitions: -1, ReplicationFactor: -1}.Validate()
	for _, fault := range []string{"brokers", "prefix", "partitions", "replication", "logger"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%v does not name %s", err, fault)
		}
	}
	if err := (ConsumerConfig{MaxBytes: -1}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("%v, want four faults", err)
	}
}
