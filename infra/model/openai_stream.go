package model

// This file stands at the reply of a server with OpenAI's chat completions: its events become pieces of the reply.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/nidohq/nido/domain/conversation"
)

var streamDone = []byte("[DONE]")

// readCompletionStream reads events until the server says that the reply is complete. Servers say it by a finish reason,
// by [DONE], or both; the usage comes between them, if at all.
func readCompletionStream(ctx context.Context, events *eventReader, reply *reply) error {
	finished := false
	for {
		if events.drained() {
			reply.pause(ctx)
		}
		event, err := events.next()
		switch {
		case err == nil:
		case reply.ended || finished && errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.EOF):
			return incomplete()
		default:
			return err
		}
		switch {
		case reply.ended: // only waiting for the end of the body
		case bytes.HasPrefix(event, streamDone):
			reply.end()
		case !gjson.ValidBytes(event):
			return garbled("an event of the reply is not JSON")
		default:
			piece := parseCompletion(event, "delta")
			if piece.failed {
				return failedMidway(event)
			}
			finished = finished || piece.finish != ""
			if err := reply.take(piece); err != nil {
				return err
			}
		}
	}
}

// readCompletion reads the one document of a server that does not stream.
func readCompletion(body io.Reader, limit int, reply *reply) error {
	document, err := readDocument(body, limit)
	switch {
	case err != nil:
		return err
	case !gjson.ValidBytes(document):
		return garbled("the reply is not JSON")
	}
	piece := parseCompletion(document, "message")
	switch {
	case piece.failed:
		return failedMidway(document)
	case !piece.chosen:
		return garbled("the reply has no choice")
	}
	return reply.take(piece)
}

// take hands a piece on, if there is anything in it.
func (r *reply) take(piece piece) error {
	r.says(piece.model)
	r.finishes(piece.finish)
	r.alive(piece.thought || piece.text != "")
	if piece.text == "" && piece.usage == nil && piece.finish == "" {
		return nil
	}
	return r.tell(piece.text, piece.usage)
}

// piece is what one event says.
type piece struct {
	text, model string
	usage       *conversation.Usage
	chosen      bool   // it has a choice
	thought     bool   // the model thinks aloud: a sign of life, no part of the reply
	finish      string // why the reply is complete; empty where it is not yet
	failed      bool
}

// parseCompletion reads an event ("delta") or a whole completion ("message"), which is valid JSON, in one pass.
func parseCompletion(document []byte, content string) (p piece) {
	gjson.ParseBytes(document).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "model":
			p.model = value.Str
		case "error":
			p.failed = value.Type != gjson.Null
		case "object":
			p.failed = p.failed || value.Str == "error"
		case "choices":
			value.ForEach(func(_, choice gjson.Result) bool {
				p.choice(choice, content)
				return false // one reply was asked for
			})
		case "usage":
			if value.IsObject() {
				p.usage = &conversation.Usage{
					InputTokens:  value.Get("prompt_tokens").Int(),
					OutputTokens: value.Get("completion_tokens").Int(),
				}
			}
		}
		return true
	})
	return p
}

func (p *piece) choice(choice gjson.Result, content string) {
	p.chosen = true
	choice.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "finish_reason":
			p.finish = value.Str
		case content:
			value.ForEach(func(key, value gjson.Result) bool {
				switch key.Str {
				case "content", "refusal":
					p.text += contentText(value)
				case "reasoning_content", "reasoning":
					p.thought = value.Type != gjson.Null && value.Str != ""
				}
				return true
			})
		}
		return true
	})
}

// contentText reads a content: a string, or the list of parts that some servers send.
func contentText(content gjson.Result) string {
	if !content.IsArray() {
		return content.Str
	}
	var text strings.Builder
	content.ForEach(func(_, part gjson.Result) bool {
		if part.Get("type").Str == "text" {
			text.WriteString(part.Get("text").Str)
		}
		return true
	})
	return text.String()
}
