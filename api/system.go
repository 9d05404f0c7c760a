package api

// This file stands beside the story: what the installation says about itself, and to whom the key belongs.

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Health finds out by real queries what works. The reasons that parts gives are read by anybody who can reach the port.
type Health interface {
	// Check reports whether chat can be served, what each part says, "ok" or what is wrong in a few words, and how far each
	// projector is behind. One whose lag is not known is absent. It takes no longer than a second or two, and
	// however many ask share one look: the route is open to anybody.
	Check(ctx context.Context) (ready bool, parts map[string]string, lags map[string]Lag)
}

// Lag is how far a projector is behind the log.
type Lag struct {
	Records int64
	Age     time.Duration // of the oldest of them
}

// GetMe implements ServerInterface.
func (s *Server) GetMe(w http.ResponseWriter, r *http.Request) {
	caller := exchangeOf(r).caller
	left, err := s.remaining(r)
	used, unknown := s.usedDeprecations(r)
	s.answer(w, r, http.StatusOK, Me{
		Key: MeKey{
			ID: keyID(caller.PublicID), Name: caller.Name, Scopes: scopesOut(caller.Scopes), AgentIds: list(caller.AgentIDs),
			IPAllow: list(caller.IPAllow), ExpiresAt: someTimeAt(caller.ExpiresAt), GraceUntil: someTimeAt(exchangeOf(r).until),
		},
		Account: MeAccount{ID: caller.Account, Plan: Plan(caller.Plan)},
		Limits:  limitsOut(caller.Limits()), Remaining: left, Deprecations: used,
	}, errors.Join(err, unknown))
}

// GetLive implements ServerInterface.
func (s *Server) GetLive(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, http.StatusOK, Live{Status: Ok}, nil)
}

// GetReady implements ServerInterface.
func (s *Server) GetReady(w http.ResponseWriter, r *http.Request) {
	ready, parts, lags := s.config.Health.Check(r.Context())
	status, code := ReadyStatusReady, http.StatusOK
	for _, says := range parts {
		if says != "ok" {
			status = ReadyStatusDegraded
		}
	}
	if !ready {
		status, code = ReadyStatusUnavailable, http.StatusServiceUnavailable
	}
	projectors := make(map[string]ProjectorLag, len(lags))
	for name, lag := range lags {
		projectors[name] = ProjectorLag{LagEvents: lag.Records, LagSeconds: lag.Age.Round(time.Millisecond).Seconds()}
	}
	s.answer(w, r, code, Ready{Status: status, Parts: dictionary(parts), Projectors: projectors}, nil)
}
