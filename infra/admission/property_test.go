package admission

// What holds whatever is asked: two nodes by one clock, held against a list of everything that ever came in.

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain/quota"
)

// model is the naive one: it keeps every admission and counts anew each time.
type model map[string][]time.Time

// counted is how many admissions of a counter count at an instant: those of the second that runs and the 60 before it,
// or those of the day.
func (m model) counted(rule quota.Rule, now time.Time) int64 {
	oldest := now.Truncate(time.Second).Add(-60 * time.Second)
	if rule.Policy.Daily() {
		oldest = now.Truncate(24 * time.Hour)
	}
	var count int64
	for _, at := range m[rule.Counter()] {
		if !at.Before(oldest) {
			count++
		}
	}
	return count
}

func (m model) admit(request quota.Request, now time.Time) bool {
	for _, rule := range request.Rules {
		if m.counted(rule, now) >= rule.Limit {
			return false
		}
	}
	for _, rule := range request.Rules {
		m[rule.Counter()] = append(m[rule.Counter()], now)
	}
	return true
}

// worst is the largest number of admissions of a counter in any 60 seconds, or in any day.
func (m model) worst(counter string, daily bool) int64 {
	worst := 0
	times := m[counter]
	for i, from := range times {
		end := from.Add(60 * time.Second)
		if daily {
			end = from.Truncate(24 * time.Hour).Add(24*time.Hour - 1)
		}
		last := i + len(times[i:]) - 1
		for times[last].After(end) {
			last--
		}
		worst = max(worst, last-i+1)
	}
	return int64(worst)
}

func TestWhateverIsAsked(t *testing.T) {
	url := database(t)
	here, there := open(t, url), open(t, url)
	limits := rapid.SampledFrom([]int64{0, 1, 2, 3, 5})
	rapid.Check(t, func(t *rapid.T) {
		clock, account, naive := newClock(), newAccount(), model{}
		nodes := []*Admission{clock.node(here), clock.node(there)}
		largest := map[string]int64{}
		perMinute, perDay, agentsDay := limits.Draw(t, "per minute"), int64(0), limits.Draw(t, "agents per day")
		draw := func(t *rapid.T) quota.Request {
			rules := []quota.Rule{
				{Policy: quota.Key, Subject: rapid.SampledFrom([]string{"k1", "k2"}).Draw(t, "key"), Limit: perMinute},
				{Policy: quota.Agent, Subject: rapid.SampledFrom([]string{"a1", "a2"}).Draw(t, "agent"), Limit: 2 * perMinute},
				{Policy: quota.AgentDay, Subject: "a1", Limit: agentsDay},
				{Policy: quota.Day, Limit: perDay},
			}
			return quota.Request{Account: account, Rules: slices.DeleteFunc(rules, func(r quota.Rule) bool { return r.Limit == 0 })}
		}
		send := func(t *rapid.T, node *Admission, request quota.Request) quota.Verdict {
			for _, rule := range request.Rules {
				largest[rule.Counter()] = max(largest[rule.Counter()], rule.Limit)
			}
			verdict := ask(t, node, request)
			if want := naive.admit(request, clock.at); verdict.Admitted != want {
				t.Fatalf("at %v %+v: admitted %v, not %v", clock.at, request.Rules, verdict.Admitted, want)
			}
			for _, standing := range verdict.Standings {
				if left := max(0, standing.Limit-naive.counted(standing.Rule, clock.at)); standing.Remaining != left {
					t.Fatalf("%s has %d left, says the answer, and %d in fact", standing.Counter(), standing.Remaining, left)
				}
			}
			return verdict
		}
		t.Repeat(map[string]func(*rapid.T){
			"a request": func(t *rapid.T) {
				send(t, nodes[rapid.IntRange(0, 1).Draw(t, "node")], draw(t))
			},
			"time passes": func(t *rapid.T) {
				milliseconds := rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(20_000, 61_000)).Draw(t, "milliseconds")
				clock.at = clock.at.Add(time.Duration(milliseconds) * time.Millisecond)
			},
			"a refused one comes back when it was told to": func(t *rapid.T) {
				node, request := nodes[rapid.IntRange(0, 1).Draw(t, "node")], draw(t)
				calls := node.calls.Load()
				refused := send(t, node, request)
				asked := node.calls.Load() > calls
				if refused.Admitted {
					return
				}
				clock.at = clock.at.Add(refused.RetryAfter - time.Millisecond)
				if send(t, node, request).Admitted {
					t.Fatalf("there was room before %v had passed", refused.RetryAfter)
				}
				clock.at = clock.at.Add(time.Millisecond)
				// The node's memory knows what was full when it last asked. Others may have filled another counter since, or
				// the same one while the plan was larger; only what Postgres has just said is the whole truth.
				if !send(t, node, request).Admitted && asked {
					t.Fatalf("there was no room after %v", refused.RetryAfter)
				}
			},
			"the plan changes": func(t *rapid.T) {
				perMinute, perDay = limits.Draw(t, "per minute"), rapid.SampledFrom([]int64{0, 0, 4, 9}).Draw(t, "per day")
			},
			"": func(t *rapid.T) {
				for counter, limit := range largest {
					daily := counter == "day:" || strings.HasPrefix(counter, "agent-day:")
					if worst := naive.worst(counter, daily); worst > limit {
						t.Fatalf("%s held %d within its window, %d was the most it ever might", counter, worst, limit)
					}
				}
			},
		})
	})
}
