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
	if routes := strings.Join(router.Routes(), "\n"); strings.Contains(routes, "value-of") || !strings.Contains(routes, "claude* → env:anthropic (anthropic http") {
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
	if got := router.Routes(); !slices.Equal(got, []string{"* → env:openai (openai https://api.openai.com/v1)"}) {
		t.Errorf("got %q", got)
	}
}

func TestTheFileOfTheDocumentationIsGood(t *testing.T) {
	page, err := os.ReadFile("../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no example")
	}
	router, err := New(Config{ProvidersFile: writeFile(t, example), Getenv: func(name string) string { return name }})
	if err != nil {
		t.Fatal(err)
	}
	if routes := strings.Join(router.Routes(), "\n"); !strings.HasPrefix(routes, "gpt-4o-mini → openai (openai https://api.openai.com/v1), then claude (anthropic https://api.anthropic.com) claude-haiku-4-5, then gpu ") {
		t.Errorf("got %s", routes)
	}
}

func TestFaultsOfLimitsAndFallbacksNameTheField(t *testing.T) {
	entry := `{"name":"a","kind":"openai","baseUrl":"http://h/v1","models":["x"],`
	for content, want := range map[string]string{
		entry + `"connectTimeout":"5"}`:                                            "entry 1: connectTimeout must be a duration",
		entry + `"firstTokenTimeout":"-1s"}`:                                       "entry 1: firstTokenTimeout must be",
		entry + `"idleTimeout":"2h"}`:                                              "entry 1: idleTimeout must be",
		entry + `"totalTimeout":"0s"}`:                                             "entry 1: totalTimeout must be",
		entry + `"maxRetryWait":"soon"}`:                                           "entry 1: maxRetryWait must be",
		entry + `"queueTimeout":"x"}`:                                              "entry 1: queueTimeout must be",
		entry + `"retries":11}`:                                                    "entry 1: retries must lie between 0 and 10",
		entry + `"maxConcurrent":-1}`:                                              "entry 1: maxConcurrent must lie",
		entry + `"maxConcurrent":1,"maxQueue":-1}`:                                 "entry 1: maxQueue must lie",
		entry + `"maxQueue":1}`:                                                    "entry 1: maxQueue needs maxConcurrent",
		entry + `"breaker":{"failures":-1}}`:                                       "entry 1: breaker.failures must lie",
		entry + `"breaker":{"openFor":"x"}}`:                                       "entry 1: breaker.openFor must be",
		entry + `"breaker":{"probes":0}}`:                                          "entry 1: breaker.probes must lie",
		entry + `"breaker":{"patience":"1s"}}`:                                     `unknown field "patience"`,
		entry + `"idleTimeout":30}`:                                                "idleTimeout",
		`{"name":"a:b","kind":"echo","models":["x"]}`:                              "entry 1: name must be",
		`{"kind":"echo","models":["x"],"retries":1}`:                               "entry 1: echo has no limits",
		entry + `"retries":1},` + entry + `"retries":1}`:                           `entry 2: name "a" is given twice`,
		`{"name":"a","kind":"echo"}`:                                               "entry 1: models must not be empty",
		entry + `"retries":1}], "models":{"m":[]`:                                  `models, "m": it needs 1 to 8 providers`,
		entry + `"retries":1}], "models":{"m*n":[{"provider":"a"}]`:                `models, "m*n": model "m*n" must be`,
		entry + `"retries":1}], "models":{"m":[{"provider":"b"}]`:                  `models, "m": provider 1: there is no entry named "b"`,
		entry + `"retries":1}], "models":{"m":[{"provider":"a"},{"provider":"a"}]`: `models, "m": provider 2: "a" is listed twice`,
		entry + `"retries":1}], "models":{"x":[{"provider":"a"}]`:                  `entry 1: model "x" is listed twice`,
	} {
		end := `]}`
		if strings.Contains(content, `"models":{`) {
			end = `}}`
		}
		err := (Config{ProvidersFile: writeFile(t, `{"providers":[`+content+end)}).Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tgot %v\n\tnot %s", content, err, want)
		}
	}
}
