package model

// This file stands where a provider stands when none is configured.

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
)

// EchoModel is what the echo says answered.
const EchoModel = "echo"

// Echo replies with the last user message, word by word, as many as it may. It is deterministic, and it counts words as
// tokens.
type Echo struct{ delay time.Duration }

// NewEcho builds an echo that waits so long before each word.
func NewEcho(delay time.Duration) Echo { return Echo{delay} }

// Complete says what was said.
func (e Echo) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	return func(yield func(commands.Chunk, error) bool) {
		text := ""
		usage := conversation.Usage{InputTokens: words(prompt.Instructions)}
		for _, message := range prompt.Messages {
			usage.InputTokens += words(message.Text)
			if message.Role == commands.User {
				text = message.Text
			}
		}
		finish := conversation.FinishStop
		for word := range strings.SplitAfterSeq(text, " ") {
			if limit := prompt.MaxOutputTokens; limit != nil && usage.OutputTokens == int64(*limit) {
				finish = conversation.FinishLength
				break
			}
			if err := e.pause(ctx); err != nil {
				yield(commands.Chunk{}, fmt.Errorf("echo: %w", err))
				return
			}
			if word != "" && !yield(commands.Chunk{Text: word, Model: EchoModel}, nil) {
				return
			}
			usage.OutputTokens += words(word)
		}
		yield(commands.Chunk{Model: EchoModel, Usage: &usage, Finish: finish}, nil)
	}
}

func (e Echo) pause(ctx context.Context) error {
	if e.delay == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(e.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// words counts without building a slice of them.
func words(text string) (n int64) {
	for range strings.FieldsSeq(text) {
		n++
	}
	return n
}
