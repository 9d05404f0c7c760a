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
	// patience is how long the line outside may be, in what it takes to let it in. That is for what comes at once and is soon
	// done; where there is no end to those who come, who waits is only late: crowdedPatience is what is left, enough for
	// somebody to be there when a place becomes free.
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
	// looks is how many times the line is looked at within the patience, and after how many in succession at which it has
	// grown there is no end to those who come. grownBy is the part of the limit that counts as grown.
	looks   = 5
	crowdAt = 3
	grownBy = 10
	// lateBy is how many times the patience somebody waits who has a place in line: they are to be served, also where it moves
	// more slowly than it did. In a crowd it is once: who has not been let in by then is before a node that is stuck.
	lateBy = 2
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
	moves   time.Duration   // in which one is let in where there has been a line all the time; else what is to be expected
	half    time.Duration   // what half of the last sample took
	idle    time.Duration   // what half of a sample takes where there are few
	refused time.Time       // when somebody was last sent away
	stands  time.Time       // when somebody came who found nobody in line
	looked  time.Time       // when the line was last looked at
	length  int             // how long it was
	grown   int             // at how many looks in succession it has been longer than before
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
	if g.waiting.count == 0 {
		g.stands = now
	}
	g.look(now)
	crowded := g.grown >= crowdAt || now.Sub(g.refused) < crowdedFor
	greedier := g.waiting.greedier(whose)
	if g.waiting.count >= g.room(crowded) {
		g.refused = now
		if greedier == nil {
			return nil, 0
		}
		g.waiting.sendAway(greedier)
	}
	patience := lateBy * g.patience
	if crowded && greedier == nil { // else it is not this key's doing that there is a crowd
		patience = g.patience
	}
	return g.waiting.add(whose), patience
}

// look sees now and then whether the line has grown. What comes at once makes it grow once or twice, and those who come
// back when they have been answered not at all.
func (g *gate) look(now time.Time) {
	since, often := now.Sub(g.looked), g.patience/looks
	if since < often {
		return
	}
	if since < 2*often && g.waiting.count >= g.length+int(g.limit/grownBy) {
		g.grown++
	} else {
		g.grown = 0
	}
	g.looked, g.length = now, g.waiting.count
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

// room is how many may stand outside: as many as are let in during the patience, and where there is a crowd no more than
// have been of late. Of those that are refused hardly anybody has waited, and of those that wait nearly everybody is served.
func (g *gate) room(crowded bool) int {
	patience, pace := g.patience, g.moves
	if crowded {
		patience, pace = g.crowdedPatience, g.pace
	}
	room := int(g.limit * float64(patience) / float64(g.crush()))
	if pace > 0 {
		room = min(room, int(patience/pace))
	}
	return max(leastRoom, room)
}

// crush is how long somebody is inside when all that are slow each other down. The target is for the quicker half.
func (g *gate) crush() time.Duration { return max(g.half, 3*g.target/2) }

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
	if usual := time.Duration(float64(g.crush()) / g.limit); g.waiting.count == 0 || g.stands.After(g.since) {
		g.moves = usual
	} else {
		g.moves += (g.pace - g.moves) / 4 // places become free in bundles
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
