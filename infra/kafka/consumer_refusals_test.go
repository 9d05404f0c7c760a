package kafka

// This file stands between the log and the fold: what a consumer refuses to hand on, and what it does about it.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/domain"
)

func TestAConsumerRefusesALogThatIsNotTheOneItFolded(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 10)
	store := newStore()
	store.set(0, 4, Hash([]byte("another"), []byte("record")))
	err := refused(t, cluster, ConsumerConfig{Handler: Commits(store)})
	if !errors.Is(err, ErrLogDiffers) || !strings.Contains(err.Error(), "partition 0, offset 4") {
		t.Errorf("got %v, want ErrLogDiffers at 0:4", err)
	}
	store.set(0, 4, nil)
	if err := refused(t, cluster, ConsumerConfig{Handler: Commits(store)}); !errors.Is(err, ErrLogDiffers) {
		t.Errorf("got %v for a checkpoint without a hash, want ErrLogDiffers", err)
	}
	store.set(0, 10, nil)
	err = refused(t, cluster, ConsumerConfig{Handler: Commits(store)})
	if !errors.Is(err, ErrLogBehind) || !strings.Contains(err.Error(), "partition 0 ends at offset 9, the checkpoint is 10") {
		t.Errorf("got %v, want ErrLogBehind with both offsets", err)
	}
	if store.sum() != 0 {
		t.Errorf("%d commits were applied", store.sum())
	}
}

func TestAnUndecodableRecordStopsItsPartitionLoudlyAndOnlyThat(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(2)
	positions := brokers.append(log, 0, 20)
	poisoned := positions[0].Partition
	before := 0
	for _, position := range positions {
		if position.Partition == poisoned {
			before++
		}
	}
	if before == 20 {
		t.Fatal("all commits are in one partition")
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: cluster.Events(), Partition: poisoned, Key: []byte("x"), Value: []byte("poison")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	behind := brokers.append(log, 20, 20)
	store := newStore()
	lines := &lines{}
	cluster.config.Logger = lines.logger()
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store)})
	lost := 0
	for _, position := range behind {
		if position.Partition == poisoned {
			lost++
		}
	}
	store.await(t, "all but what is behind the poison", func() bool { return store.sum() == 40-lost })
	var stopped PartitionStatus
	poll(t, "the status tells", func() bool {
		status := consumer.Status()
		for _, partition := range status.Partitions {
			if partition.Stopped != nil {
				stopped = partition
			}
		}
		return stopped.Stopped != nil && len(status.Partitions) == 2
	})
	if stopped.Partition != poisoned || stopped.Position != int64(before-1) || stopped.Lag != int64(lost+1) || !errors.Is(stopped.Stopped, domain.ErrUndecodable) {
		t.Errorf("status %+v, want partition %d at %d with lag %d", stopped, poisoned, before-1, lost+1)
	}
	more := 0
	for i, position := range brokers.append(log, 40, 10) {
		if position.Partition == poisoned {
			lost++
		} else {
			more++
		}
		_ = i
	}
	store.await(t, "the other partition goes on", func() bool { return store.sum() == 40+more-(lost-(10-more)) })
	poll(t, "the lag of the stopped one grows", func() bool {
		for _, partition := range consumer.Status().Partitions {
			if partition.Partition == poisoned {
				return partition.Lag == int64(lost+1)
			}
		}
		return false
	})
	if err := stop(); err != nil {
		t.Errorf("run ended with %v", err)
	}
	said := lines.count("projector stopped")
	if said != 1 || lines.count(fmt.Sprintf("partition=%d offset=%d", poisoned, before)) != 1 {
		t.Errorf("%d lines say so, want one with the position:\n%s", said, lines)
	}
}

// prefixing is a handler that folds what stands before a record that it cannot read, as the Postgres projector does.
type prefixing struct {
	*store
	bad int64
}

