package model

// This file stands at the first step of the upstream call: which providers a model belongs to.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
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

// The providers that the environment configures.
const (
	envOpenAI    = "env:openai"
	envAnthropic = "env:anthropic"
	envEcho      = "env:echo"
)

// Router is a commands.Model that hands each prompt to the providers of its model.
type Router struct {
	routes     []bound
	addresses  map[string]string // of the providers: kind and URL
	upstreams  []*upstream
	transports []*http.Transport
}

var _ commands.Model = (*Router)(nil)

// route says which models go where. A pattern with a trailing * is a prefix; "*" is all.
type route struct {
	pattern string
	targets []Target
}

// bound is a route with its providers ready to be asked.
type bound struct {
	route
	chain chain
}

// plan is what a configuration comes to.
type plan struct {
	providers map[string]planned
	routes    []route
}

// planned is a provider with everything that it needs.
type planned struct {
	Provider
	apiKey string
	config Config
}

// New builds the providers. Nothing is called before the first prompt.
func New(c Config) (*Router, error) {
	if err := errors.Join(c.faults()...); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	plan, err := c.plan()
	if err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	r := &Router{addresses: map[string]string{}}
	asked := map[string]askable{}
	for _, name := range sortedKeys(plan.providers) {
		asked[name] = r.build(plan.providers[name])
		r.addresses[name] = strings.TrimSpace(plan.providers[name].Kind + " " + plan.providers[name].BaseURL)
	}
	for _, route := range plan.routes {
		bound := bound{route: route, chain: chain{patience: c.withDefaults().StartTimeout}}
		for _, to := range route.targets {
			rename := plan.providers[to.Provider].Rename
			bound.chain.targets = append(bound.chain.targets, target{
				provider: asked[to.Provider], name: to.Provider,
				model: func(model string) string { return cmp.Or(to.Model, rename[model], model) },
			})
		}
		r.routes = append(r.routes, bound)
	}
	return r, nil
}

// build makes a provider, with a transport of its own: how long connecting may take is a transport's matter.
func (r *Router) build(p planned) askable {
	if p.Kind == kindEcho {
		return watchedEcho{NewEcho(p.config.EchoDelay), p.Name, p.config.Observer}
	}
	transport := newTransport(p.config)
	r.transports = append(r.transports, transport)
	var speaks protocol = newOpenAI(p.BaseURL, p.apiKey)
	if p.Kind == kindAnthropic {
		speaks = newAnthropic(p.BaseURL, p.apiKey)
	}
	built := newUpstream(p.Name, p.config, transport, speaks)
	r.upstreams = append(r.upstreams, built)
	return built
}

// Complete asks the providers of the prompt's model.
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
	return r.routes[i].chain.Complete(ctx, prompt)
}

// Standing is how a provider is at the moment.
type Standing struct {
	Provider string
	Breaker  string // "closed", "half-open" or "open"
	Active   int64  // calls under way
	Waiting  int64  // calls that wait for one of those to end
}

// Standings tells how each provider is.
func (r *Router) Standings() []Standing {
	standings := make([]Standing, len(r.upstreams))
	for i, u := range r.upstreams {
		standings[i] = Standing{Provider: u.gate.name, Breaker: u.gate.state(), Active: u.gate.active.Load(), Waiting: u.gate.waiting.Load()}
	}
	return standings
}

// Routes tells, for the log at start, which models go where; without keys.
func (r *Router) Routes() []string {
	var lines []string
	for _, b := range r.routes {
		var names []string
		for _, to := range b.targets {
			names = append(names, strings.TrimSpace(to.Provider+" ("+r.addresses[to.Provider]+") "+to.Model))
		}
		lines = append(lines, b.pattern+" → "+strings.Join(names, ", then "))
	}
	return lines
}

// Close lets go of unused connections. Calls under way go on.
func (r *Router) Close() {
	for _, transport := range r.transports {
		transport.CloseIdleConnections()
	}
}

func (r route) matches(model string) bool {
	if prefix, ok := strings.CutSuffix(r.pattern, "*"); ok {
		return strings.HasPrefix(model, prefix)
	}
	return r.pattern == model
}

// plan lists the providers, and which models go where: the file's names, the file's prefixes, then what the variables
// configure.
func (c Config) plan() (plan, error) {
	file, err := readProviders(c.ProvidersFile)
	if err != nil {
		return plan{}, err
	}
	var faults []error
	if err := file.checkModels(); err != nil {
		faults = append(faults, fmt.Errorf("providers file: %w", err))
	}
	result := plan{providers: map[string]planned{}}
	seen := map[string]bool{}
	for _, model := range sortedKeys(file.Models) {
		seen[model] = true
		result.routes = append(result.routes, route{model, file.Models[model]})
	}
	for i, provider := range file.Providers {
		built, err := c.provide(provider)
		if err != nil {
			faults = append(faults, fmt.Errorf("providers file, entry %d: %w", i+1, err))
			continue
		}
		result.providers[provider.Name] = built
		for _, pattern := range provider.Models {
			if seen[pattern] {
				faults = append(faults, fmt.Errorf("providers file, entry %d: model %q is listed twice", i+1, pattern))
			}
			seen[pattern] = true
			result.routes = append(result.routes, route{pattern, []Target{{Provider: provider.Name}}})
		}
	}
	slices.SortStableFunc(result.routes, func(a, b route) int { return cmp.Compare(b.precision(), a.precision()) })
	c.fromEnvironment(&result)
	return result, errors.Join(faults...)
}

// provide gives an entry of the file its key and its limits.
func (c Config) provide(p Provider) (planned, error) {
	if err := p.check(); err != nil {
		return planned{}, err
	}
	limited, err := p.limits(c)
	if err != nil {
		return planned{}, err
	}
	key := ""
	if p.APIKeyEnv != "" && c.Getenv != nil {
		key = c.Getenv(p.APIKeyEnv)
	}
	switch {
	case p.APIKeyEnv == "":
	case key == "":
		return planned{}, fmt.Errorf("the environment has no %s", p.APIKeyEnv)
	case !headerSafe(key):
		return planned{}, fmt.Errorf("%s must be printable ASCII without spaces", p.APIKeyEnv)
	}
	switch p.Kind {
	case kindOpenAI:
		p.BaseURL = cmp.Or(p.BaseURL, DefaultBaseURL)
	case kindAnthropic:
		p.BaseURL = cmp.Or(p.BaseURL, DefaultAnthropicBaseURL)
	}
	return planned{p, key, limited.withDefaults()}, nil
}

// fromEnvironment adds what the variables configure, and the echo where nothing is.
func (c Config) fromEnvironment(to *plan) {
	d := c.withDefaults()
	add := func(pattern string, provider Provider, key string) {
		to.providers[provider.Name] = planned{provider, key, d}
		to.routes = append(to.routes, route{pattern, []Target{{Provider: provider.Name}}})
	}
	if c.AnthropicAPIKey != "" {
		add("claude*", Provider{Name: envAnthropic, Kind: kindAnthropic, BaseURL: d.AnthropicBaseURL}, c.AnthropicAPIKey)
	}
	if d.BaseURL != "" {
		add("*", Provider{Name: envOpenAI, Kind: kindOpenAI, BaseURL: d.BaseURL}, c.APIKey)
	}
	if len(to.routes) == 0 {
		add("*", Provider{Name: envEcho, Kind: kindEcho}, "")
	}
}

// precision orders the file's patterns: names first, then longer prefixes.
func (r route) precision() int {
	if strings.HasSuffix(r.pattern, "*") {
		return len(r.pattern)
	}
	return 1 << 20
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
