package agent_test

// This file stands at the decision and at the log: what holds for whatever is asked of an agent, and the events that
// were ever stored.

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/domaintest"
)

func settings() *rapid.Generator[agent.Settings] {
	return rapid.Custom(func(t *rapid.T) agent.Settings {
		return agent.Settings{
			Name:            rapid.SampledFrom([]string{"Ana", "Ñandú", ""}).Draw(t, "name"),
			Instructions:    rapid.String().Draw(t, "instructions"),
			Model:           rapid.SampledFrom([]string{"echo", "gpt-5"}).Draw(t, "model"),
			Temperature:     rapid.Ptr(rapid.Float64Range(-0.1, 2.1), true).Draw(t, "temperature"),
			MaxOutputTokens: rapid.Ptr(rapid.IntRange(0, 3), true).Draw(t, "max output tokens"),
			HistoryLimit:    rapid.Ptr(rapid.IntRange(-1, 3), true).Draw(t, "history limit"),
			Metadata:        rapid.OneOf(rapid.Just(map[string]string(nil)), metadata()).Draw(t, "metadata"),
			RateLimit:       rapid.Ptr(rateLimit(), true).Draw(t, "rate limit"),
		}
	})
}

func metadata() *rapid.Generator[map[string]string] {
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", ""}), rapid.String(), 0, 2)
}

func rateLimit() *rapid.Generator[agent.RateLimit] {
	return rapid.Custom(func(t *rapid.T) agent.RateLimit {
		return agent.RateLimit{PerMinute: rapid.Int64Range(-1, 2).Draw(t, "per minute"), PerDay: rapid.Int64Range(0, 2).Draw(t, "per day")}
	})
}

func changes() *rapid.Generator[agent.Changes] {
	fields := []agent.Field{agent.Temperature, agent.MaxOutputTokens, agent.HistoryLimit, agent.Metadata, agent.RateLimits, "unheard of"}
	return rapid.Custom(func(t *rapid.T) agent.Changes {
		some := settings().Draw(t, "settings")
		if rapid.Bool().Draw(t, "all of them") {
			return agent.Replace(some)
		}
		return agent.Changes{
			Name:        rapid.Ptr(rapid.Just(some.Name), true).Draw(t, "name"),
			Model:       rapid.Ptr(rapid.Just(some.Model), true).Draw(t, "model"),
			Temperature: some.Temperature, HistoryLimit: some.HistoryLimit, RateLimit: some.RateLimit,
			Metadata: rapid.Ptr(metadata(), true).Draw(t, "metadata"),
			Clear:    rapid.SliceOfN(rapid.SampledFrom(fields), 0, 3).Draw(t, "clear"),
		}
	})
}

func commands() *rapid.Generator[agent.Command] {
	return rapid.Custom(func(t *rapid.T) agent.Command {
		account := rapid.SampledFrom([]string{"acc_1", "acc_1", "acc_1", "acc_2"}).Draw(t, "account")
		switch rapid.IntRange(0, 7).Draw(t, "command") {
		case 0, 1:
			return agent.Create{Created: agent.Created{Account: account, Slug: "ana", Settings: settings().Draw(t, "settings")}}
		case 2:
			return agent.Pause{Account: account}
		case 3:
			return agent.Resume{Account: account}
		case 4:
			return agent.Delete{Account: account}
		}
		return agent.Configure{Account: account, Changes: changes().Draw(t, "changes"), Restores: rapid.IntRange(0, 2).Draw(t, "restores")}
	})
}

func TestWhateverIsAskedOfAnAgent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		domaintest.Play(t, agent.Aggregate, rapid.SliceOf(commands()).Draw(t, "commands"), func(step domaintest.Step[agent.Command, agent.Event, agent.State]) {
			before, after := step.Before, step.After
			switch {
			case before.Account != "" && after.Account != before.Account:
				t.Fatalf("%#v moved the agent to another account", step.Command)
			case before.Status == agent.Gone && !reflect.DeepEqual(before, after):
				t.Fatalf("%#v changed a deleted agent", step.Command)
			case reflect.DeepEqual(before.Settings, after.Settings) != (before.Version == after.Version):
				t.Fatalf("%#v: settings %d to %d are %+v and %+v", step.Command, before.Version, after.Version, before.Settings, after.Settings)
			case after.Version > before.Version+1:
				t.Fatalf("%#v skipped a version", step.Command)
			}
		})
	})
}

func TestReplaceTurnsAnySettingsIntoTheWantedOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, want := settings().Draw(t, "from"), settings().Draw(t, "to")
		got := agent.Replace(want).Apply(from)
		if len(want.Metadata) == 0 {
			want.Metadata = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v became %+v, not %+v", from, got, want)
		}
	})
}

func TestStoredEvents(t *testing.T) {
	domaintest.CheckGolden(t, agent.Aggregate,
		domaintest.Golden[agent.Event]{Type: "agent.created", Schema: 1, Event: everything},
		domaintest.Golden[agent.Event]{Type: "agent.configured", Schema: 1, Event: agent.Configured{Version: 7, Restores: 3, Changes: agent.Changes{
			Name: new("Ana"), Instructions: new("Sé breve."), Model: new("gpt-5"), Temperature: new(0.0), MaxOutputTokens: new(100),
			HistoryLimit: new(10), Metadata: &map[string]string{"team": "norte"}, RateLimit: &agent.RateLimit{PerMinute: 5, PerDay: 100},
			Clear: []agent.Field{agent.Temperature, agent.MaxOutputTokens, agent.HistoryLimit, agent.Metadata, agent.RateLimits},
		}}},
		domaintest.Golden[agent.Event]{Type: "agent.paused", Schema: 1, Event: agent.Paused{}},
		domaintest.Golden[agent.Event]{Type: "agent.resumed", Schema: 1, Event: agent.Resumed{}},
		domaintest.Golden[agent.Event]{Type: "agent.deleted", Schema: 1, Event: agent.Deleted{}},
	)
}
