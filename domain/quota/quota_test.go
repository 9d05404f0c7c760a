package quota_test

// This file stands between the door and a chat turn: which rules a request has, and what a counter says about the next.

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/quota"
)

func TestTheRulesOfARequest(t *testing.T) {
	rule := func(policy quota.Policy, subject string, limit int64) quota.Rule {
		return quota.Rule{Policy: policy, Subject: subject, Limit: limit}
	}
	for sentence, test := range map[string]struct {
		limits account.Limits
		agent  string
		own    *agent.RateLimit
		want   []quota.Rule
	}{
		"a plan bounds the key, the agent and the account's day": {
			account.Limits{PerMinute: 60, PerDay: 10_000}, "agt_1", nil,
			[]quota.Rule{rule(quota.Key, "k", 60), rule(quota.Agent, "agt_1", 60), rule(quota.Day, "", 10_000)},
		},
		"an agent's own limits narrow the plan's": {
			account.Limits{PerMinute: 60, PerDay: 10_000}, "agt_1", &agent.RateLimit{PerMinute: 30, PerDay: 50},
			[]quota.Rule{rule(quota.Key, "k", 60), rule(quota.Agent, "agt_1", 30), rule(quota.AgentDay, "agt_1", 50), rule(quota.Day, "", 10_000)},
		},
		"an agent's own limits never widen the plan's": {
			account.Limits{PerMinute: 60}, "agt_1", &agent.RateLimit{PerMinute: 600},
			[]quota.Rule{rule(quota.Key, "k", 60), rule(quota.Agent, "agt_1", 60)},
		},
		"an unlimited plan leaves the agent's own":  {account.Limits{}, "agt_1", &agent.RateLimit{PerMinute: 5}, []quota.Rule{rule(quota.Agent, "agt_1", 5)}},
		"an unlimited plan bounds nothing":          {account.Limits{}, "agt_1", nil, nil},
		"without an agent the key and the day hold": {account.Limits{PerMinute: 60, PerDay: 9}, "", nil, []quota.Rule{rule(quota.Key, "k", 60), rule(quota.Day, "", 9)}},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := quota.Of("acc_1", test.limits, "k", test.agent, test.own)
			if diff := cmp.Diff(quota.Request{Account: "acc_1", Rules: test.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatACounterSaysAboutTheNextRequest(t *testing.T) {
	midnight := time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC)
	at := func(after time.Duration) time.Time { return midnight.Add(after) }
	minute := quota.Counter{{Second: midnight.Unix(), Count: 2}, {Second: midnight.Unix() + 30, Count: 1}}
	day := quota.Counter{{Second: midnight.Unix(), Count: 3}}
	key := func(limit int64) quota.Rule { return quota.Rule{Policy: quota.Key, Limit: limit} }
	for sentence, test := range map[string]struct {
		counter   quota.Counter
		rule      quota.Rule
		remaining int64
		reset     time.Duration
	}{
		"what remains lasts until the oldest second is over a minute ago": {minute, key(5), 2, 21 * time.Second},
		"a full counter has room when enough of it is":                    {minute, key(3), 0, 21 * time.Second},
		"a smaller limit has room later":                                  {minute, key(1), 0, 51 * time.Second},
		"a day has room at midnight in UTC":                               {day, quota.Rule{Policy: quota.Day, Limit: 3}, 0, 24*time.Hour - 40*time.Second},
		"where nothing counts all of it remains":                          {nil, key(3), 3, 0},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := test.counter.Stand(test.rule, test.counter.Used(), at(40*time.Second))
			if got.Remaining != test.remaining || got.Reset != test.reset {
				t.Errorf("%d remain for %v", got.Remaining, got.Reset)
			}
		})
	}
}
