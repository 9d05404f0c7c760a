package api

// This file stands at the door: which keys the node has found good lately. They wait in queues of their own, and all others
// share one, so that whoever invents keys takes places from those who come for the first time and from nobody else. It is
// for nothing more: what a key opens is looked up every time.

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/nidohq/nido/domain/apikey"
)

const (
	// knownFor is for how long a key stays known at least; it is known for twice that at most.
	knownFor = 10 * time.Minute
	// maxKnown bounds how many keys are remembered of each of the two periods. A key takes about 50 bytes.
	maxKnown = 50_000
)

// strangers is the name of the queue that unknown keys share.
const strangers = ""

// acquaintances are the keys that were found good in this period and in the one before. They are known by the hash of the
// whole key: its public id is in lists and logs, and whoever has only that is a stranger.
type acquaintances struct {
	mu          sync.Mutex
	since       time.Time // the period's beginning
	now, before map[[sha256.Size]byte]struct{}
}

// met notes that a key was found good.
func (a *acquaintances) met(key apikey.Key, at time.Time) {
	hash := [sha256.Size]byte(key.Hash())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now == nil || at.Sub(a.since) > knownFor || len(a.now) >= maxKnown {
		a.before, a.now, a.since = a.now, map[[sha256.Size]byte]struct{}{}, at
	}
	a.now[hash] = struct{}{}
}

// queueOf names the queue in which a key waits.
func (a *acquaintances) queueOf(key apikey.Key) string {
	hash := [sha256.Size]byte(key.Hash())
	a.mu.Lock()
	defer a.mu.Unlock()
	_, lately := a.now[hash]
	if _, before := a.before[hash]; lately || before {
		return key.PublicID
	}
	return strangers
}
