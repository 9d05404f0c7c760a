package model

// This file stands at the upstream call to Anthropic, by its official SDK.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

// defaultMaxTokens bounds a reply where the agent does not: Anthropic wants to be told.
const defaultMaxTokens = 4096

// anthropicAPI speaks to Anthropic.
type anthropicAPI struct{ messages anthropic.MessageService }

func newAnthropic(baseURL, apiKey string) *anthropicAPI {
	baseURL = strings.TrimSuffix(strings.TrimRight(baseURL, "/"), "/v1")
	return &anthropicAPI{anthropic.NewMessageService(
		option.WithBaseURL(baseURL), option.WithAPIKey(apiKey), option.WithMaxRetries(0), option.WithoutOpenTelemetry(),
	)}
}

// params writes the prompt in Anthropic's terms.
func params(prompt commands.Prompt) anthropic.MessageNewParams {
	p := anthropic.MessageNewParams{
		Model:     prompt.Model,
		MaxTokens: defaultMaxTokens,
		Messages:  turns(prompt.Messages),
	}
	if prompt.MaxOutputTokens != nil {
		p.MaxTokens = int64(*prompt.MaxOutputTokens)
	}
	if prompt.Instructions != "" {
		p.System = []anthropic.TextBlockParam{{Text: prompt.Instructions}}
	}
	for _, stop := range prompt.Stop {
		if strings.TrimSpace(stop) != "" { // Anthropic refuses the whole request for one of nothing but space
			p.StopSequences = append(p.StopSequences, stop)
		}
	}
	if prompt.Temperature != nil {
		p.Temperature = anthropic.Float(min(max(*prompt.Temperature, 0), 1)) // elsewhere it goes to 2
	}
	return p
}

// turns merges what one side said in several messages into one, as blocks of it. A history whose window begins with a
// reply loses it: the user speaks first. Messages without text are refused by Anthropic, so they are left out.
func turns(messages []commands.Message) []anthropic.MessageParam {
	var turns []anthropic.MessageParam
	for _, message := range messages {
		role := anthropic.MessageParamRole(message.Role)
		switch last := len(turns) - 1; {
		case message.Text == "", last < 0 && message.Role != commands.User:
		case last >= 0 && turns[last].Role == role:
			turns[last].Content = append(turns[last].Content, anthropic.NewTextBlock(message.Text))
		default:
			turns = append(turns, anthropic.MessageParam{
				Role: role, Content: []anthropic.ContentBlockParamUnion{anthropic.NewTextBlock(message.Text)},
			})
		}
	}
	return turns
}

func (a *anthropicAPI) attempt(ctx context.Context, sender *sender, prompt commands.Prompt, reply *reply) error {
	var response *http.Response
	stream := a.messages.NewStreaming(ctx, params(prompt), option.WithHTTPClient(sender), option.WithResponseInto(&response))
	if err := stream.Err(); err != nil {
		return err
	}
	defer stream.Close()
	if isJSON(response.Header) {
		return readMessage(response, sender.maxEvent, reply)
	}
	var usage conversation.Usage
	for stream.Next() {
		event := stream.Current()
		if reply.ended {
			continue // only waiting for the end of the body
		}
		reply.alive(event.Type == "content_block_delta")
		var err error
		switch event.Type {
		case "message_start":
			reply.says(event.Message.Model)
			usage = usageOf(event.Message.Usage)
			err = reply.tell("", told(usage))
		case "content_block_delta":
			if event.Delta.Text != "" {
				err = reply.tell(event.Delta.Text, nil)
			}
		case "message_delta":
			usage.OutputTokens = max(usage.OutputTokens, event.Usage.OutputTokens)
			reply.finishes(string(event.Delta.StopReason))
			err = reply.tell("", told(usage))
		case "message_stop":
			reply.end()
		}
		if err != nil {
			return err
		}
	}
	switch {
	case reply.ended:
		return nil
	case stream.Err() == nil:
		return incomplete()
	}
	return explain(stream.Err())
}

// explain turns the SDK's error about an event into a fault; its text may hold the event, so it goes no further. Errors
// of the network stay what they are.
func explain(err error) error {
	if event, ok := errors.AsType[*anthropic.Error](err); ok {
		return failedMidway([]byte(event.RawJSON()))
	}
	_, known := errors.AsType[*fault](err)
	_, network := errors.AsType[net.Error](err)
	if known || network || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) {
		return err
	}
	return garbled("an event of the reply cannot be read")
}

// readMessage reads the one document of a server that does not stream.
func readMessage(response *http.Response, limit int, reply *reply) error {
	document, err := readDocument(response.Body, limit)
	if err != nil {
		return err
	}
	var message anthropic.Message
	if json.Unmarshal(document, &message) != nil || message.Type != "message" {
		return garbled("the reply is not a message")
	}
	var text strings.Builder
	for _, block := range message.Content {
		text.WriteString(block.Text)
	}
	reply.says(message.Model)
	reply.finishes(string(message.StopReason))
	reply.alive(true)
	return reply.tell(text.String(), told(usageOf(message.Usage)))
}

// usageOf counts what was read from a cache, or written to it, as input too.
func usageOf(usage anthropic.Usage) conversation.Usage {
	return conversation.Usage{
		InputTokens:  usage.InputTokens + usage.CacheCreationInputTokens + usage.CacheReadInputTokens,
		OutputTokens: usage.OutputTokens,
	}
}

// told is a usage that the provider has told: nil while it has not.
func told(usage conversation.Usage) *conversation.Usage {
	if usage == (conversation.Usage{}) {
		return nil
	}
	return &usage
}
