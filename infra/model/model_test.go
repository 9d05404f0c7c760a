package model

// These tests drive the providers through the router, against the mock on a real socket.

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/infra/model/modeltest"
)

// The kinds of servers that most tests run against, with a model name that the router sends there.
var kinds = map[string]string{kindOpenAI: "gpt-mock", kindAnthropic: "claude-mock"}

// setup starts a mock and a router to it, and checks at the end that neither left a goroutine behind.
func setup(t *testing.T, options modeltest.Options, configure ...func(*Config)) (*modeltest.Server, *Router) {
	t.Helper()
	before := runtime.NumGoroutine()
	server := modeltest.New(options)
	c := Config{
		BaseURL: server.OpenAI(), APIKey: "sk-secret", AnthropicAPIKey: "ak-secret", AnthropicBaseURL: server.Anthropic(),
		Retries: -1,
	}
	for _, change := range configure {
		change(&c)
	}
	router, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		router.Close()
		server.Close()
		await(t, "goroutines are back where they were", func() bool {
			router.Close()
			return runtime.NumGoroutine() <= before
		})
	})
	return server, router
}

// await polls a condition that nothing announces.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			buffer := make([]byte, 64<<10)
			t.Fatalf("in vain: %s\n%s", what, buffer[:runtime.Stack(buffer, true)])
		}
	}
}

// heard is all that came of a completion.
type heard struct {
	text   string
	pieces []string
	model  string
	usage  *conversation.Usage
	finish conversation.Finish
	err    error
}

func (h heard) fault(t *testing.T) *commands.ModelError {
	t.Helper()
	fault, ok := errors.AsType[*commands.ModelError](h.err)
	if !ok {
		t.Fatalf("want a ModelError, got %v", h.err)
	}
	return fault
}

func listen(ctx context.Context, model commands.Model, prompt commands.Prompt) (h heard) {
	for chunk, err := range model.Complete(ctx, prompt) {
		if err != nil {
			h.err = err
			continue
		}
		h.text += chunk.Text
		if chunk.Text != "" {
			h.pieces = append(h.pieces, chunk.Text)
		}
		h.model, h.finish = chunk.Model, chunk.Finish
		if chunk.Usage != nil {
			h.usage = chunk.Usage
		}
	}
	return h
}

func ask(model, text string) commands.Prompt {
	return commands.Prompt{Model: model, Instructions: "Be kind.", Messages: []commands.Message{{Role: commands.User, Text: text}}}
}

func scripted(reply modeltest.Reply) modeltest.Options {
	return modeltest.Options{Reply: func(modeltest.Request) modeltest.Reply { return reply }}
}

func eachKind(t *testing.T, test func(t *testing.T, model string)) {
	for kind, model := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, model) })
	}
}

func TestAReplyArrivesInOrderPieceByPieceWithUsageAndModel(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, scripted(modeltest.Words(`¡Hola! "dos" líneas: una\n y 🙂 otra `)))
		got := listen(t.Context(), router, ask(model, "hi there"))
		if got.err != nil {
			t.Fatal(got.err)
		}
		if want := `¡Hola! "dos" líneas: una\n y 🙂 otra `; got.text != want || len(got.pieces) != 7 {
			t.Errorf("got %q in %d pieces", got.text, len(got.pieces))
		}
		if got.model != model || got.usage == nil || got.usage.InputTokens != 4 || got.usage.OutputTokens != 8 {
			t.Errorf("got model %q, usage %+v", got.model, got.usage)
		}
	})
}

func TestThePrebuiltReplyHasTwentyTokens(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, modeltest.Options{})
		got := listen(t.Context(), router, ask(model, "hi"))
		if got.err != nil || len(got.pieces) != 20 || got.model != "mock" || got.usage == nil || got.usage.OutputTokens != 20 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestConnectionsAreReused(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		server, router := setup(t, scripted(modeltest.Words("one two three")))
		for range 20 {
			if got := listen(t.Context(), router, ask(model, "hi")); got.err != nil {
				t.Fatal(got.err)
			}
		}
		if n := server.Stats().Connections; n != 1 {
			t.Errorf("20 calls one after the other took %d connections", n)
		}
	})
}

func TestADocumentInsteadOfAStreamIsOnePiece(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, scripted(modeltest.Reply{Tokens: []string{"all ", "at ", "once"}, NotStreamed: true}))
		got := listen(t.Context(), router, ask(model, "hi"))
		if got.err != nil || got.text != "all at once" || len(got.pieces) != 1 || got.usage == nil || got.usage.OutputTokens != 3 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAProviderThatTellsNoUsageLeavesItNil(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, scripted(modeltest.Reply{Tokens: []string{"text"}, OmitUsage: true}))
		if got := listen(t.Context(), router, ask(model, "hi")); got.err != nil || got.usage != nil || got.text != "text" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTheReasonOfAnEndIsTheProviders(t *testing.T) {
	for finish, want := range map[string]conversation.Finish{
		"": conversation.FinishStop, "stop": conversation.FinishStop, "length": conversation.FinishLength,
		"content_filter": conversation.FinishFiltered, "tool_calls": conversation.FinishStop,
	} {
		for _, whole := range []bool{false, true} {
			t.Run(finish, func(t *testing.T) {
				eachKind(t, func(t *testing.T, model string) {
					_, router := setup(t, scripted(modeltest.Reply{Tokens: []string{"text"}, Finish: finish, NotStreamed: whole}))
					if got := listen(t.Context(), router, ask(model, "hi")); got.err != nil || got.finish != want || got.text != "text" {
						t.Errorf("got %+v", got)
					}
				})
			})
		}
	}
	t.Run("no tokens left", func(t *testing.T) {
		eachKind(t, func(t *testing.T, model string) {
			_, router := setup(t, scripted(modeltest.Words("one two three four")))
			prompt := ask(model, "hi")
			prompt.MaxOutputTokens = new(2)
			if got := listen(t.Context(), router, prompt); got.text != "one two " || got.finish != conversation.FinishLength {
				t.Errorf("got %+v", got)
			}
		})
	})
	echoed := ask("any", "one two three")
	echoed.MaxOutputTokens = new(2)
	if got := listen(t.Context(), NewEcho(0), echoed); got.text != "one two " || got.finish != conversation.FinishLength || got.usage.OutputTokens != 2 {
		t.Errorf("the echo said %+v", got)
	}
}

