package api

// This file stands before the door: those who wait for a place inside. Each key has a queue of its own, and the keys take
// turns, so that one that sends far too much takes the places from itself and not from others.

import "slices"

// line is who waits. Its zero value is empty.
type line struct {
	count  int
	queues map[string]*queue
	turns  []*queue // of the keys; the next one first
}

// queue is who waits with one key, the one who came first at the front.
type queue struct {
	whose   string
	waiting []*waiter
}

// waiter is one who waits. called takes one word without anybody listening: in, or away.
type waiter struct {
	whose  string
	called chan bool
}

func (l *line) add(whose string) *waiter {
	w := &waiter{whose: whose, called: make(chan bool, 1)}
	q := l.queues[whose]
	if q == nil {
		q = &queue{whose: whose}
		if l.queues == nil {
			l.queues = map[string]*queue{}
		}
		l.queues[whose] = q
		l.turns = append(l.turns, q)
	}
	q.waiting = append(q.waiting, w)
	l.count++
	return w
}

// next takes the one out whose turn it is. There must be somebody.
func (l *line) next() *waiter {
	q := l.turns[0]
	w := q.waiting[0]
	if len(q.waiting) > 1 {
		l.turns = append(l.turns[1:], q)
	}
	l.remove(w)
	return w
}

// greedier is the queue of another key that has at least two more in line, the longest of those; nil for none.
func (l *line) greedier(whose string) *queue {
	own := 0
	if q := l.queues[whose]; q != nil {
		own = len(q.waiting)
	}
	var longest *queue
	for _, q := range l.turns {
		if len(q.waiting) > own+1 && (longest == nil || len(q.waiting) > len(longest.waiting)) {
			longest = q
		}
	}
	return longest
}

// sendAway tells the last one of a key that there is no place.
func (l *line) sendAway(q *queue) {
	last := q.waiting[len(q.waiting)-1]
	l.remove(last)
	last.called <- false
}

// remove takes one out, unless somebody has done so before.
func (l *line) remove(w *waiter) bool {
	q := l.queues[w.whose]
	if q == nil {
		return false
	}
	i := slices.Index(q.waiting, w)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if l.count--; len(q.waiting) == 0 {
		delete(l.queues, w.whose)
		l.turns = slices.DeleteFunc(l.turns, func(other *queue) bool { return other == q })
	}
	return true
}
