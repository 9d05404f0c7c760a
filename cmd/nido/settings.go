package main

// This file stands before everything: what a node is told by its environment and its command line. Nothing else in
// Nido reads the environment.

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/api"
)

// role is a part of the work; a process takes on one or more.
type role string

const (
	roleAPI       role = "api"       // answers HTTP and runs chat turns
	roleProjector role = "projector" // folds the log into Postgres and ClickHouse
	roleSweeper   role = "sweeper"   // ends what dead nodes left behind
)

var allRoles = []role{roleAPI, roleProjector, roleSweeper}

// nodeSettings is what every node needs to know but where its engines are.
type nodeSettings struct {
	Listen         string        `help:"Where to serve HTTP." default:"127.0.0.1:8080" env:"NIDO_LISTEN" placeholder:"ADDR"`
	BaseDomain     string        `help:"The domain below which each agent has its host." default:"localhost" env:"NIDO_BASE_DOMAIN"`
	PublicURL      string        `help:"Where clients reach the management API; by default the base domain and the port." env:"NIDO_PUBLIC_URL" placeholder:"URL"`
	KafkaPrefix    string        `help:"First part of the names of topics and consumer groups." default:"nido" env:"NIDO_KAFKA_PREFIX"`
	TrustedProxies []string      `help:"Networks or addresses of proxies that are believed about where requests come from, by X-Forwarded-For or Forwarded." env:"NIDO_TRUSTED_PROXIES" placeholder:"CIDR"`
	CORSOrigins    []string      `name:"cors-origins" help:"Origins whose pages may call from a browser, such as https://app.example.com or *." env:"NIDO_CORS_ORIGINS" placeholder:"ORIGIN"`
	TurnTimeout    time.Duration `help:"How long a chat turn may take in all." default:"5m" env:"NIDO_TURN_TIMEOUT"`
	StopDelay      time.Duration `help:"How long a node that was told to stop goes on taking requests while /readyz says 503, so that load balancers see it and turn away." default:"0s" env:"NIDO_STOP_DELAY"`
	StopTimeout    time.Duration `help:"How long running turns may go on after SIGTERM." default:"30s" env:"NIDO_STOP_TIMEOUT"`

	HeaderTimeout time.Duration `help:"How long a client may take to send a request's head." default:"5s" env:"NIDO_HEADER_TIMEOUT"`
	BodyTimeout   time.Duration `help:"How long a client may take to send a request with its body." default:"30s" env:"NIDO_BODY_TIMEOUT"`

	ClaimTimeout time.Duration `help:"How long the slug of an agent that is being created may stay unbound before it is bound or given back." default:"5m" env:"NIDO_CLAIM_TIMEOUT"`

	OperatorListen string  `help:"Where operators find metrics, profiles and health, without a key: an address that only they reach, off, or auto, which is 127.0.0.1:9464 or, where that is taken, any port of 127.0.0.1." default:"auto" env:"NIDO_OPERATOR_LISTEN" placeholder:"ADDR"`
	TraceEndpoint  string  `help:"An OTLP collector's base URL; empty traces nothing. The exporter's other variables (OTEL_EXPORTER_OTLP_HEADERS and so on) hold, too." env:"NIDO_TRACE_ENDPOINT,OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL"`
	TraceRatio     float64 `help:"Which part of the requests is traced that come without a trace of their own." default:"1" env:"NIDO_TRACE_RATIO"`

	ModelBaseURL     string `help:"An OpenAI-compatible API, /v1 included." env:"NIDO_MODEL_BASE_URL" placeholder:"URL"`
	ModelAPIKey      string `help:"Its key." env:"NIDO_MODEL_API_KEY" placeholder:"KEY"`
	AnthropicAPIKey  string `help:"Turns Anthropic on, for models named claude…" env:"ANTHROPIC_API_KEY" placeholder:"KEY"`
	AnthropicBaseURL string `help:"Anthropic's API, elsewhere than usual." env:"ANTHROPIC_BASE_URL" placeholder:"URL"`
	Providers        string `help:"A JSON file that maps model names to further providers." env:"NIDO_PROVIDERS" placeholder:"FILE"`
}

