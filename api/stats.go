package api

// This file stands between the routes of statistics and their queries.

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/nidohq/nido/projections"
)

// StatQueries counts conversations.
type StatQueries interface {
	Conversations(ctx context.Context, account string, query projections.StatsQuery) ([]projections.ConversationStats, error)
	Watermark(ctx context.Context) (time.Time, error)
}

// defaultStatPeriod is what is counted where the request does not say.
const defaultStatPeriod = 30 * 24 * time.Hour

// ConversationStats implements ServerInterface.
func (s *Server) ConversationStats(w http.ResponseWriter, r *http.Request, params ConversationStatsParams) {
	x := exchangeOf(r)
	by := or(params.GroupBy, nil)
	query := projections.StatsQuery{
		To:      or(params.To, s.config.Clock()).UTC(),
		ByAgent: slices.Contains(by, ConversationStatsParamsGroupByAgent),
		ByDay:   slices.Contains(by, ConversationStatsParamsGroupByDay),
	}
	query.From = or(params.From, query.To.Add(-defaultStatPeriod)).UTC()
	var err error
	if query.AgentID, err = oneAgent(x, params.AgentID); err == nil {
		query.Location, err = zone(or(params.Tz, "UTC"))
	}
	if err == nil && !query.From.Before(query.To) {
		err = invalid("from", "from must lie before to.", "from debe ser anterior a to.")
	}
	if err == nil {
		err = s.watermark(w, r, s.config.Stats)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	rows, err := s.config.Stats.Conversations(r.Context(), x.caller.Account, query)
	if err != nil {
		s.refuse(w, r, analytics(r.Context(), err))
		return
	}
	answer := ConversationStats{
		From: Timestamp(query.From), To: Timestamp(query.To), Tz: query.Location.String(),
		GroupBy: make([]ConversationStatsGroupBy, len(by)), Data: make([]ConversationStatsRow, len(rows)),
	}
	for i, name := range by {
		answer.GroupBy[i] = ConversationStatsGroupBy(name)
	}
	for i, row := range rows {
		answer.Data[i] = statsRow(row)
	}
	s.answer(w, r, http.StatusOK, answer, nil)
}

// zone finds a time zone by its IANA name; "Local" is nobody's.
func zone(name string) (*time.Location, error) {
	location, err := time.LoadLocation(name)
	if err != nil || name == "Local" || name == "" {
		return nil, invalid("tz", "tz is not a time zone.", "tz no es una zona horaria.")
	}
	return location, nil
}

func statsRow(row projections.ConversationStats) ConversationStatsRow {
	return ConversationStatsRow{
		AgentID: some(row.AgentID), Day: some(row.Day), Conversations: row.Conversations, Messages: row.Messages, Resolved: row.Resolved,
		ResolutionRate: row.ResolutionRate(), AverageMessages: row.AverageMessages(), FirstReplyMs: quantiles(row.FirstReply),
		FullReplyMs: quantiles(row.FullReply), InputTokens: row.InputTokens, OutputTokens: row.OutputTokens, Failures: row.Failures,
	}
}

func quantiles(q projections.Quantiles) Quantiles {
	if q.Count == 0 {
		return Quantiles{}
	}
	p50, p95, p99 := milliseconds(q.P50), milliseconds(q.P95), milliseconds(q.P99)
	return Quantiles{P50: &p50, P95: &p95, P99: &p99}
}
