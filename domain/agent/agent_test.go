package agent_test

// This file stands at the decision: every command on an agent, and every refusal.

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/domaintest"
)

var (
	plain   = agent.Settings{Name: "Agente de Ventas", Instructions: "Sos amable.", Model: "gpt-4o-mini"}
	created = agent.Created{Account: "acc_1", Slug: "agente-de-ventas", Settings: plain}
	full    = agent.Settings{
		Name: "Agente de Ventas", Instructions: "Sos amable.", Model: "gpt-4o-mini", Temperature: new(0.2), MaxOutputTokens: new(500),
		HistoryLimit: new(0), Metadata: map[string]string{"team": "sur"}, RateLimit: &agent.RateLimit{PerMinute: 5, PerDay: 100},
	}
	everything = agent.Created{Account: "acc_1", Slug: "agente-de-ventas", Settings: full}
)

func TestDecisions(t *testing.T) {
	tell := domaintest.About(agent.Aggregate)
	domaintest.Stories{
		"an agent is created":                   tell.Given().When(agent.Create{Created: created}).Then(created),
		"an agent is created with all settings": tell.Given().When(agent.Create{Created: everything}).Then(everything),
		"an agent is created once":              tell.Given(created).When(agent.Create{Created: created}).ThenNothing(),
		"a deleted agent is not created again":  tell.Given(created, agent.Deleted{}).When(agent.Create{Created: created}).ThenNothing(),

		"a name is changed, and nothing else": tell.Given(everything).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Name: new("Ana")}}).
			Then(agent.Configured{Version: 2, Changes: agent.Changes{Name: new("Ana")}}),
		"every change is a version of its own": tell.Given(created, agent.Configured{Version: 2, Changes: agent.Changes{Name: new("Ana")}}).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Model: new("gpt-5")}}).
			Then(agent.Configured{Version: 3, Changes: agent.Changes{Model: new("gpt-5")}}),
		"a paused agent is configured": tell.Given(created, agent.Paused{}).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Name: new("Ana")}}).
			Then(agent.Configured{Version: 2, Changes: agent.Changes{Name: new("Ana")}}),
		"a setting goes back to its default": tell.Given(everything).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Clear: []agent.Field{agent.Temperature}}}).
			Then(agent.Configured{Version: 2, Changes: agent.Changes{Clear: []agent.Field{agent.Temperature}}}),
		"an earlier version is restored as a new one": tell.Given(created, agent.Configured{Version: 2, Changes: agent.Changes{Name: new("Ana")}}).
			When(agent.Configure{Account: "acc_1", Changes: agent.Replace(plain), Restores: 1}).
			Then(agent.Configured{Version: 3, Changes: agent.Replace(plain), Restores: 1}),
		"settings that are as they should be are not configured": tell.Given(everything).
			When(agent.Configure{Account: "acc_1", Changes: agent.Replace(full)}).ThenNothing(),
		"no changes are nothing new": tell.Given(created).When(agent.Configure{Account: "acc_1"}).ThenNothing(),
		"metadata without entries is no metadata": tell.Given(created).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Metadata: &map[string]string{}}}).ThenNothing(),
		"metadata that are not there say nothing about metadata": tell.Given(everything).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Metadata: new(map[string]string(nil))}}).ThenNothing(),
		"metadata without entries take away those that are there": tell.Given(everything).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Metadata: &map[string]string{}}}).
			Then(agent.Configured{Version: 2, Changes: agent.Changes{Metadata: &map[string]string{}}}),
		"clearing what is at its default is nothing new": tell.Given(created).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Clear: []agent.Field{agent.Metadata, agent.RateLimits}}}).ThenNothing(),
		"a name is not configured away": tell.Given(created).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Name: new(" ")}}).ThenRefused("invalid_request", "name"),
		"another account's agent is not configured": tell.Given(created).
			When(agent.Configure{Account: "acc_2", Changes: agent.Changes{Name: new("Ana")}}).ThenRefused("agent_not_found", ""),
		"a deleted agent is not configured": tell.Given(created, agent.Deleted{}).
			When(agent.Configure{Account: "acc_1", Changes: agent.Changes{Name: new("Ana")}}).ThenRefused("agent_not_found", ""),
		"an agent that does not exist is not configured": tell.Given().
			When(agent.Configure{Account: "acc_1"}).ThenRefused("agent_not_found", ""),

		"an agent is paused":                         tell.Given(created).When(agent.Pause{Account: "acc_1"}).Then(agent.Paused{}),
		"an agent is paused once":                    tell.Given(created, agent.Paused{}).When(agent.Pause{Account: "acc_1"}).ThenNothing(),
		"another account's agent is not paused":      tell.Given(created).When(agent.Pause{Account: "acc_2"}).ThenRefused("agent_not_found", ""),
		"a deleted agent is not paused":              tell.Given(created, agent.Deleted{}).When(agent.Pause{Account: "acc_1"}).ThenRefused("agent_not_found", ""),
		"an agent that does not exist is not paused": tell.Given().When(agent.Pause{Account: "acc_1"}).ThenRefused("agent_not_found", ""),

		"an agent is resumed":                         tell.Given(created, agent.Paused{}).When(agent.Resume{Account: "acc_1"}).Then(agent.Resumed{}),
		"an agent that is not paused is not resumed":  tell.Given(created).When(agent.Resume{Account: "acc_1"}).ThenNothing(),
		"another account's agent is not resumed":      tell.Given(created, agent.Paused{}).When(agent.Resume{Account: "acc_2"}).ThenRefused("agent_not_found", ""),
		"a deleted agent is not resumed":              tell.Given(created, agent.Deleted{}).When(agent.Resume{Account: "acc_1"}).ThenRefused("agent_not_found", ""),
		"an agent that does not exist is not resumed": tell.Given().When(agent.Resume{Account: "acc_1"}).ThenRefused("agent_not_found", ""),

		"an agent is deleted":                            tell.Given(created).When(agent.Delete{Account: "acc_1"}).Then(agent.Deleted{}),
		"a paused agent is deleted":                      tell.Given(created, agent.Paused{}).When(agent.Delete{Account: "acc_1"}).Then(agent.Deleted{}),
		"an agent is deleted once":                       tell.Given(created, agent.Deleted{}).When(agent.Delete{Account: "acc_1"}).ThenNothing(),
		"another account's agent is not deleted":         tell.Given(created).When(agent.Delete{Account: "acc_2"}).ThenRefused("agent_not_found", ""),
		"another account's deleted agent does not exist": tell.Given(created, agent.Deleted{}).When(agent.Delete{Account: "acc_2"}).ThenRefused("agent_not_found", ""),
		"an agent that does not exist is not deleted":    tell.Given().When(agent.Delete{}).ThenRefused("agent_not_found", ""),
	}.Run(t)
}

