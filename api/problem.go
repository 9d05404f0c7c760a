package api

// This file stands where an error becomes an answer. One function knows every error of the product, and no other
// place picks a status.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// Problem is an error in the caller's terms: a code of the catalogue, and what is known beyond it.
type Problem struct {
	Code    string
	Field   string // the field, parameter or header at fault
	English string // replaces the catalogue's sentence
	Spanish string
	Details map[string]any
	// RetryAfter says when a repetition makes sense; 0 is a second where the code is worth a repetition at all.
	RetryAfter time.Duration
	header     http.Header
	cause      error // for the log, never for the caller
	counted    bool  // the log has it in a line about many
}

func (p *Problem) Error() string {
	if p.cause != nil {
		return p.Code + ": " + p.cause.Error()
	}
	return p.Code + ": " + cmp.Or(p.English, entries[p.Code].English)
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

func problem(code string) *Problem { return &Problem{Code: code} }

func invalid(field, english, spanish string) *Problem {
	return &Problem{Code: "invalid_request", Field: field, English: english, Spanish: spanish}
}

// with sets a header of the answer.
func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// explain finds the problem that an error is. What it does not know is an internal error.
func explain(ctx context.Context, err error) *Problem {
	known, isProblem := errors.AsType[*Problem](err)
	refusal, isRefusal := errors.AsType[*domain.Refusal](err)
	model, isModel := errors.AsType[*commands.ModelError](err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	_, badSyntax := errors.AsType[*json.SyntaxError](err)
	badType, isBadType := errors.AsType[*json.UnmarshalTypeError](err)
	code := func(code string) *Problem { return &Problem{Code: code, cause: err} }
	switch {
	case isProblem:
		return known
	case isModel && entries[model.Code].Code != "":
		return upstream(model, err)
	case isModel:
		return code("upstream_error")
	// Behind the model's: a turn that somebody else has ended fails for its caller, whatever refused its own end.
	case isRefusal && entries[refusal.Code].Code != "":
		return &Problem{Code: refusal.Code, Field: refusal.Field, English: sentence(refusal.Message, refusal.Field), Spanish: sentence(refusal.Spanish, refusal.Field)}
	case tooLarge:
		return code("payload_too_large")
	case isBadType:
		return unfit(badType)
	case badSyntax:
		return notJSON(err)
	case errors.Is(err, commands.ErrClientGone), errors.Is(context.Cause(ctx), context.Canceled):
		return code("request_cancelled")
	case errors.Is(err, commands.ErrUnknownOutcome):
		return code("unknown_outcome")
	case errors.Is(err, commands.ErrConflict), errors.Is(err, commands.ErrStale):
		return code("conflict")
	case errors.Is(err, commands.ErrUnavailable):
		return code("unavailable")
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return code("unavailable") // a store had less time than the request has, and has not used it
	case errors.Is(err, context.DeadlineExceeded):
		return code("timeout")
	case unreachable(err):
		return code("unavailable")
	}
	return code("internal_error")
}

// longestSleep is the longest wait for which OpenAI's clients are told to come again by themselves: a minute's limit has room
// again by then. They sleep for as long as they are told, inside the call: at the end of a day's limit until midnight.
const longestSleep = 90 * time.Second

// upstream is a provider's failure, with what the provider said about coming back.
func upstream(model *commands.ModelError, err error) *Problem {
	p := &Problem{Code: model.Code, cause: err}
	if entries[model.Code].Retryable {
		p.RetryAfter = model.RetryAfter
	}
	if model.Timeout != "" {
		p.Details = map[string]any{"timeout": model.Timeout}
	}
	return p
}

// retryAfter is how long the caller had better wait, 0 where a repetition brings nothing.
func (p *Problem) retryAfter(entry Entry) time.Duration {
	switch {
	case p.RetryAfter > 0:
		return p.RetryAfter
	case entry.Retryable && entry.Status != 499:
		return time.Second
	}
	return 0
}

// unreachable reports whether a store could not be asked, as opposed to a question that it did not understand.
func unreachable(err error) bool {
	if _, network := errors.AsType[net.Error](err); network {
		return true
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var answered interface{ SQLState() string } // of Postgres: connection, resources, shutdown, read-only after a failover
	if errors.As(err, &answered) {
		state := answered.SQLState()
		return strings.HasPrefix(state, "08") || strings.HasPrefix(state, "53") || strings.HasPrefix(state, "57") || state == "25006"
	}
	var unsent interface{ SafeToRetry() bool } // of the Postgres client: nothing reached the server
	return errors.As(err, &unsent) && unsent.SafeToRetry()
}

func notJSON(cause error) *Problem {
	p := invalid("", "The body is not valid JSON.", "El cuerpo no es JSON válido.")
	p.cause = cause
	return p
}

// sentence makes a refusal's words a sentence. One that begins with the field at fault leaves it as it is written.
func sentence(words, field string) string {
	if words == "" {
		return ""
	}
	if field == "" || !strings.HasPrefix(words, field) {
		first, size := utf8.DecodeRuneInString(words)
		words = string(unicode.ToUpper(first)) + words[size:]
	}
	return strings.TrimSuffix(words, ".") + "."
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	p := explain(r.Context(), err)
	entry, ok := entries[p.Code]
	if !ok {
		entry = entries["internal_error"]
	}
	x.record.ErrorCode = entry.Code
	if entry.Status >= http.StatusInternalServerError && !p.counted {
		s.logger.ErrorContext(r.Context(), "request failed", "code", entry.Code, "error", cmp.Or[error](p.cause, p))
	}
	header := w.Header()
	for name, values := range p.header {
		header[name] = values
	}
	header.Set("Cache-Control", "no-store")
	if entry.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", challenge(entry.Code))
	}
	if wait := p.retryAfter(entry); wait > 0 {
		header.Set("Retry-After", strconv.FormatInt(wholeSeconds(wait), 10))
		header.Set("Retry-After-Ms", strconv.FormatInt(wholeMilliseconds(wait), 10))
	}
	if x.op != nil && x.op.openAI { // OpenAI's clients go by this where they are in doubt
		header.Set("X-Should-Retry", strconv.FormatBool(entry.Retryable && p.retryAfter(entry) <= longestSleep))
	}
	header.Add("Vary", "Accept, Accept-Language")
	body, contentType := s.envelope(r, x, entry, p)
	header.Set("Content-Type", contentType)
	s.write(w, r, entry.Status, body)
}

// failure is the envelope of an error that comes in the middle of a stream, where no status can be told any more.
func (s *Server) failure(r *http.Request, turn followed, err error) ErrorEnvelope {
	x, p := exchangeOf(r), explain(context.WithoutCancel(r.Context()), err)
	entry, ok := entries[p.Code]
	if !ok {
		entry = entries["internal_error"]
	}
	x.record.ErrorCode = entry.Code
	if entry.Status >= http.StatusInternalServerError && turn.live != nil { // else it has been logged where it failed
		s.logger.ErrorContext(r.Context(), "turn failed", "code", entry.Code, "error", cmp.Or[error](p.cause, p))
	}
	return s.ourEnvelope(r, x, entry, p)
}

// challenge is RFC 6750's: without a key there is nothing wrong with one.
func challenge(code string) string {
	if code == "missing_api_key" {
		return `Bearer realm="nido"`
	}
	return `Bearer realm="nido", error="invalid_token"`
}

func (s *Server) envelope(r *http.Request, x *exchange, entry Entry, p *Problem) (body any, contentType string) {
	ours := s.ourEnvelope(r, x, entry, p)
	if !wantsProblem(r.Header.Get("Accept")) {
		return ours, "application/json"
	}
	title := entry.English
	if language(r.Header.Get("Accept-Language")) == "es" {
		title = entry.Spanish
	}
	return ProblemDetails{
		Type: ours.Error.DocURL, Title: title, Status: entry.Status, Detail: ours.Error.Message, Instance: "urn:nido:request:" + x.id,
		Code: entry.Code, Param: ours.Error.Param, Details: ours.Error.Details, RequestID: x.id, Retryable: entry.Retryable,
		RetryAfterMs: ours.Error.RetryAfterMs,
	}, "application/problem+json"
}

func (s *Server) ourEnvelope(r *http.Request, x *exchange, entry Entry, p *Problem) ErrorEnvelope {
	message := cmp.Or(p.English, entry.English)
	if language(r.Header.Get("Accept-Language")) == "es" {
		message = cmp.Or(p.Spanish, entry.Spanish)
	}
	details := map[string]any{}
	for key, value := range p.Details {
		details[key] = value
	}
	var param *string
	if p.Field != "" {
		param, details["field"] = &p.Field, p.Field
	}
	var wait *int64
	if after := p.retryAfter(entry); after > 0 {
		wait = new(wholeMilliseconds(after))
	}
	return ErrorEnvelope{Error: ErrorBody{
		Code: entry.Code, Message: message, Type: entry.Type, Param: param, Details: details,
		RequestID: x.id, Retryable: entry.Retryable, RetryAfterMs: wait, DocURL: s.config.PublicURL + "/errors#" + entry.Code,
	}}
}

// wantsProblem reports whether the client names RFC 9457's type, and does not like plain JSON better.
func wantsProblem(accept string) bool {
	plain, wanted := 0.0, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		media, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		liked := 1.0
		if q, said := parameters["q"]; said {
			liked = quality("q=" + q)
		}
		switch media {
		case "application/problem+json":
			wanted = max(wanted, liked)
		case "application/json":
			plain = max(plain, liked)
		}
	}
	return wanted > 0 && wanted >= plain
}

// language picks the first of the languages that we speak, by quality. English is the default.
func language(accept string) string {
	best, bestQuality := "en", 0.0
	for part := range strings.SplitSeq(accept, ",") {
		tag, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		quality := quality(parameters)
		if (primary == "en" || primary == "es") && quality > bestQuality {
			best, bestQuality = primary, quality
		}
	}
	return best
}

func quality(parameters string) float64 {
	value, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q=")
	if !ok {
		return 1
	}
	var q float64
	if err := json.Unmarshal([]byte(value), &q); err != nil {
		return 0
	}
	return q
}
