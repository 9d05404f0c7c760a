package modeltest

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/nidohq/nido/commands"
)

// Request is what the mock was asked. Model and everything after it are filled by Parsed.
type Request struct {
	Path   string
	Header http.Header // with the caller's credentials, for tests that look at them
	Body   []byte

	Model        string
	Instructions string // the system prompt
	Messages     []commands.Message
	Temperature  *float64
	MaxTokens    *int
	Stream       bool
	IncludeUsage bool // always true for Anthropic, which tells it unasked
}

// Parsed reads the body in either protocol. What is not there stays zero.
func (r Request) Parsed() Request {
	var body struct {
		Model         string
		System        json.RawMessage
		Temperature   *float64
		MaxTokens     *int `json:"max_tokens"`
		MaxCompletion *int `json:"max_completion_tokens"`
		Stream        bool
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		Messages []struct {
			Role    string
			Content json.RawMessage
		}
	}
	if json.Unmarshal(r.Body, &body) != nil {
		return r // a test sees that nothing was understood
	}
	r.Model, r.Temperature, r.MaxTokens, r.Stream = body.Model, body.Temperature, body.MaxTokens, body.Stream
	if r.MaxTokens == nil {
		r.MaxTokens = body.MaxCompletion
	}
	r.IncludeUsage = body.StreamOptions.IncludeUsage || strings.HasSuffix(r.Path, "/messages")
	r.Instructions = text(body.System)
	for _, message := range body.Messages {
		if message.Role == "system" {
			r.Instructions = text(message.Content)
			continue
		}
		r.Messages = append(r.Messages, commands.Message{Role: commands.Role(message.Role), Text: text(message.Content)})
	}
	return r
}

// text reads a content that is a string or a list of text blocks; the blocks come out on lines of their own.
func text(raw json.RawMessage) string {
	var plain string
	if json.Unmarshal(raw, &plain) == nil {
		return plain
	}
	var blocks []struct{ Text string }
	if json.Unmarshal(raw, &blocks) != nil {
		return ""
	}
	var lines []string
	for _, block := range blocks {
		lines = append(lines, block.Text)
	}
	return strings.Join(lines, "\n")
}

// words counts what the mock calls tokens of the input.
func (r Request) words() int {
	n := len(strings.Fields(r.Instructions))
	for _, message := range r.Messages {
		n += len(strings.Fields(message.Text))
	}
	return n
}
