package model

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "providers.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithNothingConfiguredTheEchoAnswersAndSaysSo(t *testing.T) {
	router, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	prompt := ask("gpt-4o-mini", "say  this again")
	prompt.Messages = append(prompt.Messages, commands.Message{Role: commands.Assistant, Text: "and not this"})
	got := listen(t.Context(), router, prompt)
	if got.err != nil || got.text != "say  this again" || !slices.Equal(got.pieces, []string{"say ", " ", "this ", "again"}) {
		t.Errorf("got %+v", got)
	}
	if got.model != "echo" || got.usage.InputTokens != 8 || got.usage.OutputTokens != 3 {
		t.Errorf("got %q, %+v", got.model, got.usage)
	}
}

func TestTheEchoStopsWhenItsCallerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		start := time.Now()
		got := listen(ctx, NewEcho(10*time.Second), ask("any", "a b c d e"))
		if got.text != "a b " || !errors.Is(got.err, context.DeadlineExceeded) || time.Since(start) != 25*time.Second {
			t.Errorf("got %+v after %v", got, time.Since(start))
		}
	})
}

func TestEachModelGoesToItsProvider(t *testing.T) {
	servers := map[string]*modeltest.Server{}
	for _, name := range []string{"main", "anthropic", "local", "team"} {
		servers[name] = modeltest.New(modeltest.Options{})
		t.Cleanup(servers[name].Close)
	}
	file := writeFile(t, `{"providers": [
		{"kind": "openai", "baseUrl": "`+servers["local"].OpenAI()+`", "models": ["llama*", "qwen3"], "rename": {"llama": "llama3.2:3b"}},
		{"kind": "anthropic", "baseUrl": "`+servers["team"].URL+`/v1/", "apiKeyEnv": "TEAM_KEY", "models": ["claude-opus*"]},
		{"kind": "openai", "baseUrl": "`+servers["team"].OpenAI()+`/", "models": ["llama-guard*"]},
		{"kind": "echo", "models": ["parrot"]}
	]}`)
	router, err := New(Config{
		BaseURL: servers["main"].OpenAI(), AnthropicAPIKey: "ak", AnthropicBaseURL: servers["anthropic"].URL,
		ProvidersFile: file, Getenv: func(name string) string { return "value-of-" + name },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer router.Close()
	for _, test := range []struct{ model, server, asked string }{
		{"gpt-4o-mini", "main", "gpt-4o-mini"},
		{"claude-sonnet-5", "anthropic", "claude-sonnet-5"},
		{"claude-opus-5", "team", "claude-opus-5"},
		{"llama", "local", "llama3.2:3b"},
		{"llama3:8b", "local", "llama3:8b"},
		{"llama-guard:1b", "team", "llama-guard:1b"},
		{"qwen3", "local", "qwen3"},
		{"qwen3:32b", "main", "qwen3:32b"},
	} {
		before := len(servers[test.server].Requests())
		if got := listen(t.Context(), router, ask(test.model, "hi")); got.err != nil {
			t.Fatalf("%s: %v", test.model, got.err)
		}
		requests := servers[test.server].Requests()
		if len(requests) != before+1 || requests[before].Parsed().Model != test.asked {
			t.Errorf("%s did not reach %s as %s", test.model, test.server, test.asked)
		}
		if test.model == "claude-opus-5" && requests[before].Header.Get("X-Api-Key") != "value-of-TEAM_KEY" {
			t.Errorf("the wrong key was sent: %v", requests[before].Header)
		}
	}
	if got := listen(t.Context(), router, ask("parrot", "hi")); got.text != "hi" || got.model != "echo" {
		t.Errorf("got %+v", got)
	}
	if routes := strings.Join(router.Routes(), "\n"); strings.Contains(routes, "value-of") || !strings.Contains(routes, "claude* → anthropic") {
		t.Errorf("got %s", routes)
	}
}

func TestWithAFileOnlyItsModelsExist(t *testing.T) {
	router, err := New(Config{ProvidersFile: writeFile(t, `{"providers":[{"kind":"echo","models":["parrot"]}]}`)})
	if err != nil {
		t.Fatal(err)
	}
	got := listen(t.Context(), router, ask("gpt-4o", "hi"))
	if fault, ok := errors.AsType[*commands.ModelError](got.err); !ok || fault.Code != modelNotFound {
		t.Errorf("got %+v", got)
	}
}

func TestAllFaultsOfAConfigurationAreNamed(t *testing.T) {
	err := Config{
		BaseURL: "localhost:11434", AnthropicBaseURL: "https://user:hunter2@host?x=1", APIKey: "sk-abc\n",
		IdleTimeout: -1, MaxReplyBytes: -1,
		ProvidersFile: writeFile(t, `{"providers":[
			{"kind":"gemini","models":["a"]}, {"kind":"openai","baseUrl":"http://h/v1","models":[]},
			{"kind":"anthropic","models":["b"]}, {"kind":"openai","apiKeyEnv":"UNSET","models":["c"]},
			{"kind":"echo","models":["d*e"]}, {"kind":"echo","models":["f","f"]}]}`),
		Getenv: func(string) string { return "" },
	}.Validate()
	if err == nil {
		t.Fatal("nothing was found")
	}
	for _, want := range []string{
		"BaseURL must be", "AnthropicBaseURL must have no user", "APIKey must be printable", "IdleTimeout", "MaxReplyBytes",
		"entry 1: kind", "entry 2: models", "entry 3: anthropic needs apiKeyEnv", "entry 4: the environment has no UNSET",
		`entry 5: model "d*e"`, `entry 6: model "f" is listed twice`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s", want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "sk-abc") {
		t.Errorf("a secret is in %q", err)
	}
	for _, content := range []string{`{"providers":[]} x`, `{"provider":[]}`, `[`} {
		if err := (Config{ProvidersFile: writeFile(t, content)}).Validate(); err == nil {
			t.Errorf("%s was taken", content)
		}
	}
	if err := (Config{ProvidersFile: filepath.Join(t.TempDir(), "none.json")}).Validate(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestAKeyAloneMeansOpenAIItself(t *testing.T) {
	router, err := New(Config{APIKey: "sk"})
	if err != nil {
		t.Fatal(err)
	}
	if got := router.Routes(); !slices.Equal(got, []string{"* → openai https://api.openai.com/v1"}) {
		t.Errorf("got %q", got)
	}
}
