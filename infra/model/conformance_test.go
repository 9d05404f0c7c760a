package model

// These tests hold our reader of chat completions to what OpenAI's official SDK makes of the same streams. The SDK is
// the reference here and in bench_test.go, and not the product's client, because of what it costs (see openai.go).

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/infra/model/modeltest"
)

// officialSDK is the protocol of openAI, by openai-go.
type officialSDK struct{ completions openai.ChatCompletionService }

func newOfficialSDK(baseURL, apiKey string) *officialSDK {
	return &officialSDK{openai.NewChatCompletionService(
		option.WithBaseURL(baseURL), option.WithAPIKey(apiKey), option.WithMaxRetries(0),
	)}
}

func (o *officialSDK) attempt(ctx context.Context, sender *sender, prompt commands.Prompt, reply *reply) error {
	params := openai.ChatCompletionNewParams{
		Model:         prompt.Model,
		StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
	}
	if prompt.Instructions != "" {
		params.Messages = append(params.Messages, openai.SystemMessage(prompt.Instructions))
	}
	for _, message := range prompt.Messages {
		if message.Role == commands.User {
			params.Messages = append(params.Messages, openai.UserMessage(message.Text))
		} else {
			params.Messages = append(params.Messages, openai.AssistantMessage(message.Text))
		}
	}
	stream := o.completions.NewStreaming(ctx, params, option.WithHTTPClient(sender))
	defer stream.Close()
	finished := false
	for stream.Next() {
		chunk := stream.Current()
		piece := piece{model: chunk.Model}
		if chunk.JSON.Usage.Valid() {
			piece.usage = &conversation.Usage{InputTokens: chunk.Usage.PromptTokens, OutputTokens: chunk.Usage.CompletionTokens}
		}
		if len(chunk.Choices) > 0 {
			piece.text = chunk.Choices[0].Delta.Content + chunk.Choices[0].Delta.Refusal
			piece.finish = chunk.Choices[0].FinishReason
			finished = finished || piece.finish != ""
		}
		if err := reply.take(piece); err != nil {
			return err
		}
	}
	if stream.Err() == nil && !finished {
		return incomplete()
	}
	return stream.Err()
}

// bySDK is a provider that is asked by the official SDK.
func bySDK(t testing.TB, baseURL string) commands.Model {
	c := Config{Retries: -1}.withDefaults()
	transport := newTransport(c)
	t.Cleanup(transport.CloseIdleConnections)
	return chain{patience: time.Minute, targets: []target{{
		provider: newUpstream("sdk", c, transport, newOfficialSDK(baseURL, "sk-secret")), name: "sdk", model: func(model string) string { return model },
	}}}
}

