package model

// This file stands at start: the JSON file that maps models to providers.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	maxProvidersFile = 1 << 20 // bytes
	maxTargets       = 8       // providers of one model
)

// Providers is the providers file; docs/providers.md explains it.
//
//	{"providers": [
//	  {"name": "openai", "kind": "openai", "apiKeyEnv": "OPENAI_API_KEY", "models": ["gpt-*"], "maxConcurrent": 200},
//	  {"name": "local", "kind": "openai", "baseUrl": "http://localhost:11434/v1", "models": ["llama*", "qwen3"],
//	   "rename": {"llama": "llama3.2:3b"}, "firstTokenTimeout": "2m"}
//	 ],
//	 "models": {
//	  "gpt-4o-mini": [{"provider": "openai"}, {"provider": "local", "model": "qwen3:32b"}]
//	}}
//
// A model goes to those whom "models" lists for its name, one after the other, or to the provider that lists it; else to
// the longest matching prefix ("llama*") of either.
type Providers struct {
	Providers []Provider          `json:"providers"`
	Models    map[string][]Target `json:"models,omitempty"` // names, or prefixes with a trailing *
}

// Target is a provider of a model.
type Target struct {
	Provider string `json:"provider"`
	Model    string `json:"model,omitempty"` // its name there; empty means the same
}

// Provider is one entry of the providers file. What it leaves out is as in Config.
type Provider struct {
	Name      string            `json:"name,omitempty"`      // what "models" and metrics call it
	Kind      string            `json:"kind"`                // "openai" (any compatible server), "anthropic" or "echo"
	BaseURL   string            `json:"baseUrl,omitempty"`   // as Config.BaseURL or Config.AnthropicBaseURL
	APIKeyEnv string            `json:"apiKeyEnv,omitempty"` // the environment variable that holds the key
	Models    []string          `json:"models,omitempty"`    // names, or prefixes with a trailing *
	Rename    map[string]string `json:"rename,omitempty"`    // a model's name here → its name at the provider

	ConnectTimeout    string `json:"connectTimeout,omitempty"` // durations like "30s"
	FirstTokenTimeout string `json:"firstTokenTimeout,omitempty"`
	IdleTimeout       string `json:"idleTimeout,omitempty"`
	TotalTimeout      string `json:"totalTimeout,omitempty"`
	Retries           *int   `json:"retries,omitempty"`
	MaxRetryWait      string `json:"maxRetryWait,omitempty"`
	MaxConcurrent     *int   `json:"maxConcurrent,omitempty"`
	MaxQueue          *int   `json:"maxQueue,omitempty"`
	QueueTimeout      string `json:"queueTimeout,omitempty"`
	Breaker           struct {
		Failures *int   `json:"failures,omitempty"` // 0 switches it off
		OpenFor  string `json:"openFor,omitempty"`
		Probes   *int   `json:"probes,omitempty"`
	} `json:"breaker,omitzero"`
}