func TestSettingsHaveBounds(t *testing.T) {
	entries := func(count int) map[string]string {
		metadata := map[string]string{}
		for i := range count {
			metadata[fmt.Sprint("key ", i)] = "value"
		}
		return metadata
	}
	for field, tests := range map[string]map[string]func(*agent.Settings){
		"name": {
			"empty":    func(s *agent.Settings) { s.Name = "" },
			"blank":    func(s *agent.Settings) { s.Name = " \n" },
			"too long": func(s *agent.Settings) { s.Name = strings.Repeat("ñ", agent.MaxNameLength+1) },
		},
		"instructions": {
			"too long": func(s *agent.Settings) { s.Instructions = strings.Repeat("x", agent.MaxInstructionsLength+1) },
		},
		"model": {
			"empty":    func(s *agent.Settings) { s.Model = "" },
			"too long": func(s *agent.Settings) { s.Model = strings.Repeat("ñ", agent.MaxModelLength+1) },
		},
		"temperature": {
			"below zero":   func(s *agent.Settings) { s.Temperature = new(-0.01) },
			"above two":    func(s *agent.Settings) { s.Temperature = new(2.01) },
			"not a number": func(s *agent.Settings) { s.Temperature = new(math.NaN()) },
		},
		"maxOutputTokens": {
			"none":     func(s *agent.Settings) { s.MaxOutputTokens = new(0) },
			"too many": func(s *agent.Settings) { s.MaxOutputTokens = new(agent.MaxMaxOutputTokens + 1) },
		},
		"historyLimit": {
			"negative": func(s *agent.Settings) { s.HistoryLimit = new(-1) },
			"too many": func(s *agent.Settings) { s.HistoryLimit = new(agent.MaxHistoryLimit + 1) },
		},
		"rateLimit": {
			"negative per minute": func(s *agent.Settings) { s.RateLimit = &agent.RateLimit{PerMinute: -1} },
			"negative per day":    func(s *agent.Settings) { s.RateLimit = &agent.RateLimit{PerDay: -1} },
		},
		"metadata": {
			"too many entries": func(s *agent.Settings) { s.Metadata = entries(agent.MaxMetadata + 1) },
			"an empty key":     func(s *agent.Settings) { s.Metadata = map[string]string{"": "value"} },
			"a long key": func(s *agent.Settings) {
				s.Metadata = map[string]string{strings.Repeat("ñ", agent.MaxMetadataKey+1): ""}
			},
			"a long value": func(s *agent.Settings) {
				s.Metadata = map[string]string{"k": strings.Repeat("ñ", agent.MaxMetadataValue+1)}
			},
		},
	} {
		for sentence, spoil := range tests {
			settings := plain
			spoil(&settings)
			spoiled := agent.Created{Account: "acc_1", Slug: "ana", Settings: settings}
			t.Run(field+" "+sentence+" is refused at creation", domaintest.About(agent.Aggregate).Given().
				When(agent.Create{Created: spoiled}).ThenRefused("invalid_request", field))
			t.Run(field+" "+sentence+" is refused later", domaintest.About(agent.Aggregate).Given(created).
				When(agent.Configure{Account: "acc_1", Changes: agent.Replace(settings)}).ThenRefused("invalid_request", field))
		}
	}
	brim := agent.Settings{
		Name: strings.Repeat("ñ", agent.MaxNameLength), Instructions: strings.Repeat("x", agent.MaxInstructionsLength),
		Model: strings.Repeat("ñ", agent.MaxModelLength), Temperature: new(2.0), MaxOutputTokens: new(agent.MaxMaxOutputTokens),
		HistoryLimit: new(agent.MaxHistoryLimit), RateLimit: &agent.RateLimit{}, Metadata: entries(agent.MaxMetadata - 1),
	}
	brim.Metadata[strings.Repeat("ñ", agent.MaxMetadataKey)] = strings.Repeat("ñ", agent.MaxMetadataValue)
	atBounds := agent.Created{Account: "acc_1", Slug: "ana", Settings: brim}
	t.Run("settings at their bounds are taken", domaintest.About(agent.Aggregate).Given().When(agent.Create{Created: atBounds}).Then(atBounds))
}

