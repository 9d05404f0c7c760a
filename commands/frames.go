package commands

// This file stands between a turn and its model: where many turns speak, their text is written down once a frame, and what a
// model says earlier than just before that nobody gets to see. So the turns read what their models said all at once then,
// instead of token by token, each of which would be a goroutine that wakes.

import (
	"context"
	"sync"
	"time"
)

// frames are what turns rest for. Each ends when the keeper says, and the next one begins with it; one of which the keeper
// says nothing ends by itself and is the last: then the keeper waits for its store, and nobody may wait for the keeper.
type frames struct {
	mu    sync.Mutex
	over  chan struct{} // closed with the frame; nil where nobody rests
	timer *time.Timer
	told  bool // the keeper has said when this frame ends
}

// end says in what time the frame ends.
func (f *frames) end(in time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = true
	if f.over == nil {
		f.over = make(chan struct{})
	}
	if f.timer == nil {
		f.timer = time.AfterFunc(in, f.next)
		return
	}
	f.timer.Reset(in)
}

func (f *frames) next() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		close(f.over)
		f.over = nil
	}
	if f.told {
		f.told, f.over = false, make(chan struct{})
		f.timer.Reset(longKeepPause)
	}
}

// rest waits for the end of the frame.
func (f *frames) rest(ctx context.Context) {
	f.mu.Lock()
	over := f.over
	f.mu.Unlock()
	if over == nil {
		return
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
}
