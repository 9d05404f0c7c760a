package commands

// This file stands in the chat turn: collecting what the model says.

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nidohq/nido/domain/conversation"
)

// maxReplyBytes bounds one reply's text; the rest of a longer one is not waited for.
const maxReplyBytes = 1 << 20

// generation is what a model said, and how it ended.
type generation struct {
	text  string
	model string
	usage conversation.Usage
	first time.Duration // from the start to the first text
	full  time.Duration // from the start to the end
	err   error         // nil, a *ModelError, or the context's cause
}

// generate asks the model, and hands each piece on as it comes.
func generate(ctx context.Context, model Model, prompt Prompt, clock Clock, say func(string)) generation {
	var text strings.Builder
	result := generation{model: prompt.Model}
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
			say(chunk.Text)
		}
		result.model = cmp.Or(chunk.Model, result.model)
		if chunk.Usage != nil {
			result.usage = *chunk.Usage
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
	return result
}
