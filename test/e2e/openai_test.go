package e2e

// This file lets official clients of OpenAI talk to agents, unmodified.

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

// facade is a node, the model behind it, and clients of OpenAI on the agent's host and on the management API.
type facade struct {
	root   *client
	model  *modeltest.Server
	agent  agentView
	onHost openai.Client
	byName openai.Client
	hostAt string
	nameAt string
}

func startFacade(t *testing.T) facade {
	t.Helper()
	model := modeltest.New(modeltest.Options{Reply: spoken})
	t.Cleanup(model.Close)
	dir := t.TempDir()
	node := startDev(t, dir, "NIDO_MODEL_BASE_URL="+model.OpenAI())
	f := facade{root: newClient(t, node.base, rootKey(t, dir)), model: model}
	f.agent = f.root.createAgent("Ventas")
	f.hostAt, f.nameAt = f.root.onHost(f.agent.Slug).base+"/v1/", node.base+"/openai/v1/"
	f.onHost, f.byName = f.client(f.hostAt, f.root.key), f.client(f.nameAt, f.root.key)
	return f
}

func (f facade) client(base, key string, more ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(base), option.WithAPIKey(key), option.WithHTTPClient(f.root.http)}, more...)...)
}

func asking(model string, messages ...openai.ChatCompletionMessageParamUnion) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: messages}
}

