package backup

// This file is a backup from its beginning to its end.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
)

// longWork bounds one statement of a backup or a restore.
const longWork = 12 * time.Hour

// segmentBytes is how much of a partition goes into a file, before it is compressed: what an interrupted backup has to
// copy again of it.
const segmentBytes = 256 << 20

var (
	// ErrOtherLog: the directory holds the backup of another log, or this log is not what it was.
	ErrOtherLog = errors.New("the log is not the one that the directory has a backup of")
	// ErrBusy: another process is at it.
	ErrBusy = errors.New("another backup or restore is under way")
)

// Backup copies an installation into a directory.
type Backup struct {
	Dir     string
	Prefix  string // of the log's topics
	Cluster *kafka.Cluster
	Pool    *pgxpool.Pool
	// ClickHouse may be nil: then the request log stays as the directory has it.
	ClickHouse *clickhouse.Client
	Keys       keyring.BackupKeys
	// SegmentBytes is how much of a partition goes into one file. 0 is the default.
	SegmentBytes int64
	// Patience is how long nothing may move. 0 is for ever.
	Patience time.Duration
	Out      io.Writer // is told what was done
	Progress *progress.Progress
	Logger   *slog.Logger
}

// Run brings the directory's backup up to date, or makes the first one. Nothing that an earlier run has finished is
// touched before this one has, too.
func (b Backup) Run(ctx context.Context) (*Manifest, error) {
	ctx, stop := b.Progress.Watch(ctx, b.Patience)
	defer stop()
	alone, err := postgres.HoldAlone(ctx, b.Pool, ErrBusy, postgres.BackupLock)
	if err != nil {
		return nil, err
	}
	defer alone()
	if err := postgres.Restored(ctx, b.Pool); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory: %w", err)
	}
	to, err := openFolder(b.Dir, b.Keys)
	if err != nil {
		return nil, err
	}
	before, err := b.before(ctx)
	if err != nil {
		return nil, err
	}
	m := &Manifest{ID: newID(), Began: time.Now().UTC().Truncate(time.Millisecond), Prefix: b.Prefix, Requests: before.Requests}
	if err := b.copy(ctx, to, before, m); err != nil {
		return nil, err
	}
	if err := m.save(b.Dir, manifestName, b.Keys); err != nil {
		return nil, err
	}
	if err := m.sweep(b.Dir); err != nil { // the backup is whole; what is left over only takes room
		b.Logger.WarnContext(ctx, "files of earlier backups not removed", "dir", b.Dir, "error", err)
	}
	return m, nil
}

// copy goes against the direction of the story: see the package's comment.
func (b Backup) copy(ctx context.Context, to folder, before, m *Manifest) error {
	if err := b.tables(ctx, to, m, consequences); err != nil {
		return err
	}
	m.Taken = time.Now().UTC().Truncate(time.Millisecond)
	logs := logCopy{Backup: b, to: to, before: before, manifest: m}
	for _, topic := range []struct{ name, topic string }{{controlTopic, b.Cluster.Control()}, {eventsTopic, b.Cluster.Events()}} {
		if err := logs.topic(ctx, topic.name, topic.topic); err != nil {
			return err
		}
	}
	if err := b.tables(ctx, to, m, causes); err != nil {
		return err
	}
	if b.ClickHouse == nil {
		return nil
	}
	return b.requests(ctx, to, m)
}

// before is what the directory has: a finished backup, or a part of the log of one that was interrupted, or nothing.
func (b Backup) before(ctx context.Context) (*Manifest, error) {
	found, err := Load(b.Dir, b.Keys)
	switch {
	case errors.Is(err, ErrNoBackup):
		if err := isFree(b.Dir); err != nil {
			return nil, err
		}
		found = &Manifest{Prefix: b.Prefix}
	case err != nil:
		return nil, err
	}
	unfinished, err := load(b.Dir, partialName, b.Keys)
	switch {
	case err == nil && unfinished.Prefix == b.Prefix && unfinished.topic(eventsTopic).records() >= found.topic(eventsTopic).records():
		found.Log = unfinished.Log
		_, _ = fmt.Fprintf(b.Out, "going on behind the %d events that an interrupted backup has copied\n", found.topic(eventsTopic).records())
	case err != nil && !errors.Is(err, ErrNoBackup):
		b.Logger.WarnContext(ctx, "what an interrupted backup left is of no use", "error", err)
	}
	if found.Prefix != b.Prefix {
		return nil, fmt.Errorf("%w: its topics are %s's, not %s's", ErrOtherLog, found.Prefix, b.Prefix)
	}
	for _, file := range found.files() {
		if info, err := os.Stat(filepath.Join(b.Dir, filepath.FromSlash(file.Name))); err != nil {
			return nil, fmt.Errorf("%w: %w; make a new one in an empty directory", ErrDamaged, err)
		} else if info.Size() != file.Bytes {
			return nil, fmt.Errorf("%w: %s has %d bytes instead of %d; make a new one in an empty directory", ErrDamaged, file.Name, info.Size(), file.Bytes)
		}
	}
	return found, nil
}

// isFree refuses a directory in which something else is. A backup that was interrupted may be there.
func isFree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at the directory: %w", err)
	}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), temporary)
		if !slices.Contains(folders, name) && name != partialName && name != manifestName && name != "lost+found" {
			return fmt.Errorf("%s has no backup, but holds %q: choose an empty directory", dir, entry.Name())
		}
	}
	return nil
}

// newID names a backup, later ones behind earlier ones.
func newID() string {
	return time.Now().UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:8])
}
