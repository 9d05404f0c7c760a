package api

// This file stands where a client that speaks OpenAI's API asks which models there are: the agents that its key reaches.

import (
	"fmt"
	"net/http"

	"github.com/nidohq/nido/projections"
)

// ListModelsOnHost implements ServerInterface.
func (s *Server) ListModelsOnHost(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	found, err := s.modelAgent(r, projections.Admission{PublicID: x.key.PublicID, Slug: x.slug})
	s.answer(w, r, http.StatusOK, models(found), err)
}

// GetModelOnHost implements ServerInterface.
func (s *Server) GetModelOnHost(w http.ResponseWriter, r *http.Request, name ModelName) {
	x := exchangeOf(r)
	found, err := s.modelAgent(r, projections.Admission{PublicID: x.key.PublicID, Slug: x.slug})
	if err == nil && name != found.Slug && name != found.ID {
		err = &Problem{Code: "agent_not_found", Field: "model"}
	}
	s.answer(w, r, http.StatusOK, modelOf(found), err)
}

// GetModel implements ServerInterface.
func (s *Server) GetModel(w http.ResponseWriter, r *http.Request, name ModelName) {
	x := exchangeOf(r)
	to := named(name)
	to.PublicID = x.key.PublicID
	found, err := s.modelAgent(r, to)
	s.answer(w, r, http.StatusOK, modelOf(found), asModel(err, x))
}

// modelAgent finds an agent that the key reaches.
func (s *Server) modelAgent(r *http.Request, to projections.Admission) (projections.Agent, error) {
	x := exchangeOf(r)
	found, err := s.config.Chats.Admit(r.Context(), to)
	switch {
	case err != nil:
		return projections.Agent{}, fmt.Errorf("look for the agent: %w", err)
	case found.Agent == nil && x.slug != "":
		return projections.Agent{}, problem("host_not_found")
	case found.Agent == nil:
		return projections.Agent{}, problem("agent_not_found")
	}
	return *found.Agent, reaches(x, found.Agent.ID)
}

// maxModels bounds the list, which OpenAI's clients expect whole.
const maxModels = 1000

// ListModels implements ServerInterface.
func (s *Server) ListModels(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	var all []projections.Agent
	for page := (projections.Page{Limit: 100}); len(all) < maxModels; {
		found, next, err := s.config.Agents.List(r.Context(), x.caller.Account, bound(x), page)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		all = append(all, found...)
		if next == nil {
			break
		}
		page.After = next
	}
	s.answer(w, r, http.StatusOK, models(all...), nil)
}

func models(agents ...projections.Agent) ModelList {
	list := ModelList{Object: "list", Data: make([]Model, len(agents))}
	for i, agent := range agents {
		list.Data[i] = modelOf(agent)
	}
	return list
}

func modelOf(agent projections.Agent) Model {
	return Model{ID: agent.Slug, Object: "model", Created: agent.CreatedAt.Unix(), OwnedBy: agent.Account}
}
