package account_test

// This file stands at the decision: every command on an account, and every refusal.

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/domaintest"
)

var (
	noon   = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	erased = account.Erased{Erasure: "era_1", At: noon}
)

func TestDecisions(t *testing.T) {
	tell := domaintest.About(account.Aggregate)
	custom := account.Limits{PerMinute: 7, PerDay: 70}
	opened := account.Opened{Name: "Cafés del Sur", Plan: account.Starter}
	longest := strings.Repeat("ñ", account.MaxNameLength)
	domaintest.Stories{
		"an account is opened": tell.Given().
			When(account.Open{Name: "Cafés del Sur", Plan: account.Starter}).Then(opened),
		"an account is opened with limits of its own": tell.Given().
			When(account.Open{Name: "Acme", Plan: account.Scale, Custom: custom}).
			Then(account.Opened{Name: "Acme", Plan: account.Scale, Custom: custom}),
		"a name may have as many characters as the bound says, not bytes": tell.Given().
			When(account.Open{Name: longest, Plan: account.Free}).Then(account.Opened{Name: longest, Plan: account.Free}),
		"an account is opened once": tell.Given(opened).
			When(account.Open{Name: "Cafés del Sur", Plan: account.Starter}).ThenNothing(),
		"an open account is not opened as another": tell.Given(opened).
			When(account.Open{Name: "Acme", Plan: account.Starter}).ThenRefused("account_exists", ""),
		"an open account is not opened on another plan": tell.Given(opened).
			When(account.Open{Name: "Cafés del Sur", Plan: account.Pro}).ThenRefused("account_exists", ""),
		"an account needs a name": tell.Given().
			When(account.Open{Name: " \t", Plan: account.Free}).ThenRefused("invalid_request", "name"),
		"a name has an end": tell.Given().
			When(account.Open{Name: longest + "n", Plan: account.Free}).ThenRefused("invalid_request", "name"),
		"an account is on a plan that exists": tell.Given().
			When(account.Open{Name: "Acme", Plan: "gold"}).ThenRefused("invalid_request", "plan"),
		"an account needs a plan": tell.Given().
			When(account.Open{Name: "Acme"}).ThenRefused("invalid_request", "plan"),
		"limits of an account's own per minute are not negative": tell.Given().
			When(account.Open{Name: "Acme", Plan: account.Free, Custom: account.Limits{PerMinute: -1}}).ThenRefused("invalid_request", "limits"),
		"limits of an account's own per day are not negative": tell.Given().
			When(account.Open{Name: "Acme", Plan: account.Free, Custom: account.Limits{PerDay: -1}}).ThenRefused("invalid_request", "limits"),

		"a plan is changed": tell.Given(opened).
			When(account.ChangePlan{Plan: account.Pro}).Then(account.PlanChanged{Plan: account.Pro}),
		"limits are changed on the same plan": tell.Given(opened).
			When(account.ChangePlan{Custom: &custom}).Then(account.PlanChanged{Plan: account.Starter, Custom: custom}),
		"limits stay where a change does not name them": tell.Given(opened, account.PlanChanged{Plan: account.Starter, Custom: custom}).
			When(account.ChangePlan{Plan: account.Pro}).Then(account.PlanChanged{Plan: account.Pro, Custom: custom}),
		"limits are taken back": tell.Given(opened, account.PlanChanged{Plan: account.Starter, Custom: custom}).
			When(account.ChangePlan{Custom: &account.Limits{}}).Then(account.PlanChanged{Plan: account.Starter}),
		"a change that names nothing is none": tell.Given(opened, account.PlanChanged{Plan: account.Pro, Custom: custom}).
			When(account.ChangePlan{}).ThenNothing(),
		"a plan is changed once": tell.Given(opened, account.PlanChanged{Plan: account.Pro, Custom: custom}).
			When(account.ChangePlan{Plan: account.Pro, Custom: &custom}).ThenNothing(),
		"a plan is changed during a suspension": tell.Given(opened, account.Suspended{}).
			When(account.ChangePlan{Plan: account.Pro}).Then(account.PlanChanged{Plan: account.Pro}),
		"a plan is not changed to one that does not exist": tell.Given(opened).
			When(account.ChangePlan{Plan: "gold"}).ThenRefused("invalid_request", "plan"),
		"a plan is not changed to negative limits": tell.Given(opened).
			When(account.ChangePlan{Plan: account.Pro, Custom: &account.Limits{PerDay: -1}}).ThenRefused("invalid_request", "limits"),
		"a plan is not changed where there is no account": tell.Given().
			When(account.ChangePlan{Plan: account.Pro}).ThenRefused("account_not_found", ""),

		"an account is suspended": tell.Given(opened).
			When(account.Suspend{Reason: "unpaid"}).Then(account.Suspended{Reason: "unpaid"}),
		"an account is suspended once, whatever the reason": tell.Given(opened, account.Suspended{Reason: "unpaid"}).
			When(account.Suspend{Reason: "abuse"}).ThenNothing(),
		"an account is suspended again after it was resumed": tell.Given(opened, account.Suspended{}, account.Resumed{}).
			When(account.Suspend{}).Then(account.Suspended{}),
		"an account that does not exist is not suspended": tell.Given().
			When(account.Suspend{}).ThenRefused("account_not_found", ""),
		"an account is resumed": tell.Given(opened, account.Suspended{}).
			When(account.Resume{}).Then(account.Resumed{}),
		"an account that is not suspended has nothing to resume": tell.Given(opened).
			When(account.Resume{}).ThenNothing(),
		"an account that does not exist is not resumed": tell.Given().
			When(account.Resume{}).ThenRefused("account_not_found", ""),

		"an account comes to its day's limit": tell.Given(opened).
			When(reach(100, 80)).Then(said(80, 100, 80)),
		"and not before": tell.Given(opened).
			When(reach(100, 79)).ThenNothing(),
		"where the last request brings it past both thresholds, both are told": tell.Given(opened).
			When(reach(1, 1)).Then(said(80, 1, 1), said(100, 1, 1)),
		"a threshold is told once a day": tell.Given(opened, said(80, 100, 80)).
			When(reach(100, 99)).ThenNothing(),
		"and the next one all the same": tell.Given(opened, said(80, 100, 80)).
			When(reach(100, 100)).Then(said(100, 100, 100)),
		"and again on the next day": tell.Given(opened, said(80, 100, 80), said(100, 100, 100)).
			When(account.ReachLimit{Day: "2026-03-15", Limit: 100, Used: 85}).
			Then(account.LimitReached{Day: "2026-03-15", Percent: 80, Limit: 100, Used: 85}),
		"late news of the day before are no news": tell.Given(opened, account.LimitReached{Day: "2026-03-15", Percent: 80, Limit: 100, Used: 85}).
			When(reach(100, 100)).ThenNothing(),
		"a smaller plan is reached at once, where the larger one had not been": tell.Given(opened, said(80, 100, 80)).
			When(reach(10, 81)).Then(said(100, 10, 81)),
		"what was told of a larger limit is not told of a smaller one": tell.Given(opened, said(80, 100, 80), said(100, 100, 100)).
			When(reach(10, 100)).ThenNothing(),
		"a larger plan is reached anew": tell.Given(opened, said(80, 100, 80), said(100, 100, 100)).
			When(reach(1000, 800)).Then(said(80, 1000, 800)),
		"an account without a limit never reaches it": tell.Given(opened).
			When(reach(0, 1_000_000)).ThenNothing(),
		"an account that does not exist reaches nothing": tell.Given().
			When(reach(100, 100)).ThenRefused("account_not_found", ""),

		"an account is erased": tell.Given(opened).
			When(account.Erase{Erasure: "era_1", At: noon}).Then(erased),
		"a suspended account is erased": tell.Given(opened, account.Suspended{}).
			When(account.Erase{Erasure: "era_1", At: noon}).Then(erased),
		"an account is erased once": tell.Given(opened, erased).
			When(account.Erase{Erasure: "era_2", At: noon.Add(1)}).ThenNothing(),
		"an account that does not exist is not erased": tell.Given().
			When(account.Erase{Erasure: "era_1"}).ThenRefused("account_not_found", ""),
		"an erased account is not resumed": tell.Given(opened, erased).
			When(account.Resume{}).ThenRefused("account_erased", ""),
		"an erased account is not suspended": tell.Given(opened, erased).
			When(account.Suspend{}).ThenRefused("account_erased", ""),
		"an erased account stays on its plan": tell.Given(opened, erased).
			When(account.ChangePlan{Plan: account.Pro}).ThenRefused("account_erased", ""),
		"an erased account is not opened again": tell.Given(opened, erased).
			When(account.Open{Name: "Cafés del Sur", Plan: account.Starter}).ThenRefused("account_exists", ""),
	}.Run(t)
}

