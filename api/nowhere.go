package api

// This file stands where a request leads nowhere: to a path that its host does not have, by a method that the path does not
// have, or with a parameter that cannot be read.

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
)

func (s *Server) refusing(err func(*http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.refuse(w, r, err(r)) })
}

// refuseParameter answers a parameter that the generated binding could not read.
func (s *Server) refuseParameter(w http.ResponseWriter, r *http.Request, err error) {
	name := "parameter"
	if bad, ok := errors.AsType[*InvalidParamFormatError](err); ok {
		name = bad.ParamName
	} else if missing, ok := errors.AsType[*RequiredParamError](err); ok {
		name = missing.ParamName
	} else if many, ok := errors.AsType[*TooManyValuesForParamError](err); ok {
		name = many.ParamName
	}
	s.refuse(w, r, invalid(name, name+" is not valid.", name+" no es válido."))
}

// nowhere refuses a path that this host does not have, and says where it is if another host has it: who begins sends a chat
// to the management API, or an OpenAI client to its /v1.
func (s *Server) nowhere(r *http.Request, other *mux.Router) error {
	var match mux.RouteMatch
	elsewhere := other.Match(r, &match) && !errors.Is(match.MatchErr, mux.ErrNotFound)
	switch {
	case exchangeOf(r).slug == "" && strings.HasPrefix(r.URL.Path, "/v1/"):
		base := s.config.PublicURL + "/openai/v1"
		return &Problem{
			Code:    "not_found",
			English: "There is no such route here. OpenAI's clients have the base URL " + base + ", or /v1 on an agent's own host.",
			Spanish: "No existe esa ruta aquí. Para OpenAI la URL base es " + base + ", o /v1 en el host propio de un agente.",
		}
	case !elsewhere:
		return problem("not_found")
	case exchangeOf(r).slug == "":
		return &Problem{
			Code:    "not_found",
			English: "This route is served on an agent's own host only; the agent's endpoint names it. Here, chat by /api/v2/agent/{agentId}/chat.",
			Spanish: "Esta ruta existe solo en el host propio de un agente; su endpoint lo nombra. Aquí se conversa por /api/v2/agent/{agentId}/chat.",
		}
	}
	return &Problem{
		Code:    "not_found",
		English: "This route is not served on an agent's host, but at " + s.config.PublicURL + ".",
		Spanish: "Esta ruta no existe en el host de un agente, sino en " + s.config.PublicURL + ".",
	}
}

// allowed lists the methods that a path has.
func allowed(router *mux.Router, r *http.Request) []string {
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		probe := r.Clone(r.Context())
		probe.Method = method
		var match mux.RouteMatch
		if router.Match(probe, &match) && match.MatchErr == nil && match.Route != nil {
			methods = append(methods, method)
		}
	}
	slices.Sort(methods)
	return methods
}