func TestABrokenStreamIsAnErrorAfterWhatWasSaid(t *testing.T) {
	for name, reply := range map[string]modeltest.Reply{
		"the connection is cut":     {DropAfter: 2},
		"the end is never said":     {OmitEnd: true},
		"an error event comes":      {ErrorAfter: 2},
		"an overload is announced":  {ErrorAfter: 2, ErrorType: "overloaded_error"},
		"the provider falls silent": {HangAfter: 2},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, model string) {
				reply.Tokens = []string{"one ", "two "}
				server, router := setup(t, scripted(reply), func(c *Config) {
					c.Retries = 2 // text has come: it must not be asked again
					c.IdleTimeout = 100 * time.Millisecond
				})
				got := listen(t.Context(), router, ask(model, "hi"))
				fault := got.fault(t)
				if got.text != "one two " || !fault.Retryable {
					t.Errorf("got %q, then %+v", got.text, fault)
				}
				want := upstreamError
				if reply.HangAfter > 0 {
					want = upstreamTimeout
				}
				if fault.Code != want || server.Stats().Requests != 1 {
					t.Errorf("got %+v after %d requests", fault, server.Stats().Requests)
				}
			})
		})
	}
}

func TestARejectionInTheMiddleIsNotRetryable(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, scripted(modeltest.Reply{Tokens: []string{"x"}, ErrorAfter: 1, ErrorType: "invalid_request_error"}))
		if fault := listen(t.Context(), router, ask(model, "hi")).fault(t); fault.Code != upstreamRejected || fault.Retryable {
			t.Errorf("got %+v", fault)
		}
	})
}

func TestAnEndlessReplyIsRefused(t *testing.T) {
	for name, reply := range map[string]modeltest.Reply{
		"many tokens":       {Tokens: strings.SplitAfter(strings.Repeat("word ", 1000), " ")},
		"one long token":    {Tokens: []string{strings.Repeat("x", 1<<20)}},
		"one long document": {Tokens: []string{strings.Repeat("x", 1<<20)}, NotStreamed: true},
		"one line":          {Raw: "data: " + strings.Repeat("x", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, model string) {
				_, router := setup(t, scripted(reply), func(c *Config) { c.MaxReplyBytes = 4000 })
				got := listen(t.Context(), router, ask(model, "hi"))
				if fault := got.fault(t); fault.Code != upstreamError || fault.Retryable || !strings.Contains(fault.Error(), "too large") {
					t.Errorf("got %+v", fault)
				}
				if len(got.text) > 4000 {
					t.Errorf("%d bytes were handed on", len(got.text))
				}
			})
		})
	}
}

func TestNobodyIsAskedForAModelThatNoProviderHas(t *testing.T) {
	server, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL, c.APIKey = "", "" })
	fault := listen(t.Context(), router, ask("gpt-mock", "hi")).fault(t)
	if fault.Code != modelNotFound || fault.Retryable || fault.Status != 0 || server.Stats().Requests != 0 {
		t.Errorf("got %+v", fault)
	}
}

func TestTheKeyIsSentAndNothingElseOfTheCaller(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-of-the-environment")
	t.Setenv("ANTHROPIC_API_KEY", "ak-of-the-environment")
	t.Setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
	eachKind(t, func(t *testing.T, model string) {
		server, router := setup(t, modeltest.Options{})
		if got := listen(t.Context(), router, ask(model, "hi")); got.err != nil {
			t.Fatal(got.err)
		}
		header := server.Requests()[0].Header
		if model == kinds[kindOpenAI] && header.Get("Authorization") != "Bearer sk-secret" {
			t.Errorf("got %v", header)
		}
		if model == kinds[kindAnthropic] && header.Get("X-Api-Key") != "ak-secret" {
			t.Errorf("got %v", header)
		}
	})
}

func TestARedirectIsNotFollowed(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		elsewhere := modeltest.New(modeltest.Options{})
		t.Cleanup(elsewhere.Close)
		moved := &http.Server{Handler: http.RedirectHandler(elsewhere.OpenAI()+"/chat/completions", http.StatusTemporaryRedirect)}
		address := serve(t, moved)
		_, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL, c.AnthropicBaseURL = address, address })
		fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
		if fault.Status != http.StatusTemporaryRedirect || fault.Retryable || elsewhere.Stats().Requests != 0 {
			t.Errorf("got %+v", fault)
		}
	})
}