func reach(limit, used int64) account.ReachLimit {
	return account.ReachLimit{Day: "2026-03-14", Limit: limit, Used: used}
}

func said(percent int, limit, used int64) account.LimitReached {
	return account.LimitReached{Day: "2026-03-14", Percent: percent, Limit: limit, Used: used}
}

func TestPlansAllowWhatThePriceListSays(t *testing.T) {
	for plan, want := range map[account.Plan]account.Limits{
		account.Free:       {PerMinute: 10, PerDay: 1_000},
		account.Starter:    {PerMinute: 60, PerDay: 10_000},
		account.Pro:        {PerMinute: 300, PerDay: 100_000},
		account.Scale:      {},
		account.Enterprise: {},
	} {
		if got, known := plan.Limits(); !known || got != want {
			t.Errorf("%s allows %+v (known: %v), not %+v", plan, got, known, want)
		}
	}
	if got, known := account.Plan("gold").Limits(); known || got != (account.Limits{}) {
		t.Errorf("a plan that does not exist allows %+v", got)
	}
}

func commands() *rapid.Generator[account.Command] {
	return rapid.Custom(func(t *rapid.T) account.Command {
		plan := rapid.SampledFrom([]account.Plan{account.Free, account.Pro, account.Scale, "gold", ""}).Draw(t, "plan")
		custom := account.Limits{PerMinute: rapid.Int64Range(-1, 2).Draw(t, "per minute"), PerDay: rapid.Int64Range(0, 2).Draw(t, "per day")}
		switch rapid.IntRange(0, 11).Draw(t, "command") {
		case 0:
			return account.Open{Name: rapid.SampledFrom([]string{"Acme", "Ñandú", ""}).Draw(t, "name"), Plan: plan, Custom: custom}
		case 1:
			return account.ChangePlan{Plan: plan, Custom: rapid.SampledFrom([]*account.Limits{nil, &custom}).Draw(t, "named limits")}
		case 2:
			return account.Erase{Erasure: "era_1", At: noon}
		case 3, 4, 5:
			return account.Suspend{Reason: rapid.String().Draw(t, "reason")}
		case 6, 7, 8:
			return account.ReachLimit{
				Day: rapid.SampledFrom([]string{"2026-03-14", "2026-03-15"}).Draw(t, "day"), Limit: rapid.SampledFrom([]int64{0, 1, 10, 1000}).Draw(t, "limit"),
				Used: rapid.Int64Range(0, 1200).Draw(t, "used"),
			}
		}
		return account.Resume{}
	})
}

