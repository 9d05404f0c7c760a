package host_test

// This file stands at the decision: every command on a host, every refusal, and what holds for whatever is asked.

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain/domaintest"
	"github.com/nidohq/nido/domain/host"
)

func TestDecisions(t *testing.T) {
	tell := domaintest.About(host.Aggregate)
	claim := host.Claim{Slug: "ventas", Account: "acc_1", Agent: "agt_1"}
	claimed, bound, released := host.Claimed{Account: "acc_1", Agent: "agt_1"}, host.Bound{Agent: "agt_1"}, host.Released{Agent: "agt_1"}
	domaintest.Stories{
		"a free name is claimed":                               tell.Given().When(claim).Then(claimed),
		"a name is claimed once":                               tell.Given(claimed).When(claim).ThenNothing(),
		"a bound name is not claimed again by its own agent":   tell.Given(claimed, bound).When(claim).ThenNothing(),
		"a released name is claimed by anybody":                tell.Given(claimed, bound, released).When(host.Claim{Slug: "ventas", Account: "acc_2", Agent: "agt_2"}).Then(host.Claimed{Account: "acc_2", Agent: "agt_2"}),
		"a claimed name is taken":                              tell.Given(claimed).When(host.Claim{Slug: "ventas", Account: "acc_2", Agent: "agt_2"}).ThenRefused("slug_taken", "slug"),
		"a bound name is taken":                                tell.Given(claimed, bound).When(host.Claim{Slug: "ventas", Account: "acc_2", Agent: "agt_2"}).ThenRefused("slug_taken", "slug"),
		"a name is taken for other agents of the same account": tell.Given(claimed).When(host.Claim{Slug: "ventas", Account: "acc_1", Agent: "agt_2"}).ThenRefused("slug_taken", "slug"),
		"a name of Nido's own is taken":                        tell.Given().When(host.Claim{Slug: "api", Account: "acc_1", Agent: "agt_1"}).ThenRefused("slug_taken", "slug"),
		"a name is a DNS label":                                tell.Given().When(host.Claim{Slug: "ventas.sur", Account: "acc_1", Agent: "agt_1"}).ThenRefused("invalid_request", "slug"),

		"a claimed name is bound":                       tell.Given(claimed).When(host.Bind{Agent: "agt_1"}).Then(bound),
		"a name is bound once":                          tell.Given(claimed, bound).When(host.Bind{Agent: "agt_1"}).ThenNothing(),
		"a name is not bound without a claim":           tell.Given().When(host.Bind{Agent: "agt_1"}).ThenRefused("slug_taken", "slug"),
		"a name is not bound after its claim was swept": tell.Given(claimed, released).When(host.Bind{Agent: "agt_1"}).ThenRefused("slug_taken", "slug"),
		"a name is not bound under another's claim":     tell.Given(claimed).When(host.Bind{Agent: "agt_2"}).ThenRefused("slug_taken", "slug"),
		"a free name is not bound to nobody":            tell.Given().When(host.Bind{}).ThenRefused("slug_taken", "slug"),

		"a bound name is released":           tell.Given(claimed, bound).When(host.Release{Agent: "agt_1"}).Then(released),
		"a claimed name is released":         tell.Given(claimed).When(host.Release{Agent: "agt_1"}).Then(released),
		"a name is released once":            tell.Given(claimed, bound, released).When(host.Release{Agent: "agt_1"}).ThenNothing(),
		"another's name is not released":     tell.Given(claimed, bound).When(host.Release{Agent: "agt_2"}).ThenNothing(),
		"a free name has nothing to release": tell.Given().When(host.Release{}).ThenNothing(),
		"a forgotten claim is swept":         tell.Given(claimed).When(host.Sweep{Agent: "agt_1"}).Then(released),
		"a bound name is not swept":          tell.Given(claimed, bound).When(host.Sweep{Agent: "agt_1"}).ThenNothing(),
		"a claim is swept once":              tell.Given(claimed, released).When(host.Sweep{Agent: "agt_1"}).ThenNothing(),
		"a claim that another made since is not swept": tell.Given(claimed, released, host.Claimed{Account: "acc_2", Agent: "agt_2"}).
			When(host.Sweep{Agent: "agt_1"}).ThenNothing(),
		"a free name has nothing to sweep": tell.Given().When(host.Sweep{}).ThenNothing(),
	}.Run(t)
}

