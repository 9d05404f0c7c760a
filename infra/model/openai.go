package model

// This file stands at the upstream call to a server with OpenAI's chat completions.
//
// It writes the request and reads the stream by itself: through the official SDK a reply of 20 tokens costs about ten
// times the CPU, half a millisecond (bench_test.go measures both, conformance_test.go holds this reader to what the SDK
// makes of the same streams).

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
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
	request, sent, err := o.request(ctx, body)
	if err != nil {
		return err
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
	events := newEventReader(response.Body, sender.maxEvent)
	defer events.free()
	events.pieces = response.TLS != nil
	return readCompletionStream(ctx, events, reply)
}

func (o *openAI) request(ctx context.Context, body []byte) (*http.Request, *outgoing, error) {
	first := bytes.NewReader(body)
	sent := &outgoing{text: body, first: first}
	request, err := http.NewRequestWithContext(sent.watched(ctx), http.MethodPost, o.url, first)
	if err != nil {
		return nil, nil, fmt.Errorf("build the request: %w", err)
	}
	request.GetBody = sent.again
	request.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"text/event-stream, application/json"}, "User-Agent": {"nido"},
	}
	if o.authorization != "" {
		request.Header["Authorization"] = []string{o.authorization}
	}
	return request, sent, nil
}

// outgoing is a request's body. The client keeps the request until the reply has ended, which may be minutes; the body, which
// holds the whole conversation, is let go of once it has been sent and answered. Its reader is one of those that the client
// knows to have everything at hand: head and body go out together then, in one packet where they fit.
type outgoing struct {
	mu    sync.Mutex // the client's own goroutines come here, too
	text  []byte
	first *bytes.Reader // of the first attempt to send it, until that is over or there is another one
}

var errReplied = errors.New("the request has been answered")

// again is for a connection that turned out to be dead. What is sent again stays with the request until its end.
func (o *outgoing) again() (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text == nil {
		return nil, errReplied
	}
	o.first = nil // whoever reads it may not be done
	return io.NopCloser(bytes.NewReader(o.text)), nil
}

// watched is the context of a request whose body is let go of by whoever has sent it, and so does not read it any more.
func (o *outgoing) watched(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.first != nil {
			o.first.Reset(nil)
			o.first = nil
		}
	}})
}

// drop notes that there is an answer, and so no further attempt.
func (o *outgoing) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = nil
}

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
