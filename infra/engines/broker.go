//go:build linux && amd64 && !noengines

// Below the story: the log itself, while it is embedded.

package engines

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kfake"
)

const brokerFolder = "kafka"

// broker is the log of an embedded installation: one Kafka broker inside this process, durable by itself.
type broker struct {
	cluster *kfake.Cluster
	port    int
}

func (s *station) startBroker() (*broker, error) {
	folder := filepath.Join(s.Dir, brokerFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return s.kafka, nil }),
		kfake.ClusterID("nido"),
		kfake.DataDir(folder),
		// An acknowledged commit survives a power cut.
		kfake.SyncWrites(),
		// Every batch of a partition is synced by itself, so more partitions only cost more syncs.
		kfake.DefaultNumPartitions(1),
		// The log is the source of truth: a topic that says nothing is kept for ever, not for 7 days.
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1", "log.retention.bytes": "-1"}),
		kfake.WithLogger(brokerLogger{s.Logger}),
	)
	if err != nil {
		return nil, fmt.Errorf("start the kafka broker: %w", err)
	}
	(&reserve{folder: folder, logger: s.Logger}).guard(cluster)
	return &broker{cluster: cluster, port: s.kafka.Addr().(*net.TCPAddr).Port}, nil
}

// stop writes what the broker holds open and closes it.
func (b *broker) stop(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		b.cluster.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the kafka broker: %w", context.Cause(ctx))
	}
}

// brokerLogger passes the broker's warnings and errors on.
type brokerLogger struct{ logger *slog.Logger }

// Logf implements kfake.Logger.
func (l brokerLogger) Logf(level kfake.LogLevel, text string, args ...any) {
	var to slog.Level
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	default: // requests, one line each
		return
	}
	l.logger.Log(context.Background(), to, "kafka broker", "text", fmt.Sprintf(text, args...))
}
