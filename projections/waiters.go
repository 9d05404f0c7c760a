package projections

// This file stands behind the append: who waits for which offset of a partition, and what is remembered of it.

import (
	"container/heap"
	"slices"
	"sort"
)

// remember is how many offsets' outcomes a partition keeps in memory: those of commits whose writer had not begun to
// wait when they were folded.
const remember = 1 << 16

// waiter waits for the offsets first to last to be folded. told gets the rejected ones among them, or is closed where
// they were passed and must be asked for, or, with blind, where nobody can say.
type waiter struct {
	first, last int64
	since       int64 // the interval in which it came
	told        chan []int64
	blind       bool // set before told is closed
	place       int  // in the heap
}

// partition is what is known of one partition of the log.
type partition struct {
	passed   int64   // the checkpoint, as far as is known
	from     int64   // the outcomes of the offsets from here to passed are remembered:
	rejected []int64 // these lost, in order
	waiters  queue
}

func newPartition() *partition { return &partition{passed: -1, from: 0} }

// advance takes an announcement in. One that does not begin where the last one ended follows a lost one, or tells of a
// fold that began anew; what was remembered does not reach to it then.
func (p *partition) advance(news announcement) {
	if news.Last <= p.passed {
		return // read from the checkpoints already
	}
	if news.First != p.passed+1 {
		p.from, p.rejected = news.First, nil
	}
	p.passed = news.Last
	p.rejected = append(p.rejected, news.Rejected...)
	if p.passed-p.from > 2*remember {
		p.from = p.passed - remember
		p.rejected = slices.Clone(p.rejected[p.after(p.from):])
	}
	p.tell()
}

// set takes a checkpoint in that was read from the table: who lost on the way there is not known.
func (p *partition) set(off int64) {
	if off == p.passed {
		return
	}
	p.passed, p.from, p.rejected = off, off+1, nil
	p.tell()
}

// tell releases the waiters that the checkpoint has passed.
func (p *partition) tell() {
	for len(p.waiters) > 0 && p.waiters[0].last <= p.passed {
		w := heap.Pop(&p.waiters).(*waiter)
		if rejected, known := p.remembered(w.first, w.last); known {
			w.told <- rejected
		} else {
			close(w.told)
		}
	}
}

// remembered returns which of the passed offsets lost, if that is known.
func (p *partition) remembered(first, last int64) (rejected []int64, known bool) {
	if first < p.from {
		return nil, false
	}
	return slices.Clone(p.rejected[p.after(first):p.after(last+1)]), true
}

// after is the place of the first rejected offset that is not below off.
func (p *partition) after(off int64) int {
	return sort.Search(len(p.rejected), func(i int) bool { return p.rejected[i] >= off })
}

// dismiss sends waiters away without an answer.
func (p *partition) dismiss(which func(*waiter) bool) {
	for _, w := range slices.Clone(p.waiters) {
		if which(w) {
			heap.Remove(&p.waiters, w.place)
			w.blind = true
			close(w.told)
		}
	}
}

func (p *partition) add(w *waiter) { heap.Push(&p.waiters, w) }

// remove takes a waiter out that has given up; one that has been told is not there any more.
func (p *partition) remove(w *waiter) {
	if w.place < len(p.waiters) && p.waiters[w.place] == w {
		heap.Remove(&p.waiters, w.place)
	}
}

// queue is a heap of waiters, the lowest last offset first.
type queue []*waiter

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].last < q[j].last }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(w any) {
	added := w.(*waiter)
	added.place = len(*q)
	*q = append(*q, added)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	w.place = len(*q)
	return w
}