func TestWhateverIsAskedOfAnAccount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sequence := rapid.SliceOf(commands()).Draw(t, "commands")
		told := map[account.LimitReached]bool{}
		domaintest.Play(t, account.Aggregate, sequence, func(step domaintest.Step[account.Command, account.Event, account.State]) {
			if step.Before.Opened && !step.After.Opened {
				t.Fatalf("%#v took the account away", step.Command)
			}
			for _, event := range step.Events {
				if reached, is := event.(account.LimitReached); is {
					once := account.LimitReached{Day: reached.Day, Percent: reached.Percent, Limit: reached.Limit}
					if told[once] || reached.Used*100 < reached.Limit*int64(reached.Percent) {
						t.Fatalf("%#v tells %#v, after %v", step.Command, reached, told)
					}
					told[once] = true
				}
			}
			if step.Before.Erased && (len(step.Events) > 0 || !step.After.Suspended || step.After.Name != "") {
				t.Fatalf("%#v happened after the erasure: %+v", step.Command, step.After)
			}
			if _, known := step.After.Plan.Limits(); step.After.Opened && !known {
				t.Fatalf("%#v left the account on plan %q", step.Command, step.After.Plan)
			}
		})
	})
}

func TestStoredEvents(t *testing.T) {
	custom := account.Limits{PerMinute: 120, PerDay: 50_000}
	domaintest.CheckGolden(t, account.Aggregate,
		domaintest.Golden[account.Event]{Type: "account.opened", Schema: 1, Event: account.Opened{Name: "Cafés del Sur", Plan: account.Starter, Custom: custom}},
		domaintest.Golden[account.Event]{Type: "account.plan_changed", Schema: 1, Event: account.PlanChanged{Plan: account.Pro, Custom: custom}},
		domaintest.Golden[account.Event]{Type: "account.suspended", Schema: 1, Event: account.Suspended{Reason: "unpaid"}},
		domaintest.Golden[account.Event]{Type: "account.resumed", Schema: 1, Event: account.Resumed{}},
		domaintest.Golden[account.Event]{Type: "limit.reached", Schema: 1, Event: said(80, 10_000, 8_000)},
		domaintest.Golden[account.Event]{Type: "account.erased", Schema: 1, Event: erased},
	)
}
