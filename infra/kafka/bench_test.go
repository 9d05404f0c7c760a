package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/nidohq/nido/domain"
)

// BenchmarkAppend measures commits per second, and how long one takes, into a broker that syncs every batch.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			_, log, _ := benched(b)
			took := together(b, writers, func(i int) error {
				_, err := log.Append(b.Context(), someCommit(i))
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkAppendUntilFolded also waits until a handler that does nothing has had the commit.
func BenchmarkAppendUntilFolded(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			cluster, log, stop := benched(b)
			folded := &folded{passed: -1, moved: make(chan struct{})}
			consumer, err := cluster.Consumer(ConsumerConfig{Topic: cluster.Events(), Name: "postgres", Handler: Commits(folded)})
			if err != nil {
				b.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- consumer.Run(stop) }()
			position, err := log.Append(b.Context(), someCommit(0))
			if err != nil {
				b.Fatal(err)
			}
			folded.wait(position.Offset)
			b.ResetTimer()
			took := together(b, writers, func(i int) error {
				position, err := log.Append(b.Context(), someCommit(i))
				if err == nil {
					folded.wait(position.Offset)
				}
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

func benched(b *testing.B) (*Cluster, *Log, context.Context) {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(b.TempDir()), kfake.SyncWrites())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	cluster, err := Open(b.Context(), Config{Brokers: broker.ListenAddrs(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	log, err := cluster.Log(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ignore(log.Close()) })
	if _, err := log.Append(b.Context(), someCommit(0)); err != nil {
		b.Fatal(err)
	}
	return cluster, log, b.Context()
}

// together shares b.N calls among writers and returns how long each took, in order.
func together(b *testing.B, writers int, call func(i int) error) []time.Duration {
	took := make([]time.Duration, b.N)
	var wait sync.WaitGroup
	b.ResetTimer()
	for writer := range writers {
		wait.Go(func() {
			for i := writer; i < b.N; i += writers {
				begun := time.Now()
				if err := call(i); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(begun)
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	slices.Sort(took)
	return took
}

// folded is a handler that only remembers how far it was.
type folded struct {
	mu     sync.Mutex
	passed int64
	hash   []byte
	moved  chan struct{}
}

func (f *folded) Checkpoint(context.Context, int32) (int64, []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passed, f.hash, nil
}

func (f *folded) Apply(_ context.Context, _ int32, _ int64, batch []domain.Recorded) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed, f.hash = batch[len(batch)-1].Offset, batch[len(batch)-1].Hash
	close(f.moved)
	f.moved = make(chan struct{})
	return nil
}

func (f *folded) wait(offset int64) {
	for {
		f.mu.Lock()
		passed, moved := f.passed, f.moved
		f.mu.Unlock()
		if passed >= offset {
			return
		}
		<-moved
	}
}