func TestOurReaderHearsWhatTheOfficialSDKHears(t *testing.T) {
	chunk := func(delta, finish string) string {
		return `{"id":"c","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[{"index":0,"delta":` + delta + `,"finish_reason":` + finish + `}]}`
	}
	hello, stop := chunk(`{"role":"assistant","content":"hello "}`, "null"), chunk(`{}`, `"stop"`)
	usage := `{"id":"c","object":"chat.completion.chunk","created":1,"model":"m-2026","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16,"prompt_tokens_details":{"cached_tokens":4}}}`
	event := func(data string) string { return "data: " + data + "\n\n" }
	done := event("[DONE]")
	for name, raw := range map[string]string{
		"a plain stream":             event(hello) + event(stop) + event(usage) + done,
		"lines that end as on DOS":   strings.ReplaceAll(event(hello)+event(stop)+event(usage)+done, "\n", "\r\n"),
		"no usage":                   event(hello) + event(stop) + done,
		"a usage that is null":       event(strings.Replace(hello, `"choices"`, `"usage":null,"choices"`, 1)) + event(stop) + done,
		"a usage with every event":   event(strings.Replace(hello, `"choices"`, `"usage":{"prompt_tokens":7,"completion_tokens":1},"choices"`, 1)) + event(stop) + event(usage) + done,
		"comments between":           ": hello\n\n" + event(hello) + ": still here\n" + event(stop) + ":\n\n" + done,
		"names and ids of events":    "event: chunk\nid: 1\nretry: 5\n" + event(hello) + event(stop) + done,
		"no space after the colon":   "data:" + hello + "\n\ndata:" + stop + "\n\ndata:[DONE]\n\n",
		"an event over many lines":   "data: " + strings.ReplaceAll(hello, ",", ",\ndata: ") + "\n\n" + event(stop) + done,
		"a line beyond the buffer":   event(chunk(`{"content":"`+strings.Repeat("long ", 5000)+`"}`, "null")) + event(stop) + done,
		"content that is null":       event(chunk(`{"role":"assistant","content":null}`, "null")) + event(hello) + event(stop) + done,
		"escapes":                    event(chunk(`{"content":"\u00bfqu\u00e9? \ud83d\ude42 \"\\\n\t\/"}`, "null")) + event(stop) + done,
		"a refusal":                  event(chunk(`{"refusal":"I will not."}`, "null")) + event(stop) + done,
		"a tool call":                event(chunk(`{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"content\":1}"}}]}`, "null")) + event(stop) + done,
		"spaces in the JSON":         event(strings.ReplaceAll(hello, `":`, `" : `)) + event(stop) + done,
		"the end without [DONE]":     event(hello) + event(stop) + event(usage),
		"no end at all":              event(hello),
		"nothing":                    "",
		"an error":                   event(hello) + event(`{"error":{"message":"no","type":"server_error"}}`),
		"something that is not JSON": event(hello) + event(`{"id":`),
		"words after the end":        event(hello) + event(stop) + done + event(hello),
	} {
		t.Run(name, func(t *testing.T) {
			server, ours := setup(t, scripted(modeltest.Reply{Raw: raw + "\n"}))
			sdk := listen(t.Context(), bySDK(t, server.OpenAI()), ask("gpt-mock", "hi"))
			got := listen(t.Context(), ours, ask("gpt-mock", "hi"))
			if (got.err == nil) != (sdk.err == nil) {
				t.Errorf("our error is %v, the SDK's %v", got.err, sdk.err)
			}
			got.err, sdk.err = nil, nil
			if !reflect.DeepEqual(got, sdk) {
				t.Errorf("we hear\n%+v, the SDK\n%+v", got, sdk)
			}
		})
	}
}

func TestOurReaderForgivesWhatServersGetWrong(t *testing.T) {
	hello := `{"model":"m","choices":[{"delta":{"content":"hello"},"finish_reason":null}]}`
	for name, raw := range map[string]string{
		"[DONE] without a finish reason":   "data: " + hello + "\n\ndata: [DONE]\n\n",
		"no empty line at the end":         "data: " + hello + "\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}",
		"an error that is null":            "data: " + strings.Replace(hello, `"model"`, `"error":null,"model"`, 1) + "\n\ndata: [DONE]\n\n",
		"content as a list of parts":       "data: " + strings.Replace(hello, `"hello"`, `[{"type":"thinking","thinking":"hm"},{"type":"text","text":"hello"}]`, 1) + "\n\ndata: [DONE]\n\n",
		"a thought before the reply":       "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\"content\":null}}]}\n\ndata: " + hello + "\n\ndata: [DONE]\n\n",
		"no model in the first event":      "data: {\"choices\":[]}\n\ndata: " + hello + "\n\ndata: [DONE]\n\n",
		"a first empty line, then a reply": "\n\n\ndata: " + hello + "\n\ndata: [DONE]\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, router := setup(t, scripted(modeltest.Reply{Raw: raw}))
			if got := listen(t.Context(), router, ask("gpt-mock", "hi")); got.err != nil || got.text != "hello" || got.model != "m" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestBytesThatAreNoTextAreReplaced(t *testing.T) {
	_, router := setup(t, scripted(modeltest.Reply{Raw: "data: {\"choices\":[{\"delta\":{\"content\":\"a\xffb\"}}]}\n\ndata: [DONE]\n\n"}))
	if got := listen(t.Context(), router, ask("gpt-mock", "hi")); got.text != "a\uFFFDb" {
		t.Errorf("got %q", got.text)
	}
}
