//go:build linux && amd64 && !noengines

// Below the story: processes that we start, watch and never leave behind.

package engines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// maxLogBytes is where a child's log begins anew; the old one stays beside it as .1, so twice that is the most.
	maxLogBytes = 16 << 20
	// logCheck is how often a running child's log is measured.
	logCheck = 30 * time.Second
	// tailBytes is how much of a child's log an error carries.
	tailBytes = 4 << 10
)

// child is a process whose end is always noticed, and which never outlives this one.
type child struct {
	name string
	cmd  *exec.Cmd
	log  *childLog
	// ended is closed when the process is gone; err is its exit then.
	ended chan struct{}
	err   error
}

// spawn starts a process that holds the directory's lock, in a group of its own (a terminal's Ctrl-C must reach it
// only through an ordered stop), with both outputs in its log.
func (s *station) spawn(name string, cmd *exec.Cmd, log *childLog) (*child, error) {
	cmd.ExtraFiles = []*os.File{s.lock}
	cmd.Stdout, cmd.Stderr = log.file, log.file
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	c := &child{name: name, cmd: cmd, log: log, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the parent-death signal when the starting *thread* ends. Locked and waiting here, it ends
		// with the child at the earliest.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
		}
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// run spawns a process that ends by itself, and waits for it; a cancelled context kills it with its own children.
func (s *station) run(ctx context.Context, name string, cmd *exec.Cmd, log *childLog) error {
	c, err := s.spawn(name, cmd, log)
	if err != nil {
		return err
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		err := c.kill()
		<-c.ended
		return errors.Join(fmt.Errorf("%s: %w", name, context.Cause(ctx)), err)
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w, its log ends:\n%s", name, c.err, log.tail())
	}
	return nil
}

// kill ends the process's whole group at once.
func (c *child) kill() error {
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	return nil
}

// signal sends one signal to the process itself; one that is already gone is no error.
func (c *child) signal(signal syscall.Signal) error {
	if err := c.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", c.name, err)
	}
	return nil
}

// waitOrKill waits for a process that was asked to end, and kills it when the context is over.
func (c *child) waitOrKill(ctx context.Context) error {
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		err := c.kill()
		<-c.ended
		return errors.Join(fmt.Errorf("%s did not end in time and was killed", c.name), err)
	}
}

// failure describes a child that ended without being asked to.
func (c *child) failure() error {
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s ended by itself (%s), its log (%s) ends:\n%s", c.name, how, c.log.path, c.log.tail())
}

// keepLogSmall returns when the child has ended, or when everything was stopped, and bounds its log until then.
func (c *child) keepLogSmall(stopped <-chan struct{}) {
	measure := time.NewTicker(logCheck)
	defer measure.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-stopped:
			return
		case <-measure.C:
			if err := c.log.bound(maxLogBytes); err != nil {
				fmt.Fprintf(c.log.file, "bound this log: %v\n", err)
			}
		}
	}
}

// childLog is the file that a child writes to by itself, so that it can still write when this process is dead.
type childLog struct {
	path string
	file *os.File
	// since is where this run's lines begin.
	since int64
}

// openLog opens a child's log for appending, and begins a new one where the old has grown too large.
func openLog(path string) (*childLog, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a log: %w", err)
	}
	l := &childLog{path: path, file: file}
	if err := l.bound(maxLogBytes); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a log: %w", err), file.Close())
	}
	l.since = info.Size()
	return l, nil
}

// close may be called on a log that was never opened.
func (l *childLog) close() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// bound moves a large log's text aside. The child keeps its open file, so the text is copied and the file emptied;
// what the child writes in between is lost, which a log may.
func (l *childLog) bound(limit int64) error {
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("measure %s: %w", filepath.Base(l.path), err)
	}
	if info.Size() <= limit {
		return nil
	}
	old, err := os.OpenFile(l.path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the old log: %w", err)
	}
	_, err = io.Copy(old, io.NewSectionReader(l.file, max(0, info.Size()-limit), limit))
	if err := errors.Join(err, old.Close()); err != nil {
		return fmt.Errorf("keep the old log: %w", err)
	}
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("empty %s: %w", filepath.Base(l.path), err)
	}
	return nil
}

// tail is the end of what the child has written in this run.
func (l *childLog) tail() string {
	info, err := l.file.Stat()
	if err != nil {
		return "(" + err.Error() + ")"
	}
	from := l.since
	if info.Size() < from { // it was emptied meanwhile
		from = 0
	}
	from = max(from, info.Size()-4*tailBytes)
	text := make([]byte, info.Size()-from)
	n, err := l.file.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return "(" + err.Error() + ")"
	}
	if n == 0 {
		return "(empty)"
	}
	var lines strings.Builder
	for line := range strings.Lines(string(text[:n])) {
		// ClickHouse's stack traces carry addresses without names, and would fill the whole tail.
		if !strings.Contains(line, ". ? @ 0x") {
			lines.WriteString(line)
		}
	}
	kept := lines.String()
	return kept[max(0, len(kept)-tailBytes):]
}
