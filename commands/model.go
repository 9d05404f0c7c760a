package commands

// This file stands in the chat turn: what it asks of a model provider.

import (
	"context"
	"iter"
	"time"

	"github.com/nidohq/nido/domain/conversation"
)

// Model answers prompts. It is the one method that every provider has.
type Model interface {
	// Complete streams a reply. The sequence ends after the last chunk, or with one error, which is a *ModelError
	// wherever the provider said what is wrong. Ending the loop or the context stops the upstream call at once.
	Complete(ctx context.Context, prompt Prompt) iter.Seq2[Chunk, error]
}

// Prompt is what an agent is and what has been said so far, the newest message last.
type Prompt struct {
	Model           string
	Instructions    string
	Temperature     *float64
	MaxOutputTokens *int
	Stop            []string // texts before which the reply ends
	Messages        []Message
	// Rest is called where a provider has handed on all that came of a reply, and is to wait for more. It returns when
	// somebody may want to see more. Nil where that is always so.
	Rest func(ctx context.Context)
}

// Message is one thing said.
type Message struct {
	Role Role
	Text string
}

// Role says who said it.
type Role string

// The roles.
const (
	User      Role = "user"
	Assistant Role = "assistant"
)

// Chunk is the next piece of a reply. Model, Usage and Finish come with any chunk, the last one counts.
type Chunk struct {
	Text   string
	Model  string              // what the provider says answered
	Usage  *conversation.Usage // nil until the provider tells
	Finish conversation.Finish // empty until the provider tells
}

// ModelError is a provider's failure in the API's terms.
type ModelError struct {
	// Code is "upstream_error", "upstream_timeout", "upstream_rate_limited", "upstream_rejected", "upstream_busy",
	// "upstream_unavailable" or "model_not_found".
	Code       string
	Status     int // the provider's HTTP status, 0 if there was none
	Retryable  bool
	RetryAfter time.Duration // how long the provider wants to be left alone, 0 where it does not say
	Timeout    string        // which time-out it was: "connect", "first_token", "idle", "total"; empty for none
	Err        error         // the cause, for the log; never shown to the caller
}

func (e *ModelError) Error() string { return e.Code + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ModelError) Unwrap() error { return e.Err }