func (p prefixing) Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	for i, recorded := range batch {
		if recorded.Offset == p.bad {
			if i > 0 {
				if err := p.store.Apply(ctx, partition, after, batch[:i]); err != nil {
					return err
				}
			}
			return fmt.Errorf("fold: %w", domain.ErrUndecodable)
		}
	}
	return p.store.Apply(ctx, partition, after, batch)
}

func TestAHandlerMayFoldWhatStandsBeforeARecordThatItCannotRead(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 20)
	store := newStore()
	var checkpoints atomic.Int32
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: counting{Commits(prefixing{store, 13}), &checkpoints}})
	poll(t, "the partition is stopped", func() bool {
		partitions := consumer.Status().Partitions
		return len(partitions) == 1 && partitions[0].Stopped != nil && partitions[0].Position == 12
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if store.sum() != 13 || checkpoints.Load() > 2 {
		t.Errorf("%d commits were applied with %d looks at the checkpoint, want 13 in one session", store.sum(), checkpoints.Load())
	}
}

func TestCommitsThatAreMissingAreRefused(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 10)
	deleteBefore(t, brokers, cluster.Events(), 5)
	store := newStore()
	if err := refused(t, cluster, ConsumerConfig{Handler: Commits(store)}); !errors.Is(err, ErrLogDiffers) {
		t.Errorf("a fresh store got %v, want ErrLogDiffers", err)
	}
	store.set(0, 3, nil)
	if err := refused(t, cluster, ConsumerConfig{Handler: Commits(store)}); !errors.Is(err, ErrLogDiffers) {
		t.Errorf("got %v, want ErrLogDiffers", err)
	}
}

func TestASkippedRecordIsAPlaceWithoutACommitForEveryReader(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 5)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers.addrs...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: cluster.Events(), Key: []byte("x"), Value: []byte("poison")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	store := newStore()
	lines := &lines{}
	cluster.config.Logger = lines.logger()
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store)})
	poll(t, "the partition stops", func() bool {
		partitions := consumer.Status().Partitions
		return len(partitions) == 1 && partitions[0].Stopped != nil
	})
	if err := cluster.ReadAll(t.Context(), func(domain.Recorded) error { return nil }); !errors.Is(err, domain.ErrUndecodable) {
		t.Errorf("reading all: %v", err)
	}

	poison, err := cluster.Record(t.Context(), domain.Position{Offset: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Record(t.Context(), domain.Position{Offset: 6}); !errors.Is(err, ErrNoRecord) {
		t.Errorf("a record behind the end: %v", err)
	}
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	if err := cluster.Skip(t.Context(), poison, domain.Actor{Kind: "operator", ID: "ana"}, at, "sent by mistake"); err != nil {
		t.Fatal(err)
	}
	store.await(t, "the checkpoint passes the record though nothing comes behind it", func() bool { return store.offsets[0] == 5 })
	brokers.append(log, 5, 5)
	store.await(t, "the projector goes on", func() bool { return store.offsets[0] == 10 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if lines.count("projector stopped") != 1 || lines.count(`why="sent by mistake"`) == 0 {
		t.Errorf("said:\n%s", lines)
	}

	skips, err := cluster.Skips(t.Context())
	if skip := skips[domain.Position{Offset: 5}]; err != nil || len(skips) != 1 || skip.Actor.ID != "ana" || !skip.Time.Equal(at) || skip.Why != "sent by mistake" {
		t.Errorf("the control topic says %+v, %v", skips, err)
	}
	if _, met := skips.At(domain.Position{Offset: 5}, []byte("another hash")); met {
		t.Error("the skip covers another record at the same place")
	}
	read := 0
	if err := cluster.ReadAll(t.Context(), func(domain.Recorded) error { read++; return nil }); err != nil || read != 10 {
		t.Errorf("reading all: %d commits, %v", read, err)
	}
	again := newStore()
	_, stop = run(t, cluster, ConsumerConfig{Name: "again", Handler: Commits(again)})
	again.await(t, "a new projector passes without stopping", func() bool { return again.offsets[0] == 10 })
	if err := stop(); err != nil || lines.count("projector stopped") != 1 {
		t.Errorf("%v, said:\n%s", err, lines)
	}
}
