package model

// This file stands at the first step of the upstream call: which provider a model belongs to.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/nidohq/nido/commands"
)

// The kinds of providers.
const (
	kindOpenAI    = "openai"
	kindAnthropic = "anthropic"
	kindEcho      = "echo"
)

// Router is a commands.Model that hands each prompt to the provider of its model.
type Router struct {
	routes    []bound
	transport *http.Transport
}

var _ commands.Model = (*Router)(nil)

// route says which models go to a provider. A pattern with a trailing * is a prefix; "*" is all.
type route struct {
	pattern  string
	provider Provider
	apiKey   string
}

// bound is a route with its provider ready to be asked.
type bound struct {
	route
	model commands.Model
}

// New builds the providers. Nothing is called before the first prompt.
func New(c Config) (*Router, error) {
	if err := errors.Join(c.faults()...); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	routes, err := c.routes()
	if err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	c = c.withDefaults()
	r := &Router{transport: newTransport(c)}
	for _, route := range routes {
		provider := newProvider(c, r.transport, route)
		if c.Observer != nil {
			provider = observed{provider, route.provider.label(), c.Observer}
		}
		r.routes = append(r.routes, bound{route, provider})
	}
	return r, nil
}

// Complete asks the provider of the prompt's model.
func (r *Router) Complete(ctx context.Context, prompt commands.Prompt) iter.Seq2[commands.Chunk, error] {
	i := slices.IndexFunc(r.routes, func(b bound) bool { return b.matches(prompt.Model) })
	if i < 0 {
		return func(yield func(commands.Chunk, error) bool) {
			yield(commands.Chunk{}, &commands.ModelError{
				Code: modelNotFound,
				Err:  fmt.Errorf("no provider is configured for the model %q", prompt.Model),
			})
		}
	}
	prompt.Model = cmp.Or(r.routes[i].provider.Rename[prompt.Model], prompt.Model)
	return r.routes[i].model.Complete(ctx, prompt)
}

// Routes tells, for the log at start, which models go where; without keys.
func (r *Router) Routes() []string {
	var lines []string
	for _, b := range r.routes {
		lines = append(lines, strings.TrimSpace(b.pattern+" → "+b.provider.Kind+" "+b.provider.BaseURL))
	}
	return lines
}

// Close lets go of unused connections. Calls under way go on.
func (r *Router) Close() { r.transport.CloseIdleConnections() }

func (r route) matches(model string) bool {
	if prefix, ok := strings.CutSuffix(r.pattern, "*"); ok {
		return strings.HasPrefix(model, prefix)
	}
	return r.pattern == model
}

// routes lists which models go where: the file's names, the file's prefixes, then what the variables configure.
func (c Config) routes() ([]route, error) {
	providers, err := readProviders(c.ProvidersFile)
	if err != nil {
		return nil, err
	}
	d := c.withDefaults()
	var routes []route
	var faults []error
	seen := map[string]bool{}
	for i, provider := range providers {
		err := provider.check()
		key := ""
		if provider.APIKeyEnv != "" && c.Getenv != nil {
			key = c.Getenv(provider.APIKeyEnv)
		}
		switch {
		case err != nil || provider.APIKeyEnv == "":
		case key == "":
			err = fmt.Errorf("the environment has no %s", provider.APIKeyEnv)
		case !headerSafe(key):
			err = fmt.Errorf("%s must be printable ASCII without spaces", provider.APIKeyEnv)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("providers file, entry %d: %w", i+1, err))
			continue
		}
		switch provider.Kind {
		case kindOpenAI:
			provider.BaseURL = cmp.Or(provider.BaseURL, DefaultBaseURL)
		case kindAnthropic:
			provider.BaseURL = cmp.Or(provider.BaseURL, DefaultAnthropicBaseURL)
		}
		for _, pattern := range provider.Models {
			if seen[pattern] {
				faults = append(faults, fmt.Errorf("providers file, entry %d: model %q is listed twice", i+1, pattern))
			}
			seen[pattern] = true
			routes = append(routes, route{pattern, provider, key})
		}
	}
	slices.SortStableFunc(routes, func(a, b route) int { return cmp.Compare(b.precision(), a.precision()) })
	if c.AnthropicAPIKey != "" {
		routes = append(routes, route{"claude*", Provider{Kind: kindAnthropic, BaseURL: d.AnthropicBaseURL}, c.AnthropicAPIKey})
	}
	if d.BaseURL != "" {
		routes = append(routes, route{"*", Provider{Kind: kindOpenAI, BaseURL: d.BaseURL}, c.APIKey})
	}
	if len(routes) == 0 {
		routes = []route{{pattern: "*", provider: Provider{Kind: kindEcho}}}
	}
	return routes, errors.Join(faults...)
}

// precision orders the file's patterns: names first, then longer prefixes.
func (r route) precision() int {
	if strings.HasSuffix(r.pattern, "*") {
		return len(r.pattern)
	}
	return 1 << 20
}

func newProvider(c Config, transport *http.Transport, route route) commands.Model {
	switch route.provider.Kind {
	case kindEcho:
		return NewEcho(c.EchoDelay)
	case kindAnthropic:
		return newUpstream(c, transport, newAnthropic(route.provider.BaseURL, route.apiKey))
	default:
		return newUpstream(c, transport, newOpenAI(route.provider.BaseURL, route.apiKey))
	}
}