func TestOfficialClientsOfOpenAI(t *testing.T) {
	t.Parallel()
	f := startFacade(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // npm's packages take their time to load
	defer cancel()

	t.Run("a completion, by host, slug and id", func(t *testing.T) {
		for model, client := range map[string]openai.Client{"gpt-4o-mini": f.onHost, f.agent.Slug: f.byName, f.agent.ID: f.byName} {
			got, err := client.Chat.Completions.New(ctx, asking(model, openai.UserMessage("hola")))
			if err != nil {
				t.Fatal(err)
			}
			if got.Model != model || len(got.Choices) != 1 || got.Choices[0].Message.Content != whole || got.Choices[0].FinishReason != "stop" ||
				got.Usage.CompletionTokens != 7 || got.Usage.TotalTokens != got.Usage.PromptTokens+7 || !strings.HasPrefix(got.ID, "chatcmpl-") || got.Created == 0 {
				t.Errorf("%s", got.RawJSON())
			}
		}
	})

	t.Run("a stream with its usage", func(t *testing.T) {
		params := asking(f.agent.Slug, openai.UserMessage("hola"))
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := f.byName.Chat.Completions.NewStreaming(ctx, params)
		var all openai.ChatCompletionAccumulator
		chunks := 0
		for stream.Next() {
			chunks++
			if !all.AddChunk(stream.Current()) {
				t.Fatalf("chunk %s does not fit", stream.Current().RawJSON())
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if all.Choices[0].Message.Content != whole || all.Choices[0].FinishReason != "stop" || all.Usage.CompletionTokens != 7 || chunks < 4 {
			t.Errorf("%d chunks: %+v", chunks, all.ChatCompletion)
		}
	})

	t.Run("the client's messages are the history", func(t *testing.T) {
		params := asking(f.agent.Slug, openai.SystemMessage("Sé breve."), openai.UserMessage("uno"), openai.AssistantMessage("dos"), openai.UserMessage("tres"))
		params.Temperature, params.MaxTokens = openai.Float(0.25), openai.Int(50)
		params.Stop.OfStringArray = []string{"FIN"}
		params.User = openai.String("ana")
		if _, err := f.byName.Chat.Completions.New(ctx, params); err != nil {
			t.Fatal(err)
		}
		asked := f.lastAsked()
		want := []commands.Message{{Role: "user", Text: "uno"}, {Role: "assistant", Text: "dos"}, {Role: "user", Text: "tres"}}
		if len(asked.Messages) != 3 || asked.Messages[0] != want[0] || asked.Messages[1] != want[1] || asked.Messages[2] != want[2] ||
			asked.Instructions != "Sos un asistente de ventas amable...\n\nSé breve." || *asked.Temperature != 0.25 || *asked.MaxTokens != 50 ||
			!strings.Contains(string(asked.Body), `"stop":["FIN"]`) {
			t.Errorf("the model was asked %s", asked.Body)
		}
	})

	t.Run("a named conversation goes on", func(t *testing.T) {
		for i, text := range []string{"primera", "segunda"} {
			params := asking(f.agent.Slug, openai.UserMessage(text))
			params.Metadata = map[string]string{"conversation_id": "sdk-1", "team": "ventas"}
			if _, err := f.byName.Chat.Completions.New(ctx, params); err != nil {
				t.Fatal(err)
			}
			if asked := f.lastAsked(); len(asked.Messages) != 1+2*i {
				t.Errorf("asked %s", asked.Body)
			}
		}
		if said := f.root.messages(f.agent.ID, "sdk-1"); len(said) != 4 || said[2].Text != "segunda" || said[3].Text != whole {
			t.Errorf("%+v", said)
		}
	})

	t.Run("errors are the client's own", func(t *testing.T) {
		var issued struct{ Key string }
		f.root.must(http.StatusCreated, "POST", "/api/keys", map[string]any{"name": "lector", "scopes": []string{"stats:read"}}).into(t, &issued)
		wrong := f.root.key[:len(f.root.key)-1] + "!"
		for name, test := range map[string]struct {
			client openai.Client
			params openai.ChatCompletionNewParams
			status int
			code   string
			param  string
			calls  int // of the model
		}{
			"no key of ours": {f.client(f.nameAt, wrong), asking("x", openai.UserMessage("a")), 401, "invalid_api_key", "", 0},
			"no scope":       {f.client(f.nameAt, issued.Key), asking(f.agent.Slug, openai.UserMessage("a")), 403, "missing_scope", "", 0},
			"no such agent":  {f.byName, asking("nobody", openai.UserMessage("a")), 404, "agent_not_found", "model", 0},
			"nothing said":   {f.byName, asking(f.agent.Slug, openai.SystemMessage("a")), 400, "invalid_request", "messages", 0},
			"the model":      {f.client(f.nameAt, f.root.key, option.WithMaxRetries(1)), asking(f.agent.Slug, openai.UserMessage("break")), 502, "upstream_error", "", 2},
		} {
			before := f.model.Stats().Requests
			_, err := test.client.Chat.Completions.New(ctx, test.params)
			failed, ok := errors.AsType[*openai.Error](err)
			if !ok || failed.StatusCode != test.status || failed.Code != test.code || failed.Param != test.param || failed.Message == "" || failed.Type == "" {
				t.Errorf("%s: %v", name, err)
			}
			if calls := f.model.Stats().Requests - before; calls != test.calls {
				t.Errorf("%s: %d calls of the model", name, calls)
			}
		}
		stream := f.byName.Chat.Completions.NewStreaming(ctx, asking(f.agent.Slug, openai.UserMessage("break")))
		for stream.Next() {
		}
		if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "upstream_error") {
			t.Errorf("a stream that breaks: %v", err)
		}
	})

	t.Run("a reply that runs out of tokens says so, whoever reads it", func(t *testing.T) {
		params := asking(f.agent.Slug, openai.UserMessage("hola"))
		params.MaxTokens = openai.Int(3)
		params.Metadata = map[string]string{"conversation_id": "corta"}
		got, err := f.byName.Chat.Completions.New(ctx, params)
		if err != nil || got.Choices[0].FinishReason != "length" || got.Choices[0].Message.Content != "¡Hola, señor Núñez! " || got.Usage.CompletionTokens != 3 {
			t.Fatalf("%v %s", err, got.RawJSON())
		}
		stream := f.onHost.Chat.Completions.NewStreaming(ctx, params)
		var all openai.ChatCompletionAccumulator
		for stream.Next() {
			all.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil || all.Choices[0].FinishReason != "length" {
			t.Errorf("%v %+v", err, all.ChatCompletion)
		}
		// Who comes behind the turn reads it in the stores.
		resumed := f.root.resume(strings.TrimPrefix(got.ID, "chatcmpl-"), "")
		if end := resumed.until("turn.completed"); !strings.Contains(end.data, `"finishReason":"length"`) || strings.Contains(end.data, "estimated") {
			t.Errorf("%+v", end)
		}
	})

	t.Run("agents are models", func(t *testing.T) {
		for _, client := range []openai.Client{f.onHost, f.byName} {
			page, err := client.Models.List(ctx)
			if err != nil || len(page.Data) != 1 || page.Data[0].ID != f.agent.Slug || page.Data[0].Created == 0 {
				t.Errorf("%v %+v", err, page)
			}
			for _, name := range []string{f.agent.Slug, f.agent.ID} {
				if one, err := client.Models.Get(ctx, name); err != nil || one.ID != f.agent.Slug || one.Created != page.Data[0].Created || one.OwnedBy == "" {
					t.Errorf("%v %+v", err, one)
				}
			}
			_, err = client.Models.Get(ctx, "nobody")
			if failed, ok := errors.AsType[*openai.Error](err); !ok || failed.StatusCode != http.StatusNotFound || failed.Param != "model" {
				t.Errorf("a model that is none: %v", err)
			}
		}
	})

	for script, packages := range map[string]string{"openai.test.mjs": "openai", "vercel.test.mjs": "ai"} {
		t.Run("the npm package "+packages, func(t *testing.T) {
			if _, err := os.Stat(filepath.Join("..", "sdk", "node_modules", packages, "package.json")); err != nil {
				t.Fatal("the packages of test/sdk are not installed: run `npm ci --ignore-scripts` there")
			}
			limited := f.root.createAgent("Limitado " + packages)
			f.root.must(http.StatusOK, "PATCH", "/api/agents/"+limited.ID, map[string]any{"rateLimit": map[string]int{"perMinute": 1}})
			spent := f.root.createAgent("Gastado " + packages)
			f.root.must(http.StatusOK, "PATCH", "/api/agents/"+spent.ID, map[string]any{"rateLimit": map[string]int{"perDay": 1}})
			cut := f.model.Stats().Cut
			node := exec.CommandContext(ctx, "node", filepath.Join("..", "sdk", script))
			node.Env = append(os.Environ(), "NIDO_SDK_BASE="+f.nameAt, "NIDO_SDK_KEY="+f.root.key, "NIDO_SDK_MODEL="+f.agent.Slug, "NIDO_SDK_AGENT="+f.agent.ID,
				"NIDO_SDK_LIMITED="+limited.Slug, "NIDO_SDK_SPENT="+spent.Slug, "NIDO_SDK_WHOLE="+whole)
			if output, err := node.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
			await(t, 20*time.Second, "the model's calls for clients that left to be cut", func() bool {
				now := f.model.Stats()
				return now.Cut > cut && now.Active == 0
			})
		})
	}
}

func (f facade) lastAsked() modeltest.Request {
	asked := f.model.Requests()
	return asked[len(asked)-1].Parsed()
}
