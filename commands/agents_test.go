package commands_test

// This file stands at the command: creating agents under names of their own, whatever stops on the way.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/host"
)

var ana = commands.CreateAgent{Settings: agent.Settings{Name: "Ana", Model: "echo"}}

// routes are the names that lead to an agent, with who holds them.
func routes(t *testing.T, m *memory) map[string]host.State {
	t.Helper()
	hosts := map[string]host.State{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, stream := range m.streams {
		if state, ok := stream.state.(host.State); ok && state != (host.State{}) {
			hosts[id.Name()] = state
		}
	}
	return hosts
}

func agentState(t *testing.T, m *memory, id string) agent.State {
	t.Helper()
	state, err := agent.Aggregate.DecodeState(m.snapshot(t, agent.Aggregate.Stream(id)).State)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func create(t *testing.T, m *memory, seed byte, in commands.CreateAgent) string {
	t.Helper()
	id, err := commands.NewAgents(m.store()).Create(t.Context(), metaAt(seed), in)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// freshAt is metaAt for the first run of a request.
func freshAt(seed byte) commands.Meta {
	meta := metaAt(seed)
	meta.Inputs.Fresh = true
	return meta
}

// runs are the two ways in which an agent is created: by the first run of a request, and by a later one.
var runs = map[string]func(seed byte) commands.Meta{"in its first run": freshAt, "in a later run": metaAt}

func refusedAs(t *testing.T, err error, code string) {
	t.Helper()
	if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != code {
		t.Fatalf("answered %v, and not %s", err, code)
	}
}

func TestAnAgentIsCreatedUnderItsName(t *testing.T) {
	m := newMemory()
	id := create(t, m, 1, ana)
	if types := typesOf(m.commits()); !slices.Equal(types, []string{"host.claimed", "agent.created", "host.bound"}) {
		t.Errorf("commits %q", types)
	}
	if got := routes(t, m)["ana"]; got != (host.State{Account: "acc_1", Agent: id, Bound: true}) {
		t.Errorf("the name leads to %+v", got)
	}
	if state := agentState(t, m, id); state.Slug != "ana" || state.Status != agent.Active || state.Account != "acc_1" {
		t.Errorf("the agent is %+v", state)
	}
	second := create(t, m, 2, ana)
	if state := agentState(t, m, second); !strings.HasPrefix(state.Slug, "ana-") || routes(t, m)[state.Slug].Agent != second {
		t.Errorf("the second of that name is %+v", state)
	}
	if state := agentState(t, m, create(t, m, 3, commands.CreateAgent{Settings: agent.Settings{Name: "API", Model: "echo"}})); !strings.HasPrefix(state.Slug, "api-") {
		t.Errorf("an agent named like a reserved name is %+v", state)
	}
}

func TestARefusedAgentTakesNoName(t *testing.T) {
	for sentence, test := range map[string]struct {
		in   commands.CreateAgent
		code string
	}{
		"without a model":       {commands.CreateAgent{Settings: agent.Settings{Name: "Ana"}}, "invalid_request"},
		"under no slug":         {commands.CreateAgent{Slug: "-", Settings: ana.Settings}, "invalid_request"},
		"under a reserved slug": {commands.CreateAgent{Slug: "www", Settings: ana.Settings}, "slug_taken"},
		"under a taken slug":    {commands.CreateAgent{Slug: "taken", Settings: ana.Settings}, "slug_taken"},
	} {
		t.Run(sentence, func(t *testing.T) {
			m := newMemory()
			create(t, m, 1, commands.CreateAgent{Slug: "taken", Settings: ana.Settings})
			before := len(m.commits())
			_, err := commands.NewAgents(m.store()).Create(t.Context(), metaAt(2), test.in)
			refusedAs(t, err, test.code)
			if len(m.commits()) != before {
				t.Errorf("commits %q", typesOf(m.commits()[before:]))
			}
		})
	}
}

func TestACreationThatStopsAnywhereIsFinishedByItsRetry(t *testing.T) {
	fates := map[string]fate{"before the log": refused, "on the way": lost, "after the log": unheard, "before the fold's word": unfolded}
	for stop := range 3 {
		for where, how := range fates {
			for run, first := range runs {
				t.Run(fmt.Sprintf("at commit %d %s %s", stop+1, where, run), func(t *testing.T) {
					m := newMemory()
					appends := 0
					m.fates = func(domain.Commit) fate {
						appends++
						if appends == stop+1 {
							return how
						}
						return arrives
					}
					finishedByItsRetry(t, m, first(1))
				})
			}
		}
	}
}

func TestAnAgentThatWasDeletedBeforeItsCreationWasRepeatedKeepsNoName(t *testing.T) {
	m := newMemory()
	agents := commands.NewAgents(m.store())
	id, err := agents.Create(t.Context(), freshAt(1), ana)
	if err != nil {
		t.Fatal(err)
	}
	if err := agents.Delete(t.Context(), metaAt(2), id); err != nil {
		t.Fatal(err)
	}
	if again, err := agents.Create(t.Context(), metaAt(1), ana); err != nil || again != id { // its first answer was lost
		t.Fatalf("created %s, %v", again, err)
	}
	if hosts := routes(t, m); len(hosts) != 0 {
		t.Errorf("names of an agent that is gone: %+v", hosts)
	}
}

func finishedByItsRetry(t *testing.T, m *memory, first commands.Meta) {
	t.Helper()
	agents := commands.NewAgents(m.store())
	if _, err := agents.Create(t.Context(), first, ana); err == nil {
		t.Fatal("nothing stopped it")
	}
	id, err := agents.Create(t.Context(), metaAt(1), ana)
	if err != nil {
		t.Fatal(err)
	}
	if types := typesOf(m.commits()); !slices.Equal(types, []string{"host.claimed", "agent.created", "host.bound"}) {
		t.Errorf("commits %q", types)
	}
	if hosts := routes(t, m); len(hosts) != 1 || hosts["ana"] != (host.State{Account: "acc_1", Agent: id, Bound: true}) {
		t.Errorf("names %+v", hosts)
	}
}

func TestAClaimThatWasSweptIsMadeAgain(t *testing.T) {
	for run, first := range runs {
		t.Run(run, func(t *testing.T) {
			m := newMemory()
			sweeper := commands.NewAgents(m.store())
			meta := metaAt(1)
			id := meta.Inputs.ID("agt")
			m.before = func(commit domain.Commit) {
				if commit.Stream.Kind() == "agent" && commit.Base == 0 { // the creator is slow, and its claim is given back
					if err := sweeper.FinishClaim(t.Context(), metaAt(9), "ana", id); err != nil {
						t.Error(err)
					}
				}
			}
			if got, err := commands.NewAgents(m.store()).Create(t.Context(), first(1), ana); err != nil || got != id {
				t.Fatalf("created %s, %v", got, err)
			}
			want := []string{"host.claimed", "host.released", "agent.created", "host.claimed", "host.bound"}
			if types := typesOf(m.happened()); !slices.Equal(types, want) {
				t.Errorf("commits %q", types)
			}
			before := len(m.commits())
			if got := create(t, m, 1, ana); got != id || len(m.commits()) != before {
				t.Errorf("a retry made %s and %d commits", got, len(m.commits()))
			}
		})
	}
}

func TestAnAgentWhoseNameWentToAnotherIsWithdrawn(t *testing.T) {
	for run, first := range runs {
		t.Run(run, func(t *testing.T) {
			m := newMemory()
			other := commands.NewAgents(m.store())
			meta := metaAt(1)
			id := meta.Inputs.ID("agt")
			m.before = func(commit domain.Commit) {
				if commit.Stream == agent.Aggregate.Stream(id) && commit.Base == 0 {
					if err := other.FinishClaim(t.Context(), metaAt(9), "ana", id); err != nil {
						t.Error(err)
					}
					create(t, m, 2, commands.CreateAgent{Slug: "ana", Settings: ana.Settings})
				}
			}
			_, err := commands.NewAgents(m.store()).Create(t.Context(), first(1), ana)
			refusedAs(t, err, "slug_taken")
			if state := agentState(t, m, id); state.Status != agent.Gone {
				t.Errorf("the agent without a name is %+v", state)
			}
			if got := routes(t, m)["ana"]; got.Agent == id || !got.Bound {
				t.Errorf("the name leads to %+v", got)
			}
		})
	}
}

func TestAFirstRunReadsOneStreamAndAppendsThreeCommits(t *testing.T) {
	m := newMemory()
	if _, err := commands.NewAgents(m.store()).Create(t.Context(), freshAt(1), ana); err != nil {
		t.Fatal(err)
	}
	if types := typesOf(m.commits()); !slices.Equal(types, []string{"host.claimed", "agent.created", "host.bound"}) {
		t.Errorf("commits %q", types)
	}
	if m.loadCount() != 1 {
		t.Errorf("%d streams were read", m.loadCount())
	}
}

func TestAFirstRunThatWasTakenForDeadJoinsTheOther(t *testing.T) {
	for sentence, slug := range map[string]string{
		"under the same name": "",
		"under another":       "eva", // stands for a name that was free for one of the two runs only
	} {
		t.Run(sentence, func(t *testing.T) {
			m := newMemory()
			other := commands.NewAgents(m.store())
			meta := metaAt(1)
			id := meta.Inputs.ID("agt")
			named := ana
			named.Slug = slug
			m.before = func(commit domain.Commit) {
				if commit.Stream == agent.Aggregate.Stream(id) && commit.Base == 0 {
					m.before = nil
					if _, err := other.Create(t.Context(), metaAt(1), named); err != nil {
						t.Error(err)
					}
				}
			}
			if got, err := commands.NewAgents(m.store()).Create(t.Context(), freshAt(1), ana); err != nil || got != id {
				t.Fatalf("created %s, %v", got, err)
			}
			want := agentState(t, m, id).Slug
			if hosts := routes(t, m); len(hosts) != 1 || hosts[want] != (host.State{Account: "acc_1", Agent: id, Bound: true}) {
				t.Errorf("the agent is %q, names %+v", want, hosts)
			}
			if created := m.accepted(t, "agent"); len(created) != 1 {
				t.Errorf("events %+v", created)
			}
		})
	}
}

func TestALeftClaimIsFinishedOrGivenBack(t *testing.T) {
	claim := func(t *testing.T, m *memory, slug, id string) {
		t.Helper()
		hosts := commands.Handler[host.Command, host.Event, host.State]{Store: m.store(), Aggregate: host.Aggregate}
		if _, err := hosts.Handle(t.Context(), slug, "claim", metaAt(8), host.Claim{Slug: slug, Account: "acc_1", Agent: id}); err != nil {
			t.Fatal(err)
		}
	}
	finish := func(t *testing.T, m *memory, slug, id string) {
		t.Helper()
		if err := commands.NewAgents(m.store()).FinishClaim(t.Context(), metaAt(9), slug, id); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("given back where no agent was created", func(t *testing.T) {
		m := newMemory()
		claim(t, m, "ana", "agt_nobody")
		finish(t, m, "ana", "agt_nobody")
		if hosts := routes(t, m); len(hosts) != 0 {
			t.Errorf("names %+v", hosts)
		}
	})
	t.Run("bound where the agent was created", func(t *testing.T) {
		m := newMemory()
		m.fates = func(commit domain.Commit) fate {
			if commit.Events[0].Type == "host.bound" && commit.Command != "" && len(m.commits()) == 2 {
				return refused
			}
			return arrives
		}
		agents := commands.NewAgents(m.store())
		if _, err := agents.Create(t.Context(), metaAt(1), ana); !errors.Is(err, commands.ErrUnavailable) {
			t.Fatalf("answered %v", err)
		}
		m.fates = nil
		meta := metaAt(1)
		id := meta.Inputs.ID("agt")
		finish(t, m, "ana", id)
		if got := routes(t, m)["ana"]; got.Agent != id || !got.Bound {
			t.Errorf("the name leads to %+v", got)
		}
	})
	t.Run("given back where the agent was deleted", func(t *testing.T) {
		m := newMemory()
		id := create(t, m, 1, ana)
		if err := commands.NewAgents(m.store()).Delete(t.Context(), metaAt(2), id); err != nil {
			t.Fatal(err)
		}
		claim(t, m, "ana-2", id)
		finish(t, m, "ana-2", id)
		if hosts := routes(t, m); len(hosts) != 0 {
			t.Errorf("names %+v", hosts)
		}
	})
	t.Run("given back where the agent goes by another name", func(t *testing.T) {
		m := newMemory()
		id := create(t, m, 1, ana)
		claim(t, m, "ana-2", id) // a retry found a better name free by then
		finish(t, m, "ana-2", id)
		if hosts := routes(t, m); len(hosts) != 1 || !hosts["ana"].Bound {
			t.Errorf("names %+v", hosts)
		}
	})
}

func TestADeletedAgentFreesItsName(t *testing.T) {
	m := newMemory()
	agents := commands.NewAgents(m.store())
	id := create(t, m, 1, ana)
	for range 2 {
		if err := agents.Delete(t.Context(), metaAt(2), id); err != nil {
			t.Fatal(err)
		}
	}
	if types := typesOf(m.commits()[3:]); !slices.Equal(types, []string{"agent.deleted", "host.released"}) {
		t.Errorf("commits %q", types)
	}
	next := create(t, m, 3, ana)
	if err := agents.Delete(t.Context(), metaAt(4), id); err != nil { // late, and again
		t.Fatal(err)
	}
	if got := routes(t, m)["ana"]; got.Agent != next || !got.Bound {
		t.Errorf("the name leads to %+v", got)
	}
	stranger := metaAt(5)
	stranger.Account = "acc_2"
	refusedAs(t, agents.Delete(t.Context(), stranger, next), "agent_not_found")
}

func TestAnAgentsLaterLife(t *testing.T) {
	m := newMemory()
	agents := commands.NewAgents(m.store())
	id := create(t, m, 1, ana)
	for i, step := range []func(commands.Meta) error{
		func(meta commands.Meta) error {
			return agents.Configure(t.Context(), meta, id, agent.Changes{Name: new("Eva"), Temperature: new(1.0)})
		},
		func(meta commands.Meta) error { return agents.Pause(t.Context(), meta, id) },
		func(meta commands.Meta) error { return agents.Resume(t.Context(), meta, id) },
		func(meta commands.Meta) error { return agents.Restore(t.Context(), meta, id, 1, ana.Settings) },
	} {
		if err := step(metaAt(byte(i + 2))); err != nil {
			t.Fatal(err)
		}
	}
	want := []any{
		agent.Created{Account: "acc_1", Slug: "ana", Settings: ana.Settings},
		"configured", agent.Paused{}, agent.Resumed{}, "restored",
	}
	events := m.accepted(t, "agent")
	if len(events) != len(want) || events[2] != want[2] || events[3] != want[3] || events[4].(agent.Configured).Restores != 1 {
		t.Fatalf("events %+v", events)
	}
	if state := agentState(t, m, id); state.Version != 3 || state.Settings.Name != "Ana" || state.Settings.Temperature != nil || state.Status != agent.Active {
		t.Errorf("the agent is %+v", state)
	}
	stranger := metaAt(9)
	stranger.Account = "acc_2"
	refusedAs(t, agents.Pause(t.Context(), stranger, id), "agent_not_found")
}
