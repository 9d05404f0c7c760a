package api

// This file stands before every request: what the API needs to be built, and what each part of it asks of the rest.

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Config is everything that the API needs.
type Config struct {
	// PublicURL is where clients reach the management API, without a slash at its end. Default http://localhost:8080.
	// Agents' endpoints have its scheme and port.
	PublicURL string
	// BaseDomain is the domain below which agents have their hosts. Default localhost.
	BaseDomain string
	// TrustedProxies are believed about where requests come from. Default none: then it is whoever connects.
	TrustedProxies Proxies
	// CORSOrigins are the origins whose pages may call from a browser, such as https://app.example.com; "*" is all. Default none.
	CORSOrigins []string
	// RouteTimeout bounds every request but chats. Default 20 seconds.
	RouteTimeout time.Duration
	// ChatTimeout bounds how long a chat's connection stays open; it must lie above the turn's own time-out and the time
	// for ending it. Default 6 minutes.
	ChatTimeout time.Duration
	// Open reports whether this node answers more than the open routes: not before it has caught up with the log, and not
	// where it has other roles only. Until then requests get 503. Default always.
	Open func() bool
	// Clock tells the time. Default time.Now.
	Clock func() time.Time
	// Observer is told of requests. Default nobody.
	Observer Observer
	// Returned is where the connections of long streams come back to the server, which must serve it beside its own listener.
	// Default none: then no connection is taken over.
	Returned *Returned
	// Tracer begins a span for each request. Default none.
	Tracer trace.Tracer
	// Logger takes what goes wrong. It finds a request's id in the context, by RequestIDOf. Required.
	Logger *slog.Logger

	// The write side. All required.
	AccountCommands      AccountCommands
	AgentCommands        AgentCommands
	KeyCommands          KeyCommands
	ConversationCommands ConversationCommands
	Turns                Turns
	Blanks               Blanks

	// The read side. All required.
	Callers       Callers
	Accounts      AccountQueries
	Agents        AgentQueries
	Keys          KeyQueries
	Chats         ChatQueries
	Conversations ConversationQueries
	Erasures      ErasureQueries
	TurnQueries   TurnQueries
	TurnTexts     TurnTexts
	Logs          LogQueries
	Stats         StatQueries

	// What is neither. All required.
	Keyring      Keyring
	Limiter      Limiter
	Watch        Watch
	KeyUses      KeyUses
	Deprecations Deprecations
	Idempotency  Idempotency
	RequestLog   RequestLog
	Health       Health
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for name, missing := range map[string]bool{
		"Logger":          c.Logger == nil,
		"AccountCommands": c.AccountCommands == nil, "AgentCommands": c.AgentCommands == nil, "KeyCommands": c.KeyCommands == nil,
		"ConversationCommands": c.ConversationCommands == nil, "Turns": c.Turns == nil, "Blanks": c.Blanks == nil,
		"Callers": c.Callers == nil, "Accounts": c.Accounts == nil, "Agents": c.Agents == nil, "Keys": c.Keys == nil,
		"Chats": c.Chats == nil, "Conversations": c.Conversations == nil, "Erasures": c.Erasures == nil, "TurnQueries": c.TurnQueries == nil, "TurnTexts": c.TurnTexts == nil, "Logs": c.Logs == nil, "Stats": c.Stats == nil,
		"Keyring": c.Keyring == nil, "Limiter": c.Limiter == nil, "Watch": c.Watch == nil, "KeyUses": c.KeyUses == nil, "Deprecations": c.Deprecations == nil, "Idempotency": c.Idempotency == nil, "RequestLog": c.RequestLog == nil, "Health": c.Health == nil,
	} {
		if missing {
			faults = append(faults, fmt.Errorf("api: Config.%s is missing", name))
		}
	}
	if c.PublicURL != "" {
		public, err := url.Parse(c.PublicURL)
		if err != nil || public.Host == "" || (public.Scheme != "http" && public.Scheme != "https") || strings.HasSuffix(c.PublicURL, "/") {
			faults = append(faults, fmt.Errorf("api: Config.PublicURL %q is not like https://api.example.com", c.PublicURL))
		}
	}
	if err := checkOrigins(c.CORSOrigins); err != nil {
		faults = append(faults, fmt.Errorf("api: Config.CORSOrigins: %w", err))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if c.PublicURL == "" {
		c.PublicURL = "http://localhost:8080"
	}
	if c.BaseDomain == "" {
		c.BaseDomain = "localhost"
	}
	c.BaseDomain = strings.ToLower(strings.Trim(c.BaseDomain, "."))
	if c.RouteTimeout == 0 {
		c.RouteTimeout = 20 * time.Second
	}
	if c.ChatTimeout == 0 {
		c.ChatTimeout = 6 * time.Minute
	}
	if c.Open == nil {
		c.Open = func() bool { return true }
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.Tracer == nil {
		c.Tracer = noTracer
	}
	return c
}
