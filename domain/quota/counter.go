package quota

// This file stands behind the count: what a counter says to the caller about the next request.

import "time"

// Bucket is the requests of one second, or of one day.
type Bucket struct {
	Second int64 // Unix time at which it begins
	Count  int64
}

// Counter is the buckets that count at one instant, the oldest first. A minute has 61 of them: any 60 seconds lie inside
// 61 whole ones, so that no 60 seconds ever hold more than the limit, wherever they begin.
type Counter []Bucket

// Used is how many requests count.
func (c Counter) Used() int64 {
	var used int64
	for _, bucket := range c {
		used += bucket.Count
	}
	return used
}

// frees is when the bucket no longer counts.
func (p Policy) frees(bucket Bucket) time.Time {
	if p.Daily() {
		return time.Unix(bucket.Second+daySeconds, 0)
	}
	return time.Unix(bucket.Second+minuteSeconds+1, 0)
}

// RoomAt is the first instant at which fewer requests than the limit count, if none is added; it is now where there is
// room.
func (c Counter) RoomAt(rule Rule, now time.Time) time.Time {
	used, at := c.Used(), now
	for _, bucket := range c {
		if used < rule.Limit {
			break
		}
		used, at = used-bucket.Count, rule.Policy.frees(bucket)
	}
	return at
}

// Standing is where a rule stands after a request.
type Standing struct {
	Rule
	Used      int64 // may be more than the limit, which can have been larger; 0 where it was not counted
	Remaining int64
	// Reset is how long what remains has to last: until more requests than Remaining can come in. 0 where nothing counts.
	Reset time.Duration
}

// Stand says where a rule stands on its counter. used is how many count for this answer: of requests that came in
// together, each sees its own.
func (c Counter) Stand(rule Rule, used int64, now time.Time) Standing {
	standing := Standing{Rule: rule, Used: used, Remaining: max(0, rule.Limit-used)}
	switch {
	case standing.Remaining == 0:
		standing.Reset = c.RoomAt(rule, now).Sub(now)
	case len(c) > 0:
		standing.Reset = rule.Policy.frees(c[0]).Sub(now)
	}
	return standing
}

// Verdict is whether a request came in.
type Verdict struct {
	Admitted  bool
	At        time.Time  // by the clock that counts; zero where a node refused from memory
	Standings []Standing // of the rules that were looked at, in the request's order
	// Blocking is the rule that has room last of all that refused, and RetryAfter how long that takes: a request after it
	// comes in if nobody else asks. Only of a refusal.
	Blocking   Rule
	RetryAfter time.Duration
}