func TestSlugs(t *testing.T) {
	for slug, want := range map[string]bool{
		"a": true, "7": true, "ventas": true, "agente-de-ventas": true, "a--b": true, "24-7": true,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
		"": false, "-ventas": false, "ventas-": false, "-": false, "Ventas": false, "ñandu": false, "a_b": false, "a.b": false, "a b": false,
		"ventas\n": false, "\nventas": false, "ventas\x00": false,
	} {
		if got := host.Slug.MatchString(slug); got != want {
			t.Errorf("%q is a slug: %v", slug, got)
		}
	}
	for slug := range host.Reserved {
		if !host.Slug.MatchString(slug) {
			t.Errorf("%q is reserved, and could not be claimed anyway", slug)
		}
	}
}

func commands() *rapid.Generator[host.Command] {
	return rapid.Custom(func(t *rapid.T) host.Command {
		agent := rapid.SampledFrom([]string{"agt_1", "agt_2", "agt_3"}).Draw(t, "agent")
		switch rapid.IntRange(0, 4).Draw(t, "command") {
		case 0, 1:
			slug := rapid.SampledFrom([]string{"ventas", "ventas", "api", "?"}).Draw(t, "slug")
			return host.Claim{Slug: slug, Account: map[string]string{"agt_1": "acc_1", "agt_2": "acc_1", "agt_3": "acc_2"}[agent], Agent: agent}
		case 2:
			return host.Bind{Agent: rapid.SampledFrom([]string{agent, ""}).Draw(t, "whom")}
		case 3:
			return host.Release{Agent: rapid.SampledFrom([]string{agent, ""}).Draw(t, "whom")}
		}
		return host.Sweep{Agent: rapid.SampledFrom([]string{agent, ""}).Draw(t, "whom")}
	})
}

func TestANameHasOneHolderWhateverIsAsked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		holders := map[string]bool{} // those that were told that the name is theirs, and not yet that it is not
		domaintest.Play(t, host.Aggregate, rapid.SliceOfN(commands(), 0, 30).Draw(t, "commands"), func(step domaintest.Step[host.Command, host.Event, host.State]) {
			for _, event := range step.Events {
				switch event := event.(type) {
				case host.Claimed:
					holders[event.Agent] = true
				case host.Bound:
					if !holders[event.Agent] {
						t.Fatalf("%#v bound the name to %q, who did not hold it", step.Command, event.Agent)
					}
				case host.Released:
					delete(holders, event.Agent)
				}
			}
			if len(holders) > 1 || (step.After.Agent == "") != (len(holders) == 0) || (step.After.Agent != "" && !holders[step.After.Agent]) {
				t.Fatalf("%#v: held by %v, says the state %+v", step.Command, holders, step.After)
			}
			if step.Before.Bound && step.After != step.Before {
				if release, ok := step.Command.(host.Release); !ok || release.Agent != step.Before.Agent || step.After != (host.State{}) {
					t.Fatalf("%#v gave a bound name away: %+v", step.Command, step.After)
				}
			}
		})
	})
}

func TestStoredEvents(t *testing.T) {
	domaintest.CheckGolden(t, host.Aggregate,
		domaintest.Golden[host.Event]{Type: "host.claimed", Schema: 1, Event: host.Claimed{Account: "acc_1", Agent: "agt_1"}},
		domaintest.Golden[host.Event]{Type: "host.bound", Schema: 1, Event: host.Bound{Agent: "agt_1"}},
		domaintest.Golden[host.Event]{Type: "host.released", Schema: 1, Event: host.Released{Agent: "agt_1"}},
	)
}
