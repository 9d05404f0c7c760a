package api

// This file stands at the door: which host was asked. An agent's host serves its chat, the others the management API.

import (
	"net"
	"net/http"
	"strings"

	"github.com/nidohq/nido/domain/host"
)

// place is where a request was sent.
type place struct {
	slug string // of the agent whose host it is, empty for the management API
}

// locate reads the Host header. The base domain, the labels that Nido reserves below it and every other name serve the
// management API; one label below the base domain is an agent's; anything else there is nobody's.
func (s *Server) locate(r *http.Request) (place, error) {
	name := r.Host
	if bare, _, err := net.SplitHostPort(name); err == nil {
		name = bare
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	slug, below := strings.CutSuffix(name, "."+s.config.BaseDomain)
	switch {
	case !below, name == s.publicHost, host.Reserved[slug]:
		return place{}, nil
	case !host.Slug.MatchString(slug):
		return place{}, problem("host_not_found")
	}
	return place{slug: slug}, nil
}
