//go:build linux && amd64 && !noengines

// Below the story: one data directory belongs to one set of engines.

package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// lockPoll is how often a held lock is tried again.
	lockPoll = 50 * time.Millisecond
	// orphanWait is how long children are waited for whose process has been killed: they end by themselves, but Postgres
	// writes down what it has in memory before, and on a slow disk that takes its time.
	orphanWait = time.Minute
)

// acquire takes the lock of a data directory. Both children inherit the open file, so the lock is held until the last
// of them is dead, also when this process is killed: nobody can start a second Postgres or broker on the same files.
func acquire(ctx context.Context, dir string, wait time.Duration) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := waitForLock(ctx, file, dir, wait); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := writeHolder(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func waitForLock(ctx context.Context, file *os.File, dir string, wait time.Duration) error {
	began, deadline := time.Now(), time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock of %s: %w", dir, context.Cause(ctx))
		case <-deadline.C:
			by, orphans := holder(dir)
			if left := orphanWait - time.Since(began); orphans && left > 0 {
				deadline.Reset(left)
				continue
			}
			return fmt.Errorf("%w: %s is held by %s (waited %v); stop it, or choose another directory", ErrInUse, dir, by, time.Since(began).Round(lockPoll))
		case <-poll.C:
		}
	}
}

// writeHolder leaves this process's number in the lock file, for the message of whoever is refused.
func writeHolder(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	return nil
}

// holder names who has the lock, as far as the lock file tells, and says whether only children of a dead process do.
func holder(dir string) (by string, orphans bool) {
	text, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		return "another process", false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return "another process", false
	}
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return fmt.Sprintf("engines that process %d left behind when it died", pid), true
	}
	return fmt.Sprintf("process %d", pid), false
}
