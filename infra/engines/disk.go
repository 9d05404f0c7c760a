//go:build linux && amd64 && !noengines

// Below the story: the log takes no record that its disk may not hold.

package engines

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// logReserve is what must be free for the log to take a record. The broker goes on where a write fails in the middle, but
// its index may be left with half an entry; so it is never let come that far. A record has at most 4 MiB.
const logReserve = 16 << 20

// reserve answers every record with an error while the disk is nearly full. Nodes answer 503 then, and go on by themselves
// when there is room again.
type reserve struct {
	folder string
	logger *slog.Logger
	full   bool // touched by the broker's own goroutine alone
}

// guard has the broker refuse records before it has done anything with them.
func (r *reserve) guard(cluster *kfake.Cluster) {
	cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.KafkaStorageError, Count: -1,
		When: func(kmsg.Request) bool { return r.isFull() },
	})
}

func (r *reserve) isFull() bool {
	var disk syscall.Statfs_t
	err := syscall.Statfs(r.folder, &disk)
	free := disk.Bavail * uint64(disk.Bsize)
	full := err != nil || free < logReserve
	if full != r.full {
		r.full = full
		if full {
			r.logger.LogAttrs(context.Background(), slog.LevelError, "the log takes no more records: its disk is full",
				slog.String("folder", r.folder), slog.String("free", fmt.Sprintf("%d KiB", free>>10)), slog.String("needed", fmt.Sprintf("%d MiB", logReserve>>20)), slog.Any("error", err))
		} else {
			r.logger.LogAttrs(context.Background(), slog.LevelInfo, "the log takes records again", slog.String("folder", r.folder))
		}
	}
	return full
}
