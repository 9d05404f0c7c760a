package api

// This file stands between the routes of the request log and its queries.

import (
	"context"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/projections"
)

// LogQueries reads the request log.
type LogQueries interface {
	List(ctx context.Context, account string, filter projections.LogFilter, after *projections.LogKey) ([]projections.Request, error)
	Get(ctx context.Context, account, requestID string) (request projections.Request, found bool, err error)
	Watermark(ctx context.Context) (time.Time, error)
}

var noTime time.Time

// ListLogs implements ServerInterface.
func (s *Server) ListLogs(w http.ResponseWriter, r *http.Request, params ListLogsParams) {
	x := exchangeOf(r)
	limit := or(params.Limit, defaultPage)
	filter := projections.LogFilter{
		From: or(params.From, noTime), To: or(params.To, noTime), KeyID: or(params.KeyID, ""),
		ConversationID: or(params.ConversationID, ""), Method: string(or(params.Method, "")), Path: or(params.Path, ""),
		MinLatency: time.Duration(or(params.MinLatencyMs, 0)) * time.Millisecond, Q: or(params.Q, ""), Limit: limit + 1,
	}
	after, err := readCursor[projections.LogKey](r, params.Cursor)
	if err == nil {
		filter.AgentID, err = oneAgent(x, params.AgentID)
	}
	if err == nil && params.Status != nil {
		if filter.Status, err = projections.ParseStatus(*params.Status); err != nil {
			err = invalid("status", "status must be like 429 or 4xx.", "status debe ser como 429 o 4xx.")
		}
	}
	if err == nil {
		err = s.watermark(w, r, s.config.Logs)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	found, err := s.config.Logs.List(r.Context(), x.caller.Account, filter, after)
	if err != nil {
		s.refuse(w, r, analytics(r.Context(), err))
		return
	}
	var next *projections.LogKey
	if len(found) > limit {
		found, next = found[:limit], &projections.LogKey{At: found[limit-1].At, ID: found[limit-1].ID}
	}
	data := make([]LogEntry, len(found))
	for i, one := range found {
		data[i] = logEntry(one)
	}
	cursor, err := writeCursor(r, next)
	s.answer(w, r, http.StatusOK, LogList{Data: data, NextCursor: cursor}, err)
}

// GetLog implements ServerInterface.
func (s *Server) GetLog(w http.ResponseWriter, r *http.Request, requestID RequestID) {
	x := exchangeOf(r)
	if err := s.watermark(w, r, s.config.Logs); err != nil {
		s.refuse(w, r, err)
		return
	}
	found, ok, err := s.config.Logs.Get(r.Context(), x.caller.Account, requestID)
	switch {
	case err != nil:
		s.refuse(w, r, analytics(r.Context(), err))
		return
	case !ok, bound(x) != nil && !x.caller.Grant().Reaches(found.AgentID):
		s.refuse(w, r, problem("log_not_found"))
		return
	}
	entry := logEntry(found)
	s.answer(w, r, http.StatusOK, LogDetail{
		RequestID: entry.RequestID, Time: entry.Time, Method: entry.Method, Path: entry.Path, Route: entry.Route, Status: entry.Status,
		LatencyMs: entry.LatencyMs, KeyID: entry.KeyID, AgentID: entry.AgentID, ConversationID: entry.ConversationID,
		ErrorCode: entry.ErrorCode, Model: entry.Model, InputTokens: entry.InputTokens, OutputTokens: entry.OutputTokens,
		ClientRequestID: entry.ClientRequestID, ClientIP: entry.ClientIP, UserAgent: entry.UserAgent, Erased: entry.Erased,
		Query: found.Query, RequestHeaders: headersOut(found.RequestHeaders), ResponseHeaders: headersOut(found.ResponseHeaders),
		RequestBody: bodyOut(found.RequestBody), ResponseBody: bodyOut(found.ResponseBody),
	}, nil)
}

// oneAgent is the agent that an answer is narrowed to. A key that is bound to several says which; with one it is clear.
func oneAgent(x *exchange, wanted *string) (string, error) {
	only := bound(x)
	switch {
	case wanted != nil:
		x.record.AgentID = *wanted
		return *wanted, reaches(x, *wanted)
	case len(only) == 1:
		return only[0], nil
	case len(only) > 1:
		return "", invalid("agentId", "agentId is needed: the key is bound to several agents.", "Se necesita agentId: la clave está limitada a varios agentes.")
	}
	return "", nil
}

// watermark says up to when everything is in the answer. It is read before the answer, so that it never promises more.
func (s *Server) watermark(w http.ResponseWriter, r *http.Request, of interface {
	Watermark(ctx context.Context) (time.Time, error)
}) error {
	upTo, err := of.Watermark(r.Context())
	if err != nil {
		return analytics(r.Context(), err)
	}
	if !upTo.IsZero() { // nothing has been folded yet: there is no such time
		w.Header().Set("X-Nido-Watermark", upTo.UTC().Format(timeLayout))
	}
	return nil
}

// analytics is an error of ClickHouse's side: whatever it is, only logs and statistics are affected.
func analytics(ctx context.Context, err error) error {
	if p := explain(ctx, err); p.Code == "invalid_request" || p.Code == "request_cancelled" {
		return p
	}
	return &Problem{Code: "analytics_unavailable", cause: err}
}

func logEntry(r projections.Request) LogEntry {
	return LogEntry{
		RequestID: r.ID, Time: Timestamp(r.At), Method: r.Method, Path: r.Path, Route: r.Route, Status: r.Status,
		LatencyMs: milliseconds(r.Latency), KeyID: some(r.KeyID), AgentID: some(r.AgentID), ConversationID: some(r.ConversationID),
		ErrorCode: some(r.ErrorCode), Model: some(r.Model), InputTokens: r.InputTokens, OutputTokens: r.OutputTokens,
		ClientRequestID: some(r.ClientRequestID), ClientIP: some(r.RemoteIP), UserAgent: some(r.UserAgent), Erased: r.Erased,
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// headersOut joins the lines of one name, as HTTP itself does.
func headersOut(headers []projections.Header) HeaderMap {
	out := HeaderMap{}
	for _, header := range headers {
		if before, there := out[header.Name]; there {
			out[header.Name] = before + ", " + header.Value
			continue
		}
		out[header.Name] = header.Value
	}
	return out
}

// bodyOut shows a body. A cut through a character leaves no half of it.
func bodyOut(body projections.Body) LogBody {
	text := body.Text
	for i := 0; i < utf8.UTFMax && body.Truncated && len(text) > 0; i++ {
		if last, size := utf8.DecodeLastRune(text); last != utf8.RuneError || size > 1 {
			break
		}
		text = text[:len(text)-1]
	}
	return LogBody{Text: string(text), Truncated: body.Truncated, Bytes: body.Bytes}
}
