package model

// What a completion of 20 tokens costs by each client. The mock runs in the same process, so "bytes", which only reads
// the answer's body, is the floor that the others stand on.

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

func BenchmarkCompletionOf20Tokens(b *testing.B) {
	server := modeltest.New(modeltest.Options{Kept: -1})
	b.Cleanup(server.Close)
	router, err := New(Config{BaseURL: server.OpenAI(), APIKey: "k", AnthropicAPIKey: "k", AnthropicBaseURL: server.Anthropic()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(router.Close)
	prompt := commands.Prompt{
		Model: "gpt-mock", Instructions: strings.Repeat("You help people. ", 30),
		Messages: []commands.Message{
			{Role: commands.User, Text: "hello"}, {Role: commands.Assistant, Text: "hello, what can I do?"},
			{Role: commands.User, Text: strings.Repeat("tell me more ", 10)},
		},
	}
	claude := prompt
	claude.Model = "claude-mock"
	body, err := newOpenAI(server.OpenAI(), "").body(prompt)
	if err != nil {
		b.Fatal(err)
	}
	complete := func(model commands.Model, prompt commands.Prompt) func(b *testing.B) {
		return func(b *testing.B) {
			n := 0
			for chunk, err := range model.Complete(b.Context(), prompt) {
				if err != nil {
					b.Fatal(err)
				}
				if chunk.Text != "" {
					n++
				}
			}
			if n != 20 {
				b.Fatalf("heard %d tokens", n)
			}
		}
	}
	for _, client := range []struct {
		name string
		call func(b *testing.B)
	}{
		{"bytes", func(b *testing.B) { readBytes(b, router.transports[0], server.OpenAI()+"/chat/completions", body) }},
		{"nido", complete(router, prompt)},
		{"openai-go", complete(bySDK(b, server.OpenAI()), prompt)},
		{"anthropic-sdk-go", complete(router, claude)},
	} {
		b.Run(client.name, func(b *testing.B) {
			b.ReportAllocs()
			before := processCPU(b)
			for b.Loop() {
				client.call(b)
			}
			b.ReportMetric(float64((processCPU(b)-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}

func readBytes(b *testing.B, transport http.RoundTripper, url string, body []byte) {
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		b.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		b.Fatal(err)
	}
}

// processCPU is what the whole process has used: the clients' work is spread over the transport's goroutines.
func processCPU(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
