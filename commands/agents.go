package commands

// This file stands at the command: creating an agent under a name of its own, and everything later on its stream.

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/host"
)

// Agents runs the commands on agents and on the hosts under which they are reached.
type Agents struct {
	agents Handler[agent.Command, agent.Event, agent.State]
	hosts  Handler[host.Command, host.Event, host.State]
}

// NewAgents wires the handlers.
func NewAgents(store Store) *Agents {
	return &Agents{
		agents: Handler[agent.Command, agent.Event, agent.State]{Store: store, Aggregate: agent.Aggregate},
		hosts:  Handler[host.Command, host.Event, host.State]{Store: store, Aggregate: host.Aggregate},
	}
}

// CreateAgent asks for an agent. An empty Slug is derived from the name.
type CreateAgent struct {
	Slug     string
	Settings agent.Settings
}

// Create claims the slug, creates the agent and binds the slug to it. Whoever stops in between leaves a claim that
// the sweeper finishes or gives back; a retry with the same inputs goes on where it stopped.
func (a *Agents) Create(ctx context.Context, meta Meta, in CreateAgent) (id string, err error) {
	id = meta.Inputs.ID("agt")
	create := agent.Create{Created: agent.Created{Account: meta.Account, Slug: in.Slug, Settings: in.Settings}}
	if _, err := agent.Aggregate.Decider.Decide(create, agent.State{}); err != nil {
		return "", err // before a slug is taken for nothing
	}
	slug, held, err := a.claim(ctx, meta, id, in)
	if err != nil {
		return "", err
	}
	create.Slug = slug
	if meta.Inputs.Fresh && held != nil {
		return id, a.createFresh(ctx, meta, id, create, *held)
	}
	created, err := a.agents.Handle(ctx, id, "create", meta, create)
	if err != nil {
		return "", err
	}
	return id, a.bindCreated(ctx, meta, created.State, id)
}

// bindCreated routes the name of an agent that may have been created by an earlier run of the request. Who heard of it
// meanwhile may have deleted it: its name stays free then, and a claim that this run has made is swept.
func (a *Agents) bindCreated(ctx context.Context, meta Meta, created agent.State, id string) error {
	if created.Status == agent.Gone {
		return nil
	}
	return a.bind(ctx, meta, created.Slug, id)
}

// createFresh appends the creation and, once that is in the log, the binding of the name, and waits for the fold's word on
// both together: three commits cost two waits. A bound name must not outlive a creation that never happened, so the
// creation is durable first; and it cannot lose, since the agent's stream has a random name and no earlier run of this
// request can have written to it. The one exception is a run under the same Idempotency-Key that took this one for dead.
func (a *Agents) createFresh(ctx context.Context, meta Meta, id string, create agent.Create, held Known[host.State]) error {
	decision, err := a.agents.Decide(Known[agent.State]{}, id, "create", meta, create)
	if err != nil {
		return err
	}
	began, called := time.Now(), commandName(agent.Aggregate.Kind, "create")
	position, err := a.agents.append(ctx, decision.Commit)
	if err != nil {
		a.agents.observer().Commanded(called, outcomeOf(err), 0, time.Since(began))
		return err
	}
	_, bound := a.hosts.handle(ctx, create.Slug, "bind", meta, host.Bind{Agent: id}, &held)
	accepted, err := a.agents.await(ctx, position)
	if accepted || err != nil { // else another run of the request was quicker, and what is left is counted as its retry
		a.agents.observer().Commanded(called, outcomeOf(err), 0, time.Since(began))
	}
	switch _, refused := errors.AsType[*domain.Refusal](bound); {
	case err != nil:
		return err
	case !accepted:
		return a.joinOther(ctx, meta, id, create)
	case refused: // by the sweeper's release, which took this creation for dead
		return a.bind(ctx, meta, create.Slug, id)
	}
	return bound
}

// joinOther goes on where another run of the same request has created the agent, perhaps under another name: ours is given
// back then.
func (a *Agents) joinOther(ctx context.Context, meta Meta, id string, create agent.Create) error {
	created, err := a.agents.Handle(ctx, id, "create", meta, create)
	if err != nil {
		return err
	}
	if created.State.Slug != create.Slug {
		if _, err := a.hosts.Handle(ctx, create.Slug, "return", meta, host.Release{Agent: id}); err != nil {
			return err
		}
	}
	return a.bindCreated(ctx, meta, created.State, id)
}

// claim takes the wanted slug, or the first free of those that the name suggests. It also returns the host's stream as this
// claim left it, nil where an earlier run had made the claim: then what came behind it is not known.
func (a *Agents) claim(ctx context.Context, meta Meta, id string, in CreateAgent) (string, *Known[host.State], error) {
	wanted := []string{in.Slug}
	if in.Slug == "" {
		wanted = suggestions(in.Settings.Name, meta.Inputs)
	}
	var err error
	for _, slug := range wanted {
		var claimed Result[host.Event, host.State]
		claimed, err = a.hosts.Handle(ctx, slug, "claim", meta, host.Claim{Slug: slug, Account: meta.Account, Agent: id})
		switch refusal, refused := errors.AsType[*domain.Refusal](err); {
		case err == nil && len(claimed.Events) == 0:
			return slug, nil, nil
		case err == nil:
			return slug, &Known[host.State]{State: claimed.State, Version: claimed.Version}, nil
		case !refused || refusal.Code != "slug_taken":
			return "", nil, err
		}
	}
	return "", nil, err
}

