// Package progress stands beside operators' long commands: how far one is, how long it will take, and whether it moves
// at all.
package progress

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress prints a line every second. A nil Progress prints nothing.
type Progress struct {
	Out io.Writer

	mu      sync.Mutex
	what    string
	unit    string
	total   int64
	done    int64
	bytes   int64
	began   time.Time
	printed time.Time
	moved   time.Time
}

// Begin starts to count anew. A total of zero is one that nobody knows.
func (p *Progress) Begin(what, unit string, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.unit, p.total, p.done, p.bytes, p.began = what, unit, total, 0, 0, time.Now()
	p.printed, p.moved = p.began, p.began
}

// Add counts what has been done, and how many plain bytes that was, where they matter.
func (p *Progress) Add(done int64, bytes int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += done
	p.bytes += int64(bytes)
	p.moved = time.Now()
	if p.moved.Sub(p.printed) >= time.Second {
		p.printed = p.moved
		p.print()
	}
}

// End prints how it went.
func (p *Progress) End() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved = time.Now()
	p.print()
}

func (p *Progress) print() {
	took := max(time.Since(p.began).Seconds(), 1e-3)
	line := fmt.Sprintf("%s: %d", p.what, p.done)
	if p.total > 0 {
		line += fmt.Sprintf(" of %d %s (%d %%)", p.total, p.unit, 100*p.done/p.total)
	} else {
		line += " " + p.unit
	}
	line += fmt.Sprintf(", %.0f %s/s", float64(p.done)/took, p.unit)
	if p.bytes > 0 {
		line += fmt.Sprintf(", %.1f MB, %.1f MB/s", float64(p.bytes)/1e6, float64(p.bytes)/1e6/took)
	}
	if p.done > 0 && p.done < p.total {
		line += ", " + time.Duration(took/float64(p.done)*float64(p.total-p.done)*float64(time.Second)).Round(time.Second).String() + " left"
	}
	_, _ = fmt.Fprintln(p.Out, line)
}

// Watch ends a context when nothing has moved for too long: a store that hangs must not hang the command. No patience is
// for ever.
func (p *Progress) Watch(ctx context.Context, patience time.Duration) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	if p == nil || patience <= 0 {
		return watched, func() { cancel(nil) }
	}
	p.mu.Lock()
	p.moved = time.Now()
	p.mu.Unlock()
	ticker := time.NewTicker(min(patience, time.Second))
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-ticker.C:
			}
			p.mu.Lock()
			still, what := time.Since(p.moved), p.what
			p.mu.Unlock()
			if still > patience {
				cancel(fmt.Errorf("%s: nothing has moved for %s", what, patience))
				return
			}
		}
	}()
	return watched, func() { cancel(nil) }
}
