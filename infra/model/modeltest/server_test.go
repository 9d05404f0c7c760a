package modeltest_test

// These tests look at the mock with the providers' official clients.

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/nidohq/nido/infra/model/modeltest"
)

const twenty = "word01 word02 word03 word04 word05 word06 word07 word08 word09 word10 " +
	"word11 word12 word13 word14 word15 word16 word17 word18 word19 word20 "

func TestTheOfficialOpenAIClientIsContentWithTheMock(t *testing.T) {
	server := modeltest.New(modeltest.Options{})
	defer server.Close()
	completions := openai.NewChatCompletionService(option.WithBaseURL(server.OpenAI()), option.WithAPIKey("k"))
	params := openai.ChatCompletionNewParams{Model: "any", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
	whole, err := completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Choices[0].Message.Content != twenty || whole.Usage.CompletionTokens != 20 {
		t.Errorf("got %+v", whole)
	}
	var streamed openai.ChatCompletionAccumulator
	stream := completions.NewStreaming(t.Context(), params)
	for stream.Next() {
		streamed.AddChunk(stream.Current())
	}
	if stream.Err() != nil || streamed.Choices[0].Message.Content != twenty || streamed.Choices[0].FinishReason != "stop" {
		t.Errorf("got %+v, %v", streamed.ChatCompletion, stream.Err())
	}
}

func TestTheOfficialAnthropicClientIsContentWithTheMock(t *testing.T) {
	server := modeltest.New(modeltest.Options{})
	defer server.Close()
	messages := anthropic.NewMessageService(anthropicoption.WithBaseURL(server.Anthropic()), anthropicoption.WithAPIKey("k"))
	params := anthropic.MessageNewParams{
		Model: "any", MaxTokens: 100, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))},
	}
	whole, err := messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Content[0].Text != twenty || whole.Usage.OutputTokens != 20 {
		t.Errorf("got %+v", whole)
	}
	var streamed anthropic.Message
	stream := messages.NewStreaming(t.Context(), params)
	for stream.Next() {
		if err := streamed.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if stream.Err() != nil || streamed.Content[0].Text != twenty || streamed.StopReason != "end_turn" || streamed.Usage.OutputTokens != 20 {
		t.Errorf("got %+v, %v", streamed, stream.Err())
	}
}

func TestOnlyTheLatestRequestsAreKept(t *testing.T) {
	server := modeltest.New(modeltest.Options{Kept: 3})
	defer server.Close()
	for _, body := range []string{"1", "2", "3", "4", "5"} {
		response, err := http.Post(server.OpenAI()+"/chat/completions", "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	kept := ""
	for _, request := range server.Requests() {
		kept += string(request.Body)
	}
	if kept != "345" || server.Stats().Requests != 5 {
		t.Errorf("kept %q of %d", kept, server.Stats().Requests)
	}
}

func TestCloseReleasesCallersThatWereLeftHanging(t *testing.T) {
	server := modeltest.New(modeltest.Options{Reply: func(modeltest.Request) modeltest.Reply { return modeltest.Reply{Hang: true} }})
	failed := make(chan error, 1)
	go func() {
		response, err := http.Post(server.OpenAI()+"/chat/completions", "application/json", bytes.NewReader([]byte("{}")))
		if err == nil {
			err = errors.Join(errors.New("it answered"), response.Body.Close())
		}
		failed <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := server.Await(ctx, func(s modeltest.Stats) bool { return s.Active == 1 }); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if err := <-failed; err == nil {
		t.Error("the call went well")
	}
	if err := server.Await(ctx, func(s modeltest.Stats) bool { return s.Active == 0 }); err != nil {
		t.Error(err)
	}
}
