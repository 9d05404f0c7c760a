// Package model stands in the chat turn: it asks a model provider for a reply and hands the reply on as it comes.
//
// A Router picks the provider by the model's name: any server with OpenAI's chat completions, Anthropic, or the built-in
// echo where nothing is configured; or one provider after the other (chain.go). All have the same kinds of limits
// (call.go, gate.go) and one way to say what went wrong (fault.go).
package model

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Where the providers are unless the configuration says otherwise.
const (
	DefaultBaseURL          = "https://api.openai.com/v1"
	DefaultAnthropicBaseURL = "https://api.anthropic.com"
)

// Config says which providers there are and how patient to be with them. The zero value answers by echo.
type Config struct {
	// BaseURL is where an OpenAI-compatible server has its API, "/v1" included. Empty means OpenAI itself if APIKey is
	// set, and no such provider otherwise.
	BaseURL string
	// APIKey is sent to BaseURL as a bearer token. Empty means that the server wants none.
	APIKey string
	// AnthropicAPIKey turns Anthropic on, for models whose name starts with "claude".
	AnthropicAPIKey string
	// AnthropicBaseURL is where Anthropic's API is, without "/v1". Empty means DefaultAnthropicBaseURL.
	AnthropicBaseURL string
	// ProvidersFile is a JSON file with further providers, see Providers. Its models go before all others.
	ProvidersFile string
	// Getenv looks up the variables that the providers file names as apiKeyEnv; it is needed only if it names any.
	Getenv func(name string) string

	// ConnectTimeout bounds the TCP connection, and the TLS handshake again. 0 means 5 s.
	ConnectTimeout time.Duration
	// FirstTokenTimeout bounds the wait for a provider's first token, retries and the wait for a slot included. 0 means 60 s.
	FirstTokenTimeout time.Duration
	// IdleTimeout bounds the wait for each later token. 0 means 30 s.
	IdleTimeout time.Duration
	// Retries is how often a call is repeated that failed before its first token. 0 means 2, negative none.
	Retries int
	// MaxRetryWait bounds the wait before a repetition. A provider that asks for more (Retry-After) is not asked again.
	// 0 means 5 s.
	MaxRetryWait time.Duration
	// TotalTimeout bounds a call from its beginning to its end. 0 means that the turn's own time is all there is.
	TotalTimeout time.Duration
	// StartTimeout bounds the wait for the first token over all providers of a model. 0 means 90 s.
	StartTimeout time.Duration
	// MaxConcurrent bounds the calls of a provider that are under way. 0 means any number.
	MaxConcurrent int
	// MaxQueue bounds the calls that wait for one of those to end. 0 means MaxConcurrent, negative none.
	MaxQueue int
	// QueueTimeout bounds that wait. 0 means 10 s.
	QueueTimeout time.Duration
	// BreakerFailures is how many calls of a provider fail in a row before it is left alone. 0 means 10, negative never.
	BreakerFailures int
	// BreakerOpen is for how long. 0 means 5 s.
	BreakerOpen time.Duration
	// BreakerProbes is how many calls are tried at a time behind that, before all are let through again. 0 means 1.
	BreakerProbes int
	// MaxReplyBytes bounds the text of a reply. 0 means 1 MiB.
	MaxReplyBytes int
	// MaxIdleConns is how many unused connections are kept for the next call, in all and to one host; the number of
	// connections in use is not bounded here. 0 means 512.
	MaxIdleConns int
	// Proxy says through which HTTP proxy to go. Nil means none.
	Proxy func(*http.Request) (*url.URL, error)
	// EchoDelay is how long the echo waits before each word, for tests.
	EchoDelay time.Duration
	// Observer is told of calls. Nil for nobody.
	Observer Observer
}

// Validate returns all faults, joined. It reads the providers file.
func (c Config) Validate() error {
	_, err := c.plan()
	return errors.Join(append(c.faults(), err)...)
}

func (c Config) faults() []error {
	var faults []error
	if c.BaseURL != "" {
		faults = append(faults, checkURL("BaseURL", c.BaseURL))
	}
	if c.AnthropicBaseURL != "" {
		faults = append(faults, checkURL("AnthropicBaseURL", c.AnthropicBaseURL))
	}
	for name, key := range map[string]string{"APIKey": c.APIKey, "AnthropicAPIKey": c.AnthropicAPIKey} {
		if !headerSafe(key) {
			faults = append(faults, fmt.Errorf("%s must be printable ASCII without spaces", name))
		}
	}
	for _, limit := range []struct {
		name  string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout}, {"FirstTokenTimeout", c.FirstTokenTimeout}, {"IdleTimeout", c.IdleTimeout},
		{"MaxRetryWait", c.MaxRetryWait}, {"EchoDelay", c.EchoDelay}, {"TotalTimeout", c.TotalTimeout}, {"StartTimeout", c.StartTimeout},
		{"QueueTimeout", c.QueueTimeout}, {"BreakerOpen", c.BreakerOpen}, {"BreakerProbes", time.Duration(c.BreakerProbes)},
		{"MaxConcurrent", time.Duration(c.MaxConcurrent)},
		{"MaxReplyBytes", time.Duration(c.MaxReplyBytes)}, {"MaxIdleConns", time.Duration(c.MaxIdleConns)},
	} {
		if limit.value < 0 {
			faults = append(faults, fmt.Errorf("%s must not be negative", limit.name))
		}
	}
	return faults
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.APIKey != "" {
		c.BaseURL = cmp.Or(c.BaseURL, DefaultBaseURL)
	}
	c.AnthropicBaseURL = cmp.Or(c.AnthropicBaseURL, DefaultAnthropicBaseURL)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.FirstTokenTimeout = cmp.Or(c.FirstTokenTimeout, time.Minute)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Second)
	c.Retries = max(0, cmp.Or(c.Retries, 2))
	c.MaxRetryWait = cmp.Or(c.MaxRetryWait, 5*time.Second)
	c.StartTimeout = cmp.Or(c.StartTimeout, 90*time.Second)
	c.MaxQueue = cmp.Or(c.MaxQueue, c.MaxConcurrent)
	c.QueueTimeout = cmp.Or(c.QueueTimeout, 10*time.Second)
	c.BreakerFailures = cmp.Or(c.BreakerFailures, 10)
	c.BreakerOpen = cmp.Or(c.BreakerOpen, 5*time.Second)
	c.BreakerProbes = cmp.Or(c.BreakerProbes, 1)
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	c.MaxReplyBytes = cmp.Or(c.MaxReplyBytes, 1<<20)
	c.MaxIdleConns = cmp.Or(c.MaxIdleConns, 512)
	return c
}

// headerSafe says whether a key can be sent in a header; a line break that was pasted along cannot.
func headerSafe(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// checkURL refuses what would send prompts or keys somewhere else than meant. It never repeats the URL, which may hold
// a password.
func checkURL(name, raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("%s is not a URL", name)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("%s must be an absolute http or https URL", name)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("%s must have no user, query or fragment", name)
	}
	return nil
}
