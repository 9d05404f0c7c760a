package commands

// This file stands before the decision: commands of one node on one stream go one after the other, so that they do not
// make each other lose. Other nodes are kept apart by the log alone; correctness never rests on this queue.

import (
	"context"
	"sync"

	"github.com/nidohq/nido/domain"
)

// Queue lets one command at a time work on a stream.
type Queue struct {
	mu    sync.Mutex
	lanes map[domain.StreamID]*lane
}

type lane struct {
	turn  chan struct{} // holds one token while nobody works
	users int           // working or waiting; the lane goes with the last of them
}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{lanes: map[domain.StreamID]*lane{}} }

// enter waits for the stream's turn and returns how to give it back.
func (q *Queue) enter(ctx context.Context, stream domain.StreamID) (leave func(), err error) {
	q.mu.Lock()
	l, ok := q.lanes[stream]
	if !ok {
		l = &lane{turn: make(chan struct{}, 1)}
		l.turn <- struct{}{}
		q.lanes[stream] = l
	}
	l.users++
	q.mu.Unlock()

	select {
	case <-l.turn:
		return func() { l.turn <- struct{}{}; q.drop(stream, l) }, nil
	case <-ctx.Done():
		q.drop(stream, l)
		return nil, context.Cause(ctx)
	}
}

func (q *Queue) drop(stream domain.StreamID, l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(q.lanes, stream)
	}
}
