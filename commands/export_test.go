package commands

// This file lets the tests at the package's doors look behind four of them.

import (
	"context"

	"github.com/nidohq/nido/domain"
)

// Suggestions are the slugs that a name suggests.
var Suggestions = suggestions

// Enter waits for a stream's turn.
func (q *Queue) Enter(ctx context.Context, stream domain.StreamID) (func(), error) {
	return q.enter(ctx, stream)
}

// Lanes counts the streams that somebody works on or waits for.
func (q *Queue) Lanes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lanes)
}

// Once does one round of both ways.
func (e *Eraser) Once(ctx context.Context) []error {
	return []error{e.conversations(ctx), e.accounts(ctx)}
}
