package replay

// This file stands beside such a fold: how far it is, and how long it will take.

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress prints a line every second while records are folded. A nil Progress prints nothing.
type Progress struct {
	Out io.Writer

	mu      sync.Mutex
	what    string
	total   int64
	done    int64
	began   time.Time
	printed time.Time
}

// Begin starts to count anew, of so many records.
func (p *Progress) Begin(what string, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.total, p.done, p.began = what, total, 0, time.Now()
	p.printed = p.began
}

func (p *Progress) add(records int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += int64(records)
	if time.Since(p.printed) >= time.Second {
		p.printed = time.Now()
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
	p.print()
}

func (p *Progress) print() {
	if p.total <= 0 {
		return
	}
	took := time.Since(p.began)
	rate := float64(p.done) / max(took.Seconds(), 1e-3)
	left := "done"
	if p.done < p.total && p.done > 0 {
		left = (time.Duration(float64(p.total-p.done) / rate * float64(time.Second))).Round(time.Second).String() + " left"
	}
	_, _ = fmt.Fprintf(p.Out, "%s: %d of %d events (%d %%), %.0f events/s, %s\n", p.what, p.done, p.total, 100*p.done/p.total, rate, left)
}