func TestSettingsAfterChanges(t *testing.T) {
	for _, test := range []struct {
		sentence string
		changes  agent.Changes
		check    func(agent.Settings) bool
	}{
		{"what is not named stays", agent.Changes{}, func(s agent.Settings) bool {
			return s.Name == full.Name && *s.Temperature == 0.2 && s.Metadata["team"] == "sur" && s.RateLimit.PerDay == 100
		}},
		{"instructions can be emptied", agent.Changes{Instructions: new("")}, func(s agent.Settings) bool { return s.Instructions == "" }},
		{"a number can be zero", agent.Changes{Temperature: new(0.0)}, func(s agent.Settings) bool { return *s.Temperature == 0 }},
		{"metadata is replaced whole", agent.Changes{Metadata: &map[string]string{"a": "b"}}, func(s agent.Settings) bool {
			return maps.Equal(s.Metadata, map[string]string{"a": "b"})
		}},
		{"every optional setting can be cleared", agent.Changes{Clear: []agent.Field{
			agent.Temperature, agent.MaxOutputTokens, agent.HistoryLimit, agent.Metadata, agent.RateLimits,
		}}, func(s agent.Settings) bool {
			return s.Temperature == nil && s.MaxOutputTokens == nil && s.HistoryLimit == nil && s.Metadata == nil && s.RateLimit == nil
		}},
		{"a value counts more than clearing it", agent.Changes{HistoryLimit: new(3), Clear: []agent.Field{agent.HistoryLimit}},
			func(s agent.Settings) bool { return *s.HistoryLimit == 3 }},
	} {
		if got := test.changes.Apply(full); !test.check(got) {
			t.Errorf("%s: %+v", test.sentence, got)
		}
	}
	if full.Metadata["team"] != "sur" || *full.Temperature != 0.2 {
		t.Error("changes reach back into the settings that they were applied to")
	}
	if plain.History() != agent.DefaultHistoryLimit || full.History() != 0 {
		t.Errorf("history of %d and %d messages", plain.History(), full.History())
	}
}
