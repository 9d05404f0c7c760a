package commands

// This file stands in the chat turn: collecting what the model says.

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/domain/conversation"
)

// maxReplyBytes bounds one reply's text; the rest of a longer one is not waited for.
const maxReplyBytes = 1 << 20

// generation is what a model said, and how it ended.
type generation struct {
	text  string
	model string
	usage conversation.Usage
	// finish says why it ends where it does, if it is whole.
	finish conversation.Finish
	first  time.Duration // from the start to the first text
	full   time.Duration // from the start to the end
	err    error         // nil, a *ModelError, or the context's cause
}

// generate asks the model, and hands each piece on as it comes.
func generate(ctx context.Context, model Model, prompt Prompt, clock Clock, say func(string)) generation {
	var text strings.Builder
	result := generation{model: prompt.Model}
	var told conversation.Usage     // by the provider
	asked := tokensOfPrompt(prompt) // the prompt is let go of when it has been sent
	pieces := int64(0)
	start := clock()
	for chunk, err := range model.Complete(ctx, prompt) {
		if err != nil {
			result.err = err
			break
		}
		if chunk.Text != "" && text.Len() == 0 {
			result.first = clock().Sub(start)
		}
		if chunk.Text != "" {
			text.WriteString(chunk.Text)
			pieces++
			say(chunk.Text)
		}
		result.model = cmp.Or(chunk.Model, result.model)
		result.finish = cmp.Or(chunk.Finish, result.finish)
		if chunk.Usage != nil {
			told = *chunk.Usage
		}
		if text.Len() > maxReplyBytes {
			result.err = &ModelError{Code: "upstream_error", Err: errors.New("the reply is longer than we take")}
			break
		}
	}
	result.text, result.full = text.String(), clock().Sub(start)
	if ctx.Err() != nil { // whatever the provider's client made of it
		result.err = context.Cause(ctx)
	}
	result.usage = used(told, asked, result, pieces)
	return result
}

// used is what the provider has told of a reply's tokens. Most tell them at its end, which a reply that breaks off does not
// have: what it has cost until then is estimated, and marked so. Where nothing was said nothing is made up.
func used(told conversation.Usage, asked int64, said generation, pieces int64) conversation.Usage {
	if pieces == 0 || said.err == nil && told != (conversation.Usage{}) {
		return told
	}
	usage := told
	if usage.InputTokens == 0 {
		usage.InputTokens = asked
	}
	// Providers send a token or more with each piece.
	usage.OutputTokens = max(usage.OutputTokens, pieces, tokensOf(said.text))
	usage.Estimated = usage != told
	return usage
}

// tokensOf estimates how many tokens a text has: most languages that are written in letters have about four of them to a
// token.
func tokensOf(text string) int64 { return (int64(utf8.RuneCountInString(text)) + 3) / 4 }

func tokensOfPrompt(prompt Prompt) int64 {
	sum := tokensOf(prompt.Instructions)
	for _, message := range prompt.Messages {
		sum += tokensOf(message.Text)
	}
	return sum
}
