package api

// This file stands between the door and a chat turn: the message is counted against the limits of its key, its agent and
// its account, and the answer says what is left. Only chats count. Whoever is not let in by the door costs nothing; a
// message that is counted stays counted, whatever becomes of its turn.

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

// Limiter counts requests, on all nodes together.
type Limiter interface {
	// Admit counts a request on all of its rules, or on none and says when to come again.
	Admit(ctx context.Context, request quota.Request) (quota.Verdict, error)
	// Standing says where the rules stand, and counts nothing.
	Standing(ctx context.Context, request quota.Request) ([]quota.Standing, error)
}

// Watch hears how far accounts have come towards their day's limit. It must not block.
type Watch interface {
	Counted(count commands.DayCount)
}

// count lets a message in that has come through the door, once, however often its turn is tried. A repetition of one that
// is in its conversation already brings nothing new and costs nothing.
func (s *Server) count(r *http.Request, found projections.Admitted) error {
	x := exchangeOf(r)
	if x.counted || found.Snapshot.Committed > 0 {
		return nil
	}
	request := quota.Of(x.caller.Account, x.caller.Limits(), x.caller.PublicID, found.Agent.ID, found.Agent.Settings.RateLimit)
	ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
	defer cancel()
	verdict, err := s.config.Limiter.Admit(ctx, request)
	if err != nil {
		return fmt.Errorf("count the message: %w", err)
	}
	x.counted = verdict.Admitted
	s.watch(request.Account, verdict)
	if err := tellLimits(x.header, request, verdict, s.config.Clock()); err != nil {
		return err
	}
	if verdict.Admitted {
		return nil
	}
	return limited(verdict)
}

// watch reports the account's day where Postgres has just counted it.
func (s *Server) watch(account string, verdict quota.Verdict) {
	for _, standing := range verdict.Standings {
		if standing.Policy == quota.Day && !verdict.At.IsZero() {
			s.config.Watch.Counted(commands.DayCount{Account: account, Day: verdict.At, Limit: standing.Limit, Used: standing.Used})
		}
	}
}

// limited is the refusal of a request that is one too many.
func limited(verdict quota.Verdict) *Problem {
	rule, wait := verdict.Blocking, wholeMilliseconds(verdict.RetryAfter)
	whose := map[quota.Policy][2]string{
		quota.Key: {"This key", "Esta clave"}, quota.Agent: {"This agent", "Este agente"},
		quota.AgentDay: {"This agent", "Este agente"}, quota.Day: {"The account", "La cuenta"},
	}[rule.Policy]
	seconds := wholeSeconds(verdict.RetryAfter)
	english := fmt.Sprintf("%s has had its %d requests of the last 60 seconds. There is room again in %d seconds.", whose[0], rule.Limit, seconds)
	spanish := fmt.Sprintf("%s ya usó sus %d solicitudes de los últimos 60 segundos. Vuelve a haber lugar en %d segundos.", whose[1], rule.Limit, seconds)
	if rule.Policy.Daily() {
		english = fmt.Sprintf("%s has had its %d requests of today. The next day begins at midnight UTC, in %d seconds.", whose[0], rule.Limit, seconds)
		spanish = fmt.Sprintf("%s ya usó sus %d solicitudes de hoy. El día siguiente comienza a medianoche UTC, en %d segundos.", whose[1], rule.Limit, seconds)
	}
	return &Problem{
		Code: "rate_limited", RetryAfter: verdict.RetryAfter,
		English: english, Spanish: spanish,
		Details: map[string]any{
			"policy": string(rule.Policy), "limit": rule.Limit, "windowSeconds": rule.Policy.WindowSeconds(), "retryAfterMs": wait,
		},
	}
}

// tellLimits writes what holds and what is left, twice: as draft-ietf-httpapi-ratelimit-headers-10 has it, a policy
// each, and in the three headers that came before it, which have room for one policy: the one with the least left.
func tellLimits(header http.Header, request quota.Request, verdict quota.Verdict, now time.Time) error {
	if len(request.Rules) == 0 {
		return nil
	}
	policies, standings := make(httpsfv.List, 0, len(request.Rules)), make(httpsfv.List, 0, len(verdict.Standings))
	for _, rule := range request.Rules {
		item := httpsfv.NewItem(string(rule.Policy))
		item.Params.Add("q", rule.Limit)
		item.Params.Add("w", rule.Policy.WindowSeconds())
		policies = append(policies, item)
	}
	scarcest := verdict.Standings[0]
	for _, standing := range verdict.Standings {
		item := httpsfv.NewItem(string(standing.Policy))
		item.Params.Add("r", standing.Remaining)
		item.Params.Add("t", wholeSeconds(standing.Reset))
		standings = append(standings, item)
		if standing.Remaining < scarcest.Remaining || standing.Rule == verdict.Blocking {
			scarcest = standing
		}
	}
	for name, list := range map[string]httpsfv.List{"RateLimit-Policy": policies, "RateLimit": standings} {
		text, err := httpsfv.Marshal(list)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		header.Set(name, text)
	}
	header.Set("X-RateLimit-Limit", strconv.FormatInt(scarcest.Limit, 10))
	header.Set("X-RateLimit-Remaining", strconv.FormatInt(scarcest.Remaining, 10))
	header.Set("X-RateLimit-Reset", strconv.FormatInt(int64(math.Ceil(float64(now.Add(scarcest.Reset).UnixMilli())/1000)), 10))
	return nil
}

// wholeSeconds and wholeMilliseconds round up: nobody is told to come back too early.
func wholeSeconds(wait time.Duration) int64 { return int64((wait + time.Second - 1) / time.Second) }

func wholeMilliseconds(wait time.Duration) int64 {
	return int64((wait + time.Millisecond - 1) / time.Millisecond)
}

// remaining is what a key and its account have left.
func (s *Server) remaining(r *http.Request) (MeRemaining, error) {
	caller := exchangeOf(r).caller
	standings, err := s.config.Limiter.Standing(r.Context(), quota.Of(caller.Account, caller.Limits(), caller.PublicID, "", nil))
	var left MeRemaining
	for _, standing := range standings {
		switch standing.Policy {
		case quota.Key:
			left.PerMinute = &standing.Remaining
		case quota.Day:
			left.PerDay = &standing.Remaining
		}
	}
	return left, err
}
