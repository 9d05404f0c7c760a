package api

// This file stands between the routes of agents and their commands and queries.

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/projections"
)

// AgentCommands changes agents.
type AgentCommands interface {
	Create(ctx context.Context, meta commands.Meta, in commands.CreateAgent) (id string, err error)
	Configure(ctx context.Context, meta commands.Meta, id string, changes agent.Changes) error
	Restore(ctx context.Context, meta commands.Meta, id string, version int, settings agent.Settings) error
	Pause(ctx context.Context, meta commands.Meta, id string) error
	Resume(ctx context.Context, meta commands.Meta, id string) error
	Delete(ctx context.Context, meta commands.Meta, id string) error
}

// AgentQueries reads agents.
type AgentQueries interface {
	Get(ctx context.Context, account, id string) (projections.Agent, error)
	List(ctx context.Context, account string, only []string, page projections.Page) ([]projections.Agent, *projections.Cursor, error)
	Versions(ctx context.Context, account, id string, below, limit int) ([]projections.AgentVersion, error)
	Version(ctx context.Context, account, id string, version int) (projections.AgentVersion, error)
}

// CreateAgent implements ServerInterface.
func (s *Server) CreateAgent(w http.ResponseWriter, r *http.Request, _ CreateAgentParams) {
	x := exchangeOf(r)
	in, err := decode[AgentCreate](x)
	if err == nil && bound(x) != nil {
		err = problem("agent_not_allowed") // a key that is bound to agents cannot reach beyond them
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	id, err := s.config.AgentCommands.Create(r.Context(), x.meta(r), commands.CreateAgent{
		Slug: or(in.Slug, ""),
		Settings: agent.Settings{
			Name: in.Name, Instructions: or(in.Instructions, ""), Model: in.Model, Temperature: in.Temperature,
			MaxOutputTokens: in.MaxOutputTokens, HistoryLimit: in.HistoryLimit, Metadata: or(in.Metadata, nil),
			RateLimit: rateLimitIn(in.RateLimit),
		},
	})
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	created, err := s.agent(r, id)
	w.Header().Set("Location", "/api/agents/"+id)
	s.answer(w, r, http.StatusCreated, created, err)
}

// ListAgents implements ServerInterface.
func (s *Server) ListAgents(w http.ResponseWriter, r *http.Request, params ListAgentsParams) {
	x := exchangeOf(r)
	from, err := page(r, params.Limit, params.Cursor)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, next, err := s.config.Agents.List(r.Context(), x.caller.Account, bound(x), from)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	data := make([]Agent, len(found))
	for i, one := range found {
		data[i] = s.agentOut(one)
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, AgentList{Data: data, NextCursor: cursor}, err)
}

// GetAgent implements ServerInterface.
func (s *Server) GetAgent(w http.ResponseWriter, r *http.Request, id AgentPathID) {
	found, err := s.agent(r, id)
	s.answer(w, r, http.StatusOK, found, err)
}

// ConfigureAgent implements ServerInterface.
func (s *Server) ConfigureAgent(w http.ResponseWriter, r *http.Request, id AgentPathID, _ ConfigureAgentParams) {
	x := exchangeOf(r)
	changes, err := changesIn(x)
	s.changeAgent(w, r, id, err, func() error {
		return s.config.AgentCommands.Configure(r.Context(), x.meta(r), id, changes)
	})
}

// PauseAgent implements ServerInterface.
func (s *Server) PauseAgent(w http.ResponseWriter, r *http.Request, id AgentPathID, _ PauseAgentParams) {
	s.changeAgent(w, r, id, nil, func() error {
		return s.config.AgentCommands.Pause(r.Context(), exchangeOf(r).meta(r), id)
	})
}

// ResumeAgent implements ServerInterface.
func (s *Server) ResumeAgent(w http.ResponseWriter, r *http.Request, id AgentPathID, _ ResumeAgentParams) {
	s.changeAgent(w, r, id, nil, func() error {
		return s.config.AgentCommands.Resume(r.Context(), exchangeOf(r).meta(r), id)
	})
}

// RestoreAgentVersion implements ServerInterface.
func (s *Server) RestoreAgentVersion(w http.ResponseWriter, r *http.Request, id AgentPathID, version Version, _ RestoreAgentVersionParams) {
	x := exchangeOf(r)
	s.changeAgent(w, r, id, nil, func() error {
		earlier, err := s.version(r, id, version)
		if err != nil {
			return err
		}
		return s.config.AgentCommands.Restore(r.Context(), x.meta(r), id, version, earlier.Settings)
	})
}

// DeleteAgent implements ServerInterface.
func (s *Server) DeleteAgent(w http.ResponseWriter, r *http.Request, id AgentPathID, _ DeleteAgentParams) {
	x := exchangeOf(r)
	x.record.AgentID = id
	err := reaches(x, id)
	if err == nil {
		err = s.config.AgentCommands.Delete(r.Context(), x.meta(r), id)
	}
	s.done(w, r, err)
}

// ListAgentVersions implements ServerInterface.
func (s *Server) ListAgentVersions(w http.ResponseWriter, r *http.Request, id AgentPathID, params ListAgentVersionsParams) {
	after, err := readCursor[int](r, params.Cursor)
	if err == nil {
		_, err = s.agent(r, id) // an agent that is not there has no versions, which is not the same as none left
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	limit := or(params.Limit, defaultPage)
	found, err := s.config.Agents.Versions(r.Context(), exchangeOf(r).caller.Account, id, or(after, 0), limit+1)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	var next *int
	if len(found) > limit {
		found, next = found[:limit], &found[limit-1].Version
	}
	data := make([]AgentVersion, len(found))
	for i, one := range found {
		data[i] = versionOut(one)
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, AgentVersionList{Data: data, NextCursor: cursor}, err)
}

// GetAgentVersion implements ServerInterface.
func (s *Server) GetAgentVersion(w http.ResponseWriter, r *http.Request, id AgentPathID, version Version) {
	found, err := s.version(r, id, version)
	s.answer(w, r, http.StatusOK, versionOut(found), err)
}

// changeAgent runs a command on an agent that the key reaches, and answers with the agent behind it.
func (s *Server) changeAgent(w http.ResponseWriter, r *http.Request, id string, err error, command func() error) {
	x := exchangeOf(r)
	x.record.AgentID = id
	if err == nil {
		err = reaches(x, id)
	}
	if err == nil {
		err = command()
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.GetAgent(w, r, id)
}

func (s *Server) agent(r *http.Request, id string) (Agent, error) {
	x := exchangeOf(r)
	x.record.AgentID = id
	if err := reaches(x, id); err != nil {
		return Agent{}, err
	}
	found, err := s.config.Agents.Get(r.Context(), x.caller.Account, id)
	return s.agentOut(found), notFoundAs(err, "agent_not_found")
}

func (s *Server) version(r *http.Request, id string, version int) (projections.AgentVersion, error) {
	if _, err := s.agent(r, id); err != nil {
		return projections.AgentVersion{}, err
	}
	found, err := s.config.Agents.Version(r.Context(), exchangeOf(r).caller.Account, id, version)
	return found, notFoundAs(err, "version_not_found")
}

// changesIn reads a patch: what it names changes, null goes back to the default.
func changesIn(x *exchange) (agent.Changes, error) {
	in, err := decode[AgentPatch](x)
	if err != nil {
		return agent.Changes{}, err
	}
	named, err := decode[map[string]json.RawMessage](x)
	if err != nil {
		return agent.Changes{}, err
	}
	changes := agent.Changes{
		Name: in.Name, Instructions: in.Instructions, Model: in.Model, Temperature: in.Temperature,
		MaxOutputTokens: in.MaxOutputTokens, HistoryLimit: in.HistoryLimit, RateLimit: rateLimitIn(in.RateLimit),
	}
	if in.Metadata != nil {
		metadata := map[string]string(*in.Metadata)
		changes.Metadata = &metadata
	}
	for _, field := range []agent.Field{agent.Temperature, agent.MaxOutputTokens, agent.HistoryLimit, agent.Metadata, agent.RateLimits} {
		if string(named[string(field)]) == "null" {
			changes.Clear = append(changes.Clear, field)
		}
	}
	return changes, nil
}

func (s *Server) agentOut(a projections.Agent) Agent {
	return Agent{
		ID: a.ID, Slug: a.Slug, Endpoint: s.endpoint(a.Slug), Status: AgentStatus(a.Status), Version: a.Version,
		Name: a.Settings.Name, Instructions: a.Settings.Instructions, Model: a.Settings.Model, Temperature: a.Settings.Temperature,
		MaxOutputTokens: a.Settings.MaxOutputTokens, HistoryLimit: a.Settings.HistoryLimit, RateLimit: rateLimitOut(a.Settings.RateLimit),
		Metadata: dictionary(a.Settings.Metadata), CreatedAt: Timestamp(a.CreatedAt), UpdatedAt: Timestamp(a.ChangedAt),
	}
}

// endpoint is where an agent is chatted with on its own host: scheme and port are those of the management API.
func (s *Server) endpoint(slug string) string {
	public, err := url.Parse(s.config.PublicURL)
	if err != nil { // Validate has parsed it
		return ""
	}
	host := slug + "." + s.config.BaseDomain
	if port := public.Port(); port != "" {
		host += ":" + port
	}
	return public.Scheme + "://" + host + "/api/v1/chat"
}

func versionOut(v projections.AgentVersion) AgentVersion {
	return AgentVersion{
		Version: v.Version, Restores: some(v.Restores), Name: v.Settings.Name, Instructions: v.Settings.Instructions,
		Model: v.Settings.Model, Temperature: v.Settings.Temperature, MaxOutputTokens: v.Settings.MaxOutputTokens,
		HistoryLimit: v.Settings.HistoryLimit, RateLimit: rateLimitOut(v.Settings.RateLimit),
		Metadata: dictionary(v.Settings.Metadata), CreatedAt: Timestamp(v.At),
	}
}

func rateLimitIn(limit *RateLimit) *agent.RateLimit {
	if limit == nil {
		return nil
	}
	return &agent.RateLimit{PerMinute: or(limit.PerMinute, 0), PerDay: or(limit.PerDay, 0)}
}

func rateLimitOut(limit *agent.RateLimit) *RateLimit {
	if limit == nil {
		return nil
	}
	return &RateLimit{PerMinute: &limit.PerMinute, PerDay: &limit.PerDay}
}
