package model

// This file stands at the upstream call where a model has several providers: the next one is asked when one cannot answer,
// as long as nothing has been said.

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/nidohq/nido/commands"
)

// askable is a provider that can be asked.
type askable interface {
	// complete hands on the reply, and returns nil once it is complete or its caller has heard enough. until bounds the wait
	// for the first token. more says that another provider can be asked instead.
	complete(ctx context.Context, prompt *commands.Prompt, until time.Time, more bool, yield func(commands.Chunk, error) bool) *fault
}

// target is a provider and what it calls the model; an empty name is the prompt's.
type target struct {
	provider askable
	name     string // the provider's, for the log
	model    func(asked string) string
}

// chain is where a model's prompts go: to the first of them that can answer.
type chain struct {
	targets []target
	// patience bounds the wait for the first token over all of them.
	patience time.Duration
}

// Complete asks one after the other. The error is that of the last one that is worth a repetition, else the last one's.
func (c chain) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	return func(yield func(commands.Chunk, error) bool) {
		until, asked := time.Now().Add(c.patience), prompt.Model
		var told *fault
		for i, target := range c.targets {
			more := i < len(c.targets)-1
			prompt.Model = target.model(asked)
			fault := target.provider.complete(ctx, &prompt, until, more, yield)
			if fault == nil {
				return
			}
			told = told.or(fault.of(target.name))
			if !more || !fault.elsewhere || ctx.Err() != nil || time.Until(until) <= 0 {
				break
			}
		}
		yield(commands.Chunk{}, told.err())
	}
}

// of names the provider in what the log gets to read.
func (f *fault) of(provider string) *fault {
	if f.caller != nil || f.model == nil {
		return f
	}
	named, model := *f, *f.model
	model.Err = fmt.Errorf("provider %s: %w", provider, model.Err)
	named.model = &model
	return &named
}

// or is what the caller hears of two providers' faults, f being the earlier one: that it is worth a repetition if it is for
// one of them, and as soon as the first of those can be asked again.
func (f *fault) or(later *fault) *fault {
	if f == nil || later.caller != nil {
		return later
	}
	said, other := later, f
	if f.model.Retryable && !later.model.Retryable {
		said, other = f, later
	}
	merged, model := *said, *said.model
	if other.model.Retryable {
		model.RetryAfter = min(model.RetryAfter, other.model.RetryAfter)
	}
	model.Err = fmt.Errorf("%w; before it: %w", later.model.Err, f.model.Err)
	merged.model = &model
	return &merged
}