// bind routes the slug to the agent, which exists by now. Where a sweeper has given the claim back in the meantime the
// slug is claimed once more; if it is gone, the agent, which nobody can have seen under its name, is deleted again.
func (a *Agents) bind(ctx context.Context, meta Meta, slug, id string) error {
	_, err := a.hosts.Handle(ctx, slug, "bind", meta, host.Bind{Agent: id})
	if _, refused := errors.AsType[*domain.Refusal](err); !refused {
		return err
	}
	_, err = a.hosts.Handle(ctx, slug, "claim again", meta, host.Claim{Slug: slug, Account: meta.Account, Agent: id})
	if err == nil {
		_, err = a.hosts.Handle(ctx, slug, "bind again", meta, host.Bind{Agent: id})
	}
	if _, refused := errors.AsType[*domain.Refusal](err); !refused {
		return err
	}
	if _, deleted := a.agents.Handle(ctx, id, "withdraw", meta, agent.Delete{Account: meta.Account}); deleted != nil {
		return errors.Join(err, deleted)
	}
	return err
}

// Configure changes an agent's settings.
func (a *Agents) Configure(ctx context.Context, meta Meta, id string, changes agent.Changes) error {
	_, err := a.agents.Handle(ctx, id, "configure", meta, agent.Configure{Account: meta.Account, Changes: changes})
	return err
}

// Restore gives an agent the settings of an earlier version again, as a new version.
func (a *Agents) Restore(ctx context.Context, meta Meta, id string, version int, settings agent.Settings) error {
	restore := agent.Configure{Account: meta.Account, Changes: agent.Replace(settings), Restores: version}
	_, err := a.agents.Handle(ctx, id, "restore", meta, restore)
	return err
}

// Pause stops an agent from answering.
func (a *Agents) Pause(ctx context.Context, meta Meta, id string) error {
	_, err := a.agents.Handle(ctx, id, "pause", meta, agent.Pause{Account: meta.Account})
	return err
}

// Resume lets it answer again.
func (a *Agents) Resume(ctx context.Context, meta Meta, id string) error {
	_, err := a.agents.Handle(ctx, id, "resume", meta, agent.Resume{Account: meta.Account})
	return err
}

// Delete ends an agent and frees its slug. The agent goes first: a freed name must never route to it.
func (a *Agents) Delete(ctx context.Context, meta Meta, id string) error {
	deleted, err := a.agents.Handle(ctx, id, "delete", meta, agent.Delete{Account: meta.Account})
	if err != nil {
		return err
	}
	_, err = a.hosts.Handle(ctx, deleted.State.Slug, "release", meta, host.Release{Agent: id})
	return err
}

// FinishClaim ends a claim that its creator left behind: the slug is bound if the agent was created after all, and
// given back otherwise: also where the agent goes by another name, since a retried creation may have found a name free
// that was taken before. The agent's own stream is asked, under a commit-free snapshot of it.
func (a *Agents) FinishClaim(ctx context.Context, meta Meta, slug, id string) error {
	snapshot, err := a.agents.Streams.Load(ctx, agent.Aggregate.Stream(id), meta.Inputs.Command("finish"))
	if err != nil {
		return err
	}
	state, err := agent.Aggregate.DecodeState(snapshot.State)
	if err != nil {
		return err
	}
	if state.Slug == slug && (state.Status == agent.Active || state.Status == agent.Halted) {
		_, err = a.hosts.Handle(ctx, slug, "finish", meta, host.Bind{Agent: id})
		return err
	}
	_, err = a.hosts.Handle(ctx, slug, "finish", meta, host.Sweep{Agent: id})
	return err
}

// suggestions turns a name into slugs: the plain one, and ones with a random ending in case it is taken.
func suggestions(name string, inputs Inputs) []string {
	stem := slugify(name)
	ending := func(length int) string { return strings.TrimPrefix(inputs.ID("slug"), "slug_")[:length] }
	if stem == "" {
		return []string{"agent-" + ending(8), "agent-" + ending(16)}
	}
	return []string{stem, stem + "-" + ending(4), stem + "-" + ending(12)}
}

// slugify keeps a name's letters and digits without their accents, in lower case, joined by hyphens.
func slugify(name string) string {
	const room = 63 - 13 // a DNS label less the longest ending
	var slug strings.Builder
	hyphen := false
	for _, r := range norm.NFKD.String(strings.ToLower(name)) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			if hyphen && slug.Len() > 0 {
				slug.WriteByte('-')
			}
			hyphen = false
			slug.WriteRune(r)
		case !unicode.Is(unicode.Mn, r): // an accent that NFKD has split off leaves no trace
			hyphen = true
		}
		if slug.Len() >= room {
			break
		}
	}
	return strings.TrimSuffix(slug.String()[:min(slug.Len(), room)], "-") // a hyphen and a letter can have gone one too far
}
