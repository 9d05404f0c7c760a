package kafka

// This file stands beside the fold: how far it has come, for readiness, metrics and operators.

import (
	"cmp"
	"slices"
	"sync"
)

// Status is how a consumer stands.
type Status struct {
	Topic string
	Group string
	// Outage is why the log cannot be consumed right now, or nil.
	Outage error
	// Partitions are those assigned to this process, in order. None while the group rebalances.
	Partitions []PartitionStatus
}

// PartitionStatus is how one partition stands.
type PartitionStatus struct {
	Partition int32
	Position  int64 // the offset of the last record that was folded, -1 for none
	Lag       int64 // records behind it that are known to be in the log
	Waiting   error // why the handler's store does not take the batch right now, or nil
	Stopped   error // why this partition is not folded until the next assignment, or nil
}

// Status may be called at any time.
func (c *Consumer) Status() Status {
	c.board.mu.Lock()
	defer c.board.mu.Unlock()
	status := Status{Topic: c.Topic, Group: c.group, Outage: c.board.broken}
	for partition, place := range c.board.places {
		place.mu.Lock()
		status.Partitions = append(status.Partitions, PartitionStatus{
			Partition: partition, Position: place.position, Lag: max(0, place.end()-1-place.position),
			Waiting: place.waiting, Stopped: place.stopped,
		})
		place.mu.Unlock()
	}
	slices.SortFunc(status.Partitions, func(a, b PartitionStatus) int { return cmp.Compare(a.Partition, b.Partition) })
	return status
}

// board is what Status reads.
type board struct {
	mu     sync.Mutex
	broken error
	places map[int32]*place
}

func (b *board) outage(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
	if err != nil {
		b.places = nil
	}
}

func (b *board) assign(partitions []int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.places = make(map[int32]*place, len(partitions))
	for _, partition := range partitions {
		b.places[partition] = &place{position: -1, end: func() int64 { return 0 }}
	}
}

func (b *board) clear() { b.assign(nil) }

func (b *board) place(partition int32) *place {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.places[partition]
}

// place is one partition on the board.
type place struct {
	mu       sync.Mutex
	position int64
	end      func() int64
	waiting  error
	stopped  error
}

func (p *place) moved(position int64) { p.mu.Lock(); p.position = position; p.mu.Unlock() }

func (p *place) watch(end func() int64) { p.mu.Lock(); p.end = end; p.mu.Unlock() }

func (p *place) wait(err error) { p.mu.Lock(); p.waiting = err; p.mu.Unlock() }

func (p *place) stop(err error) { p.mu.Lock(); p.stopped = err; p.mu.Unlock() }
