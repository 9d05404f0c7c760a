// Package quota says how many requests may come in: the counters that a request is counted on, what bounds each, and
// when a full one has room again. It counts nothing itself; Postgres does, so that all nodes count together.
package quota

// This file stands between the door and a chat turn: from a plan and an agent's own limits to the rules of one request.

import (
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
)

// Policy names what is counted, as the headers of an answer name it.
type Policy string

// The policies.
const (
	Key      Policy = "key"       // a key's requests in any 60 seconds
	Agent    Policy = "agent"     // an agent's requests in any 60 seconds
	AgentDay Policy = "agent-day" // an agent's requests since midnight UTC
	Day      Policy = "day"       // the account's requests since midnight UTC
)

// The windows, in seconds.
const (
	minuteSeconds = 60
	daySeconds    = 24 * 60 * 60
)

// Daily reports whether the policy counts from midnight UTC, and not over the last 60 seconds.
func (p Policy) Daily() bool { return p == AgentDay || p == Day }

// WindowSeconds is how long a request counts at most.
func (p Policy) WindowSeconds() int64 {
	if p.Daily() {
		return daySeconds
	}
	return minuteSeconds
}

// Rule bounds one counter of an account.
type Rule struct {
	Policy  Policy
	Subject string // whose requests: a key's public id, an agent's id; empty for the whole account
	Limit   int64  // at least 1
}

// Counter names the rule's counter among the account's.
func (r Rule) Counter() string { return string(r.Policy) + ":" + r.Subject }

// Request is what holds for one request: it comes in if every rule has room, and then it counts on all of them.
type Request struct {
	Account string
	Rules   []Rule // at most one per policy; none means unlimited
}

// Of gathers the rules of a request that comes with a key to an agent. An agent's own limits narrow the account's and
// never widen them. Zero means no limit.
func Of(accountID string, limits account.Limits, keyID, agentID string, own *agent.RateLimit) Request {
	request := Request{Account: accountID}
	add := func(policy Policy, subject string, limit int64) {
		if limit > 0 {
			request.Rules = append(request.Rules, Rule{Policy: policy, Subject: subject, Limit: limit})
		}
	}
	add(Key, keyID, limits.PerMinute)
	if agentID != "" {
		if own == nil {
			own = &agent.RateLimit{}
		}
		add(Agent, agentID, tighter(limits.PerMinute, own.PerMinute))
		add(AgentDay, agentID, own.PerDay)
	}
	add(Day, "", limits.PerDay)
	return request
}

// tighter is the smaller of two limits, of which 0 is none.
func tighter(a, b int64) int64 {
	if a == 0 || (b > 0 && b < a) {
		return b
	}
	return a
}
