package model

// This file stands at the upstream call to a server with OpenAI's chat completions.
//
// It writes the request and reads the stream by itself: through the official SDK a reply of 20 tokens costs about ten
// times the CPU, half a millisecond (bench_test.go measures both, conformance_test.go holds this reader to what the SDK
// makes of the same streams).

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/nidohq/nido/commands"
)

// openAI speaks to one OpenAI-compatible server.
type openAI struct {
	url           string
	authorization string // empty where the server wants none
	ofOpenAI      bool   // OpenAI's own server, whose newer models refuse max_tokens
}

func newOpenAI(baseURL, apiKey string) *openAI {
	o := &openAI{url: strings.TrimRight(baseURL, "/") + "/chat/completions"}
	if apiKey != "" {
		o.authorization = "Bearer " + apiKey
	}
	if u, err := url.Parse(baseURL); err == nil { // Validate has refused what does not parse
		host := u.Hostname()
		o.ofOpenAI = host == "openai.com" || strings.HasSuffix(host, ".openai.com") || strings.HasSuffix(host, ".openai.azure.com")
	}
	return o
}

// completionRequest is the part of OpenAI's request that a prompt needs.
type completionRequest struct {
	Model               string              `json:"model"`
	Messages            []completionMessage `json:"messages"`
	Temperature         *float64            `json:"temperature,omitempty"`
	MaxTokens           *int                `json:"max_tokens,omitempty"`
	MaxCompletionTokens *int                `json:"max_completion_tokens,omitempty"`
	Stop                []string            `json:"stop,omitempty"`
	Stream              bool                `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

type completionMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// body writes the request. Messages without text are left out: several servers refuse them.
func (o *openAI) body(prompt commands.Prompt) ([]byte, error) {
	request := completionRequest{Model: prompt.Model, Temperature: prompt.Temperature, Stop: prompt.Stop, Stream: true}
	request.StreamOptions.IncludeUsage = true
	if o.ofOpenAI {
		request.MaxCompletionTokens = prompt.MaxOutputTokens
	} else {
		request.MaxTokens = prompt.MaxOutputTokens
	}
	request.Messages = make([]completionMessage, 0, len(prompt.Messages)+1)
	if prompt.Instructions != "" {
		request.Messages = append(request.Messages, completionMessage{"system", prompt.Instructions})
	}
	for _, message := range prompt.Messages {
		if message.Text != "" {
			request.Messages = append(request.Messages, completionMessage{string(message.Role), message.Text})
		}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	return body, nil
}

func (o *openAI) attempt(ctx context.Context, sender *sender, prompt commands.Prompt, reply *reply) error {
	body, err := o.body(prompt)
	if err != nil {
		return err
	}
	sent := &outgoing{text: body}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, sent.reader())
	if err != nil {
		return fmt.Errorf("build the request: %w", err)
	}
	request.ContentLength, request.GetBody = int64(len(body)), sent.again
	request.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"text/event-stream, application/json"}, "User-Agent": {"nido"},
	}
	if o.authorization != "" {
		request.Header["Authorization"] = []string{o.authorization}
	}
	response, err := sender.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	sent.drop()
	if isJSON(response.Header) {
		return readCompletion(response.Body, sender.maxEvent, reply)
	}
	return readCompletionStream(response.Body, sender.maxEvent, reply)
}

// outgoing is a request's body. The client keeps the request until the reply has ended, which may be minutes; the body, which
// holds the whole conversation, is let go of when there is a reply.
type outgoing struct {
	mu   sync.Mutex // the client may ask for it again from another goroutine
	text []byte
}

var errReplied = errors.New("the request has been answered")

func (o *outgoing) again() (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text == nil {
		return nil, errReplied
	}
	return &outgoingReader{left: o.text}, nil
}

func (o *outgoing) reader() io.ReadCloser { return &outgoingReader{left: o.text} }

func (o *outgoing) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = nil
}

// outgoingReader lets go of what it has handed out.
type outgoingReader struct{ left []byte }

// Read implements io.Reader.
func (r *outgoingReader) Read(p []byte) (int, error) {
	n := copy(p, r.left)
	if r.left = r.left[n:]; len(r.left) == 0 {
		r.left = nil
		return n, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (r *outgoingReader) Close() error { return nil }

// isJSON says whether a server answered with one document although a stream was asked for.
func isJSON(header http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
}

// readDocument reads a body that is one JSON document.
func readDocument(body io.Reader, limit int) ([]byte, error) {
	document, err := io.ReadAll(io.LimitReader(body, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(document) > limit {
		return nil, replyTooLarge()
	}
	return document, nil
}
