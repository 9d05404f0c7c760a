package api

// This file stands at the door: a gate that finds out how many requests it may let in at a time, and lets others wait in a
// line no longer than it will see served.

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// gateConfig is how a gate measures.
type gateConfig struct {
	least, most int           // how many may be inside; it begins with the least
	target      time.Duration // what half of them may take; or slack times what they take when there are few
	// patience is how long others may have to wait outside. That is for what comes at once and is soon done; where somebody
	// has been refused lately there is no end to those who come, and who waits then is only late: crowdedPatience is what is
	// left, enough for a place to become free for whoever is next.
	patience, crowdedPatience time.Duration
}

const (
	// slack is how many times longer than on an idle node work may take before the gate lets fewer in.
	slack = 3
	// sampled is how many requests the gate looks at together.
	sampled = 64
	// fewOf is by how much fewer than the least limit few are.
	fewOf = 4
	// crowdedFor is for how long a refusal says that there is too much to do.
	crowdedFor = time.Second
	// leastRoom is how many may stand outside whatever they take: keys can only take turns where some wait.
	leastRoom = 4
	// stuckAfter is for how long an end counts.
	stuckAfter = time.Second
)

// gate lets requests in. How many depends on what they take: more where there is no room and they are quick, fewer where
// they become slow.
type gate struct {
	gateConfig
	mu      sync.Mutex
	limit   float64
	inside  int
	waiting line
	took    []time.Duration // of the sample
	since   time.Time       // the sample's beginning
	peak    int             // how many were inside at most during the sample
	full    bool            // the limit was reached during the sample
	pace    time.Duration   // in which one was let out, in the last sample
	half    time.Duration   // what half of the last sample took
	idle    time.Duration   // what half of a sample takes where there are few
	refused time.Time       // when somebody was last sent away
}

func newGate(c gateConfig) gate { return gate{gateConfig: c, limit: float64(c.least)} }

// enter lets a request in, or does not: at once, where the line outside is longer than what its patience will see served.
// leave is to be called once. whose says who shares a place in the line.
func (g *gate) enter(ctx context.Context, whose string) (leave func(), ok bool) {
	if g == nil {
		return func() {}, true
	}
	if !g.pass(ctx, whose) {
		return nil, false
	}
	began := time.Now()
	return func() { g.leave(time.Since(began)) }, true
}

func (g *gate) pass(ctx context.Context, whose string) bool {
	g.mu.Lock()
	if g.inside < int(g.limit) {
		g.goIn()
		g.mu.Unlock()
		return true
	}
	g.full = true
	mine, patience := g.queue(whose)
	g.mu.Unlock()
	if mine == nil {
		return false
	}
	alarm := time.NewTimer(patience)
	defer alarm.Stop()
	late := false
	select {
	case in := <-mine.called:
		return in
	case <-alarm.C:
		late = true
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.waiting.remove(mine) {
		return <-mine.called // at the last moment
	}
	if late {
		g.refused = time.Now()
	}
	return false
}

// queue gives a place in line, nil for none, and says for how long.
func (g *gate) queue(whose string) (*waiter, time.Duration) {
	now := time.Now()
	patience, crowded := g.patience, now.Sub(g.refused) < crowdedFor
	if crowded {
		patience = g.crowdedPatience
	}
	greedier := g.waiting.greedier(whose)
	if g.waiting.count >= g.room(patience, crowded) {
		g.refused = now
		if greedier == nil {
			return nil, 0
		}
		g.waiting.sendAway(greedier)
	}
	if greedier != nil { // it is not this key's doing that there is a crowd
		patience = g.patience
	}
	return g.waiting.add(whose), patience
}

// back lets one in again that was let in before, whether or not there is room: what has been begun is brought to its end,
// and others wait for it. One that takes very long waits for something itself, and is no load any more. What it takes says
// nothing about those who are let in. leave is to be called once.
func (g *gate) back() (leave func()) {
	g.mu.Lock()
	g.goIn()
	g.mu.Unlock()
	once := sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.inside--
		g.call()
	})
	stuck := time.AfterFunc(stuckAfter, once)
	return func() {
		stuck.Stop()
		once()
	}
}

// room is how many may stand outside: as many as are let in during their patience, when all that are inside slow each other
// down, and no more than have been of late where there is a crowd. Of those that are refused hardly anybody has waited, and of
// those that wait nearly everybody is served.
func (g *gate) room(patience time.Duration, crowded bool) int {
	inside := max(g.half, 3*g.target/2) // the target is for the quicker half
	room := int(g.limit * float64(patience) / float64(inside))
	if crowded && g.pace > 0 {
		room = min(room, int(patience/g.pace))
	}
	return max(leastRoom, room)
}

func (g *gate) leave(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.took = append(g.took, took); len(g.took) == sampled {
		g.adjust()
	}
	g.call()
}

// call lets in whom there is room for.
func (g *gate) call() {
	for g.waiting.count > 0 && g.inside < int(g.limit) {
		g.goIn()
		g.waiting.next().called <- true
	}
}

func (g *gate) goIn() {
	g.inside++
	g.peak = max(g.peak, g.inside)
}

// adjust draws the conclusion from a sample.
func (g *gate) adjust() {
	slices.Sort(g.took)
	half, now := g.took[sampled/2], time.Now()
	g.half = half
	if !g.since.IsZero() {
		g.pace = now.Sub(g.since) / sampled
	}
	switch {
	case g.idle == 0 && g.peak <= g.least/fewOf || half < g.idle:
		g.idle = half
	case g.peak <= g.least/fewOf: // what is slower where there are few is slow by itself
		g.idle += (half - g.idle) / 8
	}
	switch allowed := max(g.target, slack*g.idle); {
	case half > allowed:
		g.limit = max(float64(g.least), g.limit*0.9)
	case g.full && half < allowed*3/4:
		g.limit = min(float64(g.most), g.limit+math.Sqrt(g.limit))
	}
	g.took, g.full, g.peak, g.since = g.took[:0], false, g.inside, now
}
