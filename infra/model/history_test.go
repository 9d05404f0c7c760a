package model

// These tests look at what providers are asked.

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

var history = commands.Prompt{
	Instructions: "Be kind.",
	Messages: []commands.Message{
		{Role: commands.Assistant, Text: "(the window begins here)"},
		{Role: commands.User, Text: "one"},
		{Role: commands.User, Text: "two"},
		{Role: commands.Assistant, Text: ""},
		{Role: commands.Assistant, Text: "three"},
		{Role: commands.User, Text: "four"},
	},
}

func asked(t *testing.T, model string, prompt commands.Prompt) modeltest.Request {
	t.Helper()
	server, router := setup(t, modeltest.Options{})
	prompt.Model = model
	if got := listen(t.Context(), router, prompt); got.err != nil {
		t.Fatal(got.err)
	}
	return server.Requests()[0].Parsed()
}

func TestOpenAIIsToldTheHistoryAsItIs(t *testing.T) {
	got := asked(t, "gpt-mock", history)
	want := []commands.Message{
		{Role: "assistant", Text: "(the window begins here)"}, {Role: "user", Text: "one"}, {Role: "user", Text: "two"},
		{Role: "assistant", Text: "three"}, {Role: "user", Text: "four"},
	}
	if !reflect.DeepEqual(got.Messages, want) || got.Instructions != "Be kind." || got.Model != "gpt-mock" {
		t.Errorf("got %+v", got)
	}
	if !got.Stream || !got.IncludeUsage || got.MaxTokens != nil || got.Temperature != nil || got.Path != "/v1/chat/completions" {
		t.Errorf("got %+v", got)
	}
}

func TestAnthropicIsToldTurnsThatAlternateAndBeginWithTheUser(t *testing.T) {
	got := asked(t, "claude-mock", history)
	want := []commands.Message{
		{Role: "user", Text: "one\ntwo"}, {Role: "assistant", Text: "three"}, {Role: "user", Text: "four"},
	}
	if !reflect.DeepEqual(got.Messages, want) || got.Instructions != "Be kind." || got.Model != "claude-mock" {
		t.Errorf("got %+v", got)
	}
	if !got.Stream || got.MaxTokens == nil || *got.MaxTokens != 4096 || got.Temperature != nil || got.Path != "/v1/messages" {
		t.Errorf("got %+v", got)
	}
}

func TestSettingsAreSent(t *testing.T) {
	for model, warmest := range map[string]float64{"gpt-mock": 1.5, "claude-mock": 1} {
		prompt, temperature, tokens := history, 1.5, 77
		prompt.Temperature, prompt.MaxOutputTokens = &temperature, &tokens
		got := asked(t, model, prompt)
		if got.Temperature == nil || *got.Temperature != warmest || got.MaxTokens == nil || *got.MaxTokens != 77 {
			t.Errorf("%s was told %s", model, got.Body)
		}
		cold := 0.0
		prompt.Temperature = &cold
		if got := asked(t, model, prompt); got.Temperature == nil || *got.Temperature != 0 {
			t.Errorf("%s was told %s", model, got.Body)
		}
	}
}

func TestOpenAIsOwnServerIsTooNewForMaxTokens(t *testing.T) {
	tokens := 77
	for url, field := range map[string]string{
		"https://api.openai.com/v1": "max_completion_tokens", "https://eu.api.openai.com/v1/": "max_completion_tokens",
		"http://localhost:11434/v1": "max_tokens", "https://notopenai.com/v1": "max_tokens",
	} {
		body, err := newOpenAI(url, "").body(commands.Prompt{MaxOutputTokens: &tokens})
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatal(err)
		}
		if string(fields[field]) != "77" || strings.Count(string(body), "77") != 1 {
			t.Errorf("%s is told %s", url, body)
		}
	}
}

func TestAServerWithoutAKeyIsSentNone(t *testing.T) {
	server, router := setup(t, modeltest.Options{}, func(c *Config) { c.APIKey = "" })
	if got := listen(t.Context(), router, ask("gpt-mock", "hi")); got.err != nil {
		t.Fatal(got.err)
	}
	if got, ok := server.Requests()[0].Header["Authorization"]; ok {
		t.Errorf("got %q", got)
	}
}

func TestAnthropicIsNotToldToStopAtSpace(t *testing.T) {
	prompt := history
	prompt.Stop = []string{"\n\n", "FIN", " "}
	if body := string(asked(t, "claude-mock", prompt).Body); !strings.Contains(body, `"stop_sequences":["FIN"]`) {
		t.Errorf("it is asked %s", body)
	}
	if body := string(asked(t, "gpt-mock", prompt).Body); !strings.Contains(body, `"stop":["\n\n","FIN"," "]`) {
		t.Errorf("OpenAI is asked %s", body)
	}
}
