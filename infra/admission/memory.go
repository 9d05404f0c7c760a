package admission

// This file stands before the call: counters that Postgres found full, and until when they surely are. Their requests are
// refused here. Counts only grow until then, so this refuses nobody whom Postgres would let in, unless the limit has
// changed: a request that comes with another limit than the one that was full goes to Postgres. What it says about the wait
// is true of the counters that this node knows to be full; others may have filled a further one since it last asked.

import (
	"sync"
	"time"

	"github.com/nidohq/nido/domain/quota"
)

// maxRemembered bounds the counters in memory; what does not fit is asked of Postgres again.
const maxRemembered = 100_000

type memory struct {
	mu      sync.RWMutex
	full    map[counterOf]blocked
	cleanAt int // how many there may be before those that are over are dropped
}

// counterOf is a counter of an account under one limit.
type counterOf struct {
	account string
	rule    quota.Rule
}

// blocked is when a full counter has room again. Postgres' instant lies between the sending of the call and its answer.
// Reckoned from the first, nobody is refused a moment too long; reckoned from the second, nobody is told to come back a
// moment too early.
type blocked struct {
	surely time.Time
	atMost time.Time
}

// refuse answers for Postgres where one of the request's counters is known to be full.
func (m *memory) refuse(request quota.Request, now time.Time) (quota.Verdict, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.full) == 0 {
		return quota.Verdict{}, false
	}
	var verdict quota.Verdict
	for _, rule := range request.Rules {
		until, known := m.full[counterOf{request.Account, rule}]
		if !known || !now.Before(until.surely) {
			continue
		}
		wait := until.atMost.Sub(now)
		verdict.Standings = append(verdict.Standings, quota.Standing{Rule: rule, Reset: wait})
		if wait >= verdict.RetryAfter {
			verdict.Blocking, verdict.RetryAfter = rule, wait
		}
	}
	return verdict, len(verdict.Standings) > 0
}

// remember keeps what a refusal said about the counters that were full.
func (m *memory) remember(account string, refusal quota.Verdict, sent, received time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.full) >= max(m.cleanAt, 1024) {
		for counter, until := range m.full {
			if !received.Before(until.surely) {
				delete(m.full, counter)
			}
		}
		m.cleanAt = 2 * len(m.full)
	}
	for _, standing := range refusal.Standings {
		if standing.Remaining == 0 && standing.Reset > 0 && len(m.full) < maxRemembered {
			m.full[counterOf{account, standing.Rule}] = blocked{surely: sent.Add(standing.Reset), atMost: received.Add(standing.Reset)}
		}
	}
}
