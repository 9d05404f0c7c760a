package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

func TestAConsumerDrainsWhatHasArrivedInBoundedBatches(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 300)
	store := newStore()
	_, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store), MaxRecords: 100})
	store.await(t, "300 commits", func() bool { return store.sum() == 300 })
	brokers.append(log, 300, 5)
	store.await(t, "5 more", func() bool { return store.sum() == 305 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if slices.Max(store.batches) > 100 || len(store.batches) > 100 {
		t.Errorf("batches of %v, want a few of at most 100", store.batches)
	}
	for position, times := range store.applied {
		if times != 1 {
			t.Errorf("%+v was applied %d times", position, times)
		}
	}
}

func TestAConsumerGoesOnBehindTheCheckpointWhateverTheGroupCommitted(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 50)
	store := newStore()
	_, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store)})
	store.await(t, "50 commits", func() bool { return store.sum() == 50 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	hashes := map[int64][]byte{}
	if err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error { hashes[recorded.Offset] = recorded.Hash; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]int64{"back": 19, "to the beginning": -1, "to the end": 49} {
		t.Run(name, func(t *testing.T) {
			again := newStore()
			if from >= 0 {
				again.set(0, from, hashes[from])
			}
			_, stop := run(t, cluster, ConsumerConfig{Handler: Commits(again)})
			want := int(49 - from)
			if want == 0 { // only what comes now
				brokers.append(log, 50, 1)
				want = 1
			}
			again.await(t, fmt.Sprintf("%d commits", want), func() bool { return again.sum() >= want })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if again.starts[0] != from+1 {
				t.Errorf("the first batch begins at %d, want %d", again.starts[0], from+1)
			}
		})
	}
	t.Run("forward", func(t *testing.T) {
		// The group has committed the end; a store that is ahead of an older commit must not see old records again.
		ahead := newStore()
		ahead.set(0, 10, hashes[10])
		_, stop := run(t, cluster, ConsumerConfig{Handler: Commits(ahead), Name: "other"})
		ahead.await(t, "39 commits", func() bool { return ahead.sum() >= 39 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if ahead.starts[0] != 11 {
			t.Errorf("the first batch begins at %d, want 11", ahead.starts[0])
		}
	})
}

func TestAnOvertakenProjectorSeeksAnew(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 10)
	hashes := map[int64][]byte{}
	if err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error { hashes[recorded.Offset] = recorded.Hash; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]int64{"another one was ahead": 6, "the store was set back": -1} {
		t.Run(name, func(t *testing.T) {
			store := newStore()
			store.set(0, 2, hashes[2])
			var once sync.Once
			store.failing(func() error {
				once.Do(func() { // between reading the checkpoint and applying
					if to < 0 {
						store.mu.Lock()
						delete(store.offsets, 0)
						store.mu.Unlock()
					} else {
						store.set(0, to, hashes[to])
					}
				})
				return nil
			})
			_, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store)})
			want := int(9 - to)
			store.await(t, "the rest", func() bool { return store.sum() >= want })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if store.starts[0] != to+1 || store.sum() != want {
				t.Errorf("applied %d from %d, want %d from %d", store.sum(), store.starts[0], want, to+1)
			}
		})
	}
}

func TestAStoreThatIsDownGetsTheSameBatchAgainWithoutARebalance(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	lines := &lines{}
	cluster.config.Logger = lines.logger()
	store := newStore()
	down := errors.New("the store is down")
	var attempts, checkpoints atomic.Int32
	store.failing(func() error {
		if attempts.Add(1) <= 17 { // more than seven seconds: longer than a session without heartbeats
			return down
		}
		return nil
	})
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: counting{Commits(store), &checkpoints}})
	brokers.append(log, 0, 3)
	poll(t, "the status says why", func() bool {
		partitions := consumer.Status().Partitions
		return len(partitions) == 1 && errors.Is(partitions[0].Waiting, down)
	})
	store.await(t, "the batch", func() bool { return store.sum() == 3 })
	poll(t, "the status is clear", func() bool {
		partitions := consumer.Status().Partitions
		return len(partitions) == 1 && partitions[0].Waiting == nil && partitions[0].Position == 2 && partitions[0].Lag == 0
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if checkpoints.Load() != 1 {
		t.Errorf("the checkpoint was read %d times: the session was lost", checkpoints.Load())
	}
	if lines.count("projector waits for its store") != 1 || lines.count("projector goes on") != 1 {
		t.Errorf("want one line at each change:\n%s", lines)
	}
}

type counting struct {
	Handler
	checkpoints *atomic.Int32
}

func (c counting) Checkpoint(ctx context.Context, partition int32) (int64, []byte, error) {
	c.checkpoints.Add(1)
	return c.Handler.Checkpoint(ctx, partition)
}

func TestAConsumerOutlivesTheBroker(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	store := newStore()
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: Commits(store)})
	brokers.append(log, 0, 10)
	store.await(t, "10 commits", func() bool { return store.sum() == 10 })
	brokers.stop()
	poll(t, "the status tells the outage", func() bool { return consumer.Status().Outage != nil })
	brokers.start()
	poll(t, "an append succeeds", func() bool { _, err := log.Append(t.Context(), someCommit(99)); return err == nil })
	store.await(t, "the commit after the outage", func() bool { return store.sum() >= 11 })
	poll(t, "the status is clear", func() bool { return consumer.Status().Outage == nil })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for position, times := range store.applied {
		if times != 1 {
			t.Errorf("%+v was applied %d times", position, times)
		}
	}
}

