package model

// This file stands at start: the JSON file that maps models to providers.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

const maxProvidersFile = 1 << 20 // bytes

// Providers is the providers file:
//
//	{"providers": [
//	  {"kind": "openai", "baseUrl": "http://localhost:11434/v1", "models": ["llama*", "qwen3"],
//	   "rename": {"llama": "llama3.2:3b"}},
//	  {"kind": "anthropic", "apiKeyEnv": "TEAM_ANTHROPIC_KEY", "models": ["claude*"]},
//	  {"kind": "echo", "models": ["echo"]}
//	]}
//
// A model goes to the provider that lists its name; else to the one with the longest matching prefix ("llama*").
type Providers struct {
	Providers []Provider `json:"providers"`
}

// Provider is one entry of the providers file.
type Provider struct {
	Kind      string            `json:"kind"`                // "openai" (any compatible server), "anthropic" or "echo"
	BaseURL   string            `json:"baseUrl,omitempty"`   // as Config.BaseURL or Config.AnthropicBaseURL
	APIKeyEnv string            `json:"apiKeyEnv,omitempty"` // the environment variable that holds the key
	Models    []string          `json:"models"`              // names, or prefixes with a trailing *
	Rename    map[string]string `json:"rename,omitempty"`    // a model's name here → its name at the provider
}

// readProviders reads the file; no file means no providers.
func readProviders(path string) ([]Provider, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("providers file: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxProvidersFile+1))
	if err != nil {
		return nil, fmt.Errorf("providers file: %w", err)
	}
	if len(content) > maxProvidersFile {
		return nil, fmt.Errorf("providers file: larger than %d bytes", maxProvidersFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	var providers Providers
	if err := decoder.Decode(&providers); err != nil {
		return nil, fmt.Errorf("providers file: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("providers file: something follows the JSON document")
	}
	return providers.Providers, nil
}

// check returns what is wrong with one entry.
func (p Provider) check() error {
	switch {
	case p.Kind != kindOpenAI && p.Kind != kindAnthropic && p.Kind != kindEcho:
		return fmt.Errorf("kind must be %q, %q or %q", kindOpenAI, kindAnthropic, kindEcho)
	case p.Kind == kindAnthropic && p.APIKeyEnv == "":
		return errors.New("anthropic needs apiKeyEnv")
	case p.Kind == kindOpenAI && p.BaseURL == "" && p.APIKeyEnv == "":
		return errors.New("openai needs baseUrl or apiKeyEnv")
	case p.Kind == kindEcho && (p.BaseURL != "" || p.APIKeyEnv != ""):
		return errors.New("echo has neither baseUrl nor apiKeyEnv")
	case len(p.Models) == 0:
		return errors.New("models must not be empty")
	case p.BaseURL != "":
		if err := checkURL("baseUrl", p.BaseURL); err != nil {
			return err
		}
	}
	for _, name := range p.Models {
		if name == "" || strings.Contains(strings.TrimSuffix(name, "*"), "*") {
			return fmt.Errorf("model %q must be a name, or a prefix with one * at its end", name)
		}
	}
	return nil
}
