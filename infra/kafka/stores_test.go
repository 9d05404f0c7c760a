package kafka

// This file is the tests' own: handlers that keep checkpoints as a store does, and what is waited for in them.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// store is a CommitHandler that keeps what it gets in memory, compare-and-set as a database would.
type store struct {
	mu      sync.Mutex
	offsets map[int32]int64
	hashes  map[int32][]byte
	applied map[domain.Position]int
	batches []int
	starts  []int64       // the first offset of every batch
	fail    func() error  // called before every Apply
	changed chan struct{} // closed and replaced at every change
}

func newStore() *store {
	return &store{offsets: map[int32]int64{}, hashes: map[int32][]byte{}, applied: map[domain.Position]int{}, changed: make(chan struct{})}
}

func (s *store) Checkpoint(_ context.Context, partition int32) (int64, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset, ok := s.offsets[partition]
	if !ok {
		return -1, nil, nil
	}
	return offset, s.hashes[partition], nil
}

func (s *store) Apply(ctx context.Context, partition int32, after int64, batch []domain.Recorded) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	current, ok := s.offsets[partition]
	if !ok {
		current = -1
	}
	if current != after {
		return fmt.Errorf("apply: %w", projections.ErrFenced)
	}
	for i, recorded := range batch {
		if recorded.Offset != after+1+int64(i) {
			return fmt.Errorf("offset %d comes behind %d", recorded.Offset, after+int64(i))
		}
		s.applied[recorded.Position]++
	}
	last := batch[len(batch)-1]
	s.offsets[partition], s.hashes[partition] = last.Offset, last.Hash
	s.batches, s.starts = append(s.batches, len(batch)), append(s.starts, batch[0].Offset)
	s.signal()
	return nil
}

func (s *store) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// set moves the checkpoint from outside.
func (s *store) set(partition int32, offset int64, hash []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offsets[partition], s.hashes[partition] = offset, hash
	s.signal()
}

func (s *store) failing(fail func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// await waits until the condition, which sees the store locked, holds.
func (s *store) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		holds, changed := condition(), s.changed
		s.mu.Unlock()
		if holds {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func (s *store) sum() (applied int) {
	for _, times := range s.applied {
		applied += times
	}
	return applied
}

// poll waits for a condition that nobody signals.
func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// run starts a consumer of commits and returns how to stop it and get Run's error.
func run(t *testing.T, cluster *Cluster, config ConsumerConfig) (consumer *Consumer, stop func() error) {
	t.Helper()
	if config.Topic == "" {
		config.Topic = cluster.Events()
	}
	if config.Name == "" {
		config.Name = "postgres"
	}
	consumer, err := cluster.Consumer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the consumer does not stop")
		}
	})
	t.Cleanup(func() { ignore(stop()) })
	return consumer, stop
}

// refused runs a consumer that must end by itself.
func refused(t *testing.T, cluster *Cluster, config ConsumerConfig) error {
	t.Helper()
	config.Topic, config.Name = cluster.Events(), "postgres"
	consumer, err := cluster.Consumer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = consumer.Run(ctx)
	if ctx.Err() != nil {
		t.Fatal("the consumer went on")
	}
	return err
}
