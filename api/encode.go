package api

// This file stands where an answer goes out, and where a body that has been checked becomes a value.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/nidohq/nido/domain/conversation"
)

// decode reads a checked body; an absent one leaves the zero value.
func decode[T any](x *exchange) (T, error) {
	var value T
	if len(bytes.TrimSpace(x.body)) == 0 {
		return value, nil
	}
	if err := json.Unmarshal(x.body, &value); err != nil {
		return value, fmt.Errorf("decode the body: %w", err)
	}
	return value, nil
}

// answer sends a value, or the error that came instead of it.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, value any, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	s.write(w, r, status, value)
}

// done answers that there is nothing more to say.
func (s *Server) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// write sends a JSON body whole, with its length.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		s.logger.ErrorContext(r.Context(), "answer not encoded", "error", err)
		status, body = http.StatusInternalServerError, bytes.Buffer{}
	}
	s.send(w, r, status, body.Bytes())
}

// send writes bytes that are an answer already. A client that is gone by now has nobody to tell.
func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil && r.Method != http.MethodHead {
		s.logger.DebugContext(r.Context(), "answer not sent", "error", err)
	}
}

// or is the value behind a pointer, or another.
func or[T any](pointer *T, other T) T {
	if pointer == nil {
		return other
	}
	return *pointer
}

// some is nil for the zero value.
func some[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

// list is never JSON's null.
func list[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}

// dictionary is never JSON's null.
func dictionary(values map[string]string) Metadata {
	if values == nil {
		return Metadata{}
	}
	return values
}

// usageOf is a usage as the API says it.
func usageOf(usage conversation.Usage) Usage {
	told := Usage{InputTokens: usage.InputTokens, OutputTokens: usage.OutputTokens}
	if usage.Estimated {
		told.Estimated = new(true)
	}
	return told
}

// finishOf is why a reply ended, where somebody said.
func finishOf(finish conversation.Finish) *FinishReason {
	if finish == "" {
		return nil
	}
	return new(FinishReason(finish))
}
