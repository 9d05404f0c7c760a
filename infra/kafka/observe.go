package kafka

// This file stands beside the fold: what those hear of batches who watch a node.

import "time"

// Observer is told of batches. Its methods must not block.
type Observer interface {
	// Applied: the handler has taken a batch.
	Applied(consumer string, records int, took time.Duration)
	// NotApplied: it has not, and the batch comes again.
	NotApplied(consumer string)
}

// nobody watches.
type nobody struct{}

func (nobody) Applied(string, int, time.Duration) {}
func (nobody) NotApplied(string)                  {}