// engineSettings is where the engines are, and the key that wraps all data keys.
type engineSettings struct {
	KafkaBrokers    []string `help:"Kafka's brokers." env:"NIDO_KAFKA_BROKERS" required:"" placeholder:"HOST:PORT"`
	KafkaPartitions int32    `help:"Partitions of the events topic where it does not exist yet; they cannot be changed later." default:"1" env:"NIDO_KAFKA_PARTITIONS"`
	PostgresURL     string   `help:"Postgres." env:"NIDO_POSTGRES_URL" required:"" placeholder:"URL"`
	ClickHouseURL   string   `name:"clickhouse-url" help:"ClickHouse, on its native protocol." env:"NIDO_CLICKHOUSE_URL" required:"" placeholder:"URL"`
	MasterKey       string   `help:"32 bytes in base64; wraps every data key." env:"NIDO_MASTER_KEY" required:"" placeholder:"KEY"`
}

// check reports every fault at once, before anything is connected to, by the names that operators know.
func (s nodeSettings) check() error {
	var faults []error
	fault := func(name, format string, args ...any) {
		faults = append(faults, fmt.Errorf(name+": "+format, args...))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"NIDO_TURN_TIMEOUT", s.TurnTimeout}, {"NIDO_HEADER_TIMEOUT", s.HeaderTimeout}, {"NIDO_BODY_TIMEOUT", s.BodyTimeout},
		{"NIDO_CLAIM_TIMEOUT", s.ClaimTimeout},
	} {
		if d.value <= 0 {
			fault(d.name, "%s is no time to wait, such as 30s", d.value)
		}
	}
	if s.StopTimeout < 0 {
		fault("NIDO_STOP_TIMEOUT", "%s is negative", s.StopTimeout)
	}
	if s.StopDelay < 0 {
		fault("NIDO_STOP_DELAY", "%s is negative", s.StopDelay)
	}
	if s.BaseDomain == "" || strings.ContainsAny(s.BaseDomain, ":/ ") {
		fault("NIDO_BASE_DOMAIN", "%q is no domain such as agents.example.com, without scheme and port", s.BaseDomain)
	}
	if s.PublicURL != "" {
		public, err := url.Parse(s.PublicURL)
		if err != nil || public.Host == "" || (public.Scheme != "http" && public.Scheme != "https") {
			fault("NIDO_PUBLIC_URL", "%q is no address such as https://api.example.com", s.PublicURL)
		}
	}
	_, err := s.trustedProxies()
	return errors.Join(append(faults, err)...)
}

// check reports every fault at once. Addresses hold passwords, and are read by those who connect to them.
func (s engineSettings) check() error {
	var faults []error
	if s.KafkaPartitions < 1 {
		faults = append(faults, fmt.Errorf("NIDO_KAFKA_PARTITIONS: %d is not at least 1", s.KafkaPartitions))
	}
	_, err := s.masterKey()
	return errors.Join(append(faults, err)...)
}

func (s engineSettings) masterKey() ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(s.MasterKey)
	if err != nil || len(key) != 32 {
		return nil, errors.New("NIDO_MASTER_KEY must be 32 bytes in base64, such as `openssl rand -base64 32` prints")
	}
	return key, nil
}

// publicURL is where clients reach the management API.
func (s nodeSettings) publicURL() string {
	if s.PublicURL != "" {
		return strings.TrimSuffix(s.PublicURL, "/")
	}
	_, port, err := net.SplitHostPort(s.Listen)
	if err != nil || port == "80" {
		return "http://" + s.BaseDomain
	}
	return "http://" + net.JoinHostPort(s.BaseDomain, port)
}

// trustedProxies reads networks; an address alone is a network of one.
func (s nodeSettings) trustedProxies() (api.Proxies, error) {
	var proxies api.Proxies
	for _, text := range s.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if address, alone := netip.ParseAddr(text); alone == nil {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil || network.Addr().Is4In6() {
			return nil, fmt.Errorf("NIDO_TRUSTED_PROXIES: %q is not a network such as 10.0.0.0/8, nor an address", text)
		}
		proxies = append(proxies, network)
	}
	return proxies, nil
}

func parseRoles(names []string) ([]role, error) {
	if len(names) == 0 {
		return nil, errors.New("--roles: none is given; the roles are api, projector and sweeper")
	}
	var roles []role
	for _, name := range names {
		if !slices.Contains(allRoles, role(name)) {
			return nil, fmt.Errorf("--roles: there is no role %q; the roles are api, projector and sweeper", name)
		}
		roles = append(roles, role(name))
	}
	return roles, nil
}