// readProviders reads the file; no file means no providers.
func readProviders(path string) (Providers, error) {
	var providers Providers
	if path == "" {
		return providers, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return providers, fmt.Errorf("providers file: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxProvidersFile+1))
	if err != nil {
		return providers, fmt.Errorf("providers file: %w", err)
	}
	if len(content) > maxProvidersFile {
		return providers, fmt.Errorf("providers file: larger than %d bytes", maxProvidersFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&providers); err != nil {
		return providers, fmt.Errorf("providers file: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return providers, errors.New("providers file: something follows the JSON document")
	}
	for i := range providers.Providers {
		providers.Providers[i].Name = cmp.Or(providers.Providers[i].Name, fmt.Sprintf("entry-%d", i+1))
	}
	return providers, nil
}

// providerName leaves out what could be taken for something else in a metric, and the names of what the environment
// configures, which have a colon.
var providerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,39}$`)

// check returns what is wrong with an entry by itself.
func (p Provider) check() error {
	switch {
	case !providerName.MatchString(p.Name):
		return errors.New("name must be up to 40 letters, digits, dots, dashes and underscores")
	case p.Kind != kindOpenAI && p.Kind != kindAnthropic && p.Kind != kindEcho:
		return fmt.Errorf("kind must be %q, %q or %q", kindOpenAI, kindAnthropic, kindEcho)
	case p.Kind == kindAnthropic && p.APIKeyEnv == "":
		return errors.New("anthropic needs apiKeyEnv")
	case p.Kind == kindOpenAI && p.BaseURL == "" && p.APIKeyEnv == "":
		return errors.New("openai needs baseUrl or apiKeyEnv")
	case p.Kind == kindEcho && (p.BaseURL != "" || p.APIKeyEnv != ""):
		return errors.New("echo has neither baseUrl nor apiKeyEnv")
	case p.BaseURL != "":
		if err := checkURL("baseUrl", p.BaseURL); err != nil {
			return err
		}
	}
	for _, name := range p.Models {
		if err := checkPattern(name); err != nil {
			return err
		}
	}
	return nil
}

func checkPattern(name string) error {
	if name == "" || strings.Contains(strings.TrimSuffix(name, "*"), "*") {
		return fmt.Errorf("model %q must be a name, or a prefix with one * at its end", name)
	}
	return nil
}

// limits lays an entry's own limits over the others'.
func (p Provider) limits(c Config) (Config, error) {
	var faults []error
	duration := func(field, text string, into *time.Duration) {
		if text == "" {
			return
		}
		value, err := time.ParseDuration(text)
		if err != nil || value <= 0 || value > time.Hour {
			faults = append(faults, fmt.Errorf(`%s must be a duration like "30s", of an hour at most`, field))
		}
		*into = value
	}
	// none is what a zero in the file means in Config, where zero is the default.
	number := func(field string, value *int, least, most, none int, into *int) {
		if value == nil {
			return
		}
		if *value < least || *value > most {
			faults = append(faults, fmt.Errorf("%s must lie between %d and %d", field, least, most))
		}
		if *into = *value; *value == 0 {
			*into = none
		}
	}
	duration("connectTimeout", p.ConnectTimeout, &c.ConnectTimeout)
	duration("firstTokenTimeout", p.FirstTokenTimeout, &c.FirstTokenTimeout)
	duration("idleTimeout", p.IdleTimeout, &c.IdleTimeout)
	duration("totalTimeout", p.TotalTimeout, &c.TotalTimeout)
	duration("maxRetryWait", p.MaxRetryWait, &c.MaxRetryWait)
	duration("queueTimeout", p.QueueTimeout, &c.QueueTimeout)
	duration("breaker.openFor", p.Breaker.OpenFor, &c.BreakerOpen)
	number("retries", p.Retries, 0, 10, -1, &c.Retries)
	number("maxConcurrent", p.MaxConcurrent, 0, 1_000_000, 0, &c.MaxConcurrent)
	number("maxQueue", p.MaxQueue, 0, 1_000_000, -1, &c.MaxQueue)
	number("breaker.failures", p.Breaker.Failures, 0, 10_000, -1, &c.BreakerFailures)
	number("breaker.probes", p.Breaker.Probes, 1, 1_000, 0, &c.BreakerProbes)
	if p.Kind == kindEcho && !p.plain() {
		faults = append(faults, errors.New("echo has no limits"))
	}
	if p.MaxQueue != nil && c.MaxConcurrent == 0 {
		faults = append(faults, errors.New("maxQueue needs maxConcurrent"))
	}
	return c, errors.Join(faults...)
}

// plain says that an entry has no limits of its own.
func (p Provider) plain() bool {
	return p.ConnectTimeout == "" && p.FirstTokenTimeout == "" && p.IdleTimeout == "" && p.TotalTimeout == "" && p.Retries == nil &&
		p.MaxRetryWait == "" && p.MaxConcurrent == nil && p.MaxQueue == nil && p.QueueTimeout == "" && p.Breaker.Failures == nil &&
		p.Breaker.OpenFor == "" && p.Breaker.Probes == nil
}

// checkModels returns what is wrong between "models" and the entries.
func (p Providers) checkModels() error {
	var faults []error
	names, used := map[string]bool{}, map[string]bool{}
	for i, provider := range p.Providers {
		if names[provider.Name] {
			faults = append(faults, fmt.Errorf("entry %d: name %q is given twice", i+1, provider.Name))
		}
		names[provider.Name] = true
	}
	for _, model := range sortedKeys(p.Models) {
		targets := p.Models[model]
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("models, %q: "+format, append([]any{model}, args...)...))
		}
		if err := checkPattern(model); err != nil {
			fault("%w", err)
		}
		if len(targets) == 0 || len(targets) > maxTargets {
			fault("it needs 1 to %d providers", maxTargets)
		}
		for i, target := range targets {
			used[target.Provider] = true
			if !names[target.Provider] {
				fault("provider %d: there is no entry named %q", i+1, target.Provider)
			}
			if slices.Contains(targets[:i], target) {
				fault("provider %d: %q is listed twice", i+1, target.Provider)
			}
		}
	}
	for i, provider := range p.Providers {
		if len(provider.Models) == 0 && !used[provider.Name] {
			faults = append(faults, fmt.Errorf("entry %d: models must not be empty where %q lists no model of it", i+1, "models"))
		}
	}
	return errors.Join(faults...)
}
