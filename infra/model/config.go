// Package model stands in the chat turn: it asks a model provider for a reply and hands the reply on as it comes.
//
// A Router picks the provider by the model's name: any server with OpenAI's chat completions, Anthropic, or the built-in
// echo where nothing is configured. All providers share one HTTP transport, one set of time-outs, retries and limits
// (call.go) and one way to say what went wrong (fault.go).
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
	// FirstTokenTimeout bounds the wait for the first token, retries included. 0 means 60 s.
	FirstTokenTimeout time.Duration
	// IdleTimeout bounds the wait for each later token. 0 means 30 s.
	IdleTimeout time.Duration
	// Retries is how often a call is repeated that failed before its first token. 0 means 2, negative none.
	Retries int
	// MaxRetryWait bounds the wait before a repetition. A provider that asks for more (Retry-After) is not asked again.
	// 0 means 5 s.
	MaxRetryWait time.Duration
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
	_, err := c.routes()
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
		{"MaxRetryWait", c.MaxRetryWait}, {"EchoDelay", c.EchoDelay},
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