func TestAConsumerStopsSoonWhileTheBrokerIsAway(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, _ := brokers.open(1)
	consumer, stop := run(t, cluster, ConsumerConfig{Handler: Commits(newStore())})
	poll(t, "the partition is assigned", func() bool { return len(consumer.Status().Partitions) == 1 })
	brokers.stop()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTwoConsumersApplyEachRecordExactlyOnceThroughRebalances(t *testing.T) {
	brokers := startBrokers(t, 3)
	cluster, log := brokers.open(4)
	store := newStore()
	first, stopFirst := run(t, cluster, ConsumerConfig{Handler: Commits(store), MaxRecords: 7})
	poll(t, "the first has all", func() bool { return len(first.Status().Partitions) == 4 })
	appended := make(chan int)
	enough := make(chan struct{})
	go func() {
		count := 0
		defer func() { appended <- count }()
		for {
			select {
			case <-enough:
				return
			default:
				if _, err := log.Append(t.Context(), someCommit(count)); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				count++
			}
		}
	}()
	second, stopSecond := run(t, cluster, ConsumerConfig{Handler: Commits(store), MaxRecords: 7})
	shared := func() bool { return len(first.Status().Partitions) == 2 && len(second.Status().Partitions) == 2 }
	poll(t, "they share", shared)
	before := func() int { store.mu.Lock(); defer store.mu.Unlock(); return store.sum() }()
	store.await(t, "progress while shared", func() bool { return store.sum() > before+50 })
	if err := stopFirst(); err != nil {
		t.Error(err)
	}
	poll(t, "the second has all", func() bool { return len(second.Status().Partitions) == 4 })
	close(enough)
	total := <-appended
	store.await(t, "everything", func() bool { return store.sum() >= total })
	if err := stopSecond(); err != nil {
		t.Error(err)
	}
	if len(store.applied) != total || store.sum() != total {
		t.Errorf("%d of %d commits were applied, %d times in all", len(store.applied), total, store.sum())
	}
}

func TestBundlesComeWithTheirHashAndSurviveExpiry(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, _ := brokers.open(1)
	requests, err := cluster.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { ignore(requests.Close()) }()
	for i := range 6 {
		if err := requests.Publish(t.Context(), fmt.Appendf(nil, "bundle %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	bundles := &bundleStore{store: newStore()}
	config := ConsumerConfig{Topic: cluster.RequestsTopic(), Name: "requests", Handler: Bundles(bundles), Expires: true, MaxRecords: 4}
	_, stop := run(t, cluster, config)
	bundles.await(t, "6 bundles", func() bool { return len(bundles.payloads) == 6 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := string(slices.Concat(bundles.payloads...)); got != "bundle 0bundle 1bundle 2bundle 3bundle 4bundle 5" {
		t.Errorf("payloads %q", got)
	}
	if err := requests.Publish(t.Context(), []byte("bundle 6")); err != nil {
		t.Fatal(err)
	}
	_, stop = run(t, cluster, config) // the hash of bundle 5 is compared
	bundles.await(t, "the seventh", func() bool { return len(bundles.payloads) == 7 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	deleteBefore(t, brokers, cluster.RequestsTopic(), 5)
	late := &bundleStore{store: newStore()}
	late.set(0, 2, nil) // its record has expired
	config.Handler = Bundles(late)
	_, stop = run(t, cluster, config)
	late.await(t, "what is left", func() bool { return len(late.payloads) == 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if late.afters[0] != 2 {
		t.Errorf("the first batch compares with %d, want the checkpoint 2", late.afters[0])
	}
}

type bundleStore struct {
	*store
	payloads [][]byte
	afters   []int64 // what each batch compared with
}

func (s *bundleStore) Apply(_ context.Context, partition int32, after, last int64, hash []byte, payloads [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if current, ok := s.offsets[partition]; ok && current != after {
		return projections.ErrFenced
	}
	s.offsets[partition], s.hashes[partition] = last, hash
	s.payloads, s.afters = append(s.payloads, payloads...), append(s.afters, after)
	s.signal()
	return nil
}
