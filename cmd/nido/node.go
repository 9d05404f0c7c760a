package main

// This file is the wiring: plain calls, read from top to bottom. Engines first, then the fold, the write side, the
// read side, the HTTP layer. How a node starts and stops is in run.go.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/admission"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/model"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/requestlog"
	"github.com/nidohq/nido/infra/telemetry"
	"github.com/nidohq/nido/projections"
)

// readSchema holds the Postgres read models that are served.
const readSchema = "read"

// clickhouseReadModels is how ClickHouse's read models are called where their generation is kept.
const clickhouseReadModels = "clickhouse"

// node is one process of Nido, wired and not yet running.
type node struct {
	settings nodeSettings
	roles    []role
	boot     string // names this life of the process; its turns carry it
	log      *slog.Logger

	pool       *pgxpool.Pool // for requests
	foldPool   *pgxpool.Pool // for the fold: requests cannot starve it
	asidePool  *pgxpool.Pool // for life signs and whoever watches the fold: neither of the two can starve them
	guard      *postgres.Guard
	cluster    *kafka.Cluster
	events     *kafka.Log
	requests   *kafka.Requests
	clickhouse *clickhouse.Client

	progress    *projections.Progress
	postgres    *projections.Postgres
	analytics   *projections.ClickHouse
	requestRows *projections.Requests
	keyring     *keyring.Keyring
	boots       *postgres.Boots
	idempotency *postgres.Idempotency
	admission   *admission.Admission
	keyUses     *postgres.KeyUses
	deprecated  *postgres.DeprecatedUses
	texts       *postgres.TurnTexts
	waiters     *postgres.Waiters
	queue       *requestlog.Queue

	accounts      *commands.Accounts
	agents        *commands.Agents
	keys          *commands.Keys
	conversations *commands.Conversations
	chat          *commands.Chat
	blanks        *commands.Blanks
	sweeper       *commands.Sweeper
	eraser        *commands.Eraser
	watch         *commands.Watch
	models        *model.Router
	health        *health
	handler       *api.Server
	returned      *api.Returned // connections of streams that have ended

	metrics    *telemetry.Metrics
	projectors *telemetry.Projectors
	traces     *telemetry.Traces
}

func (n *node) has(r role) bool { return slices.Contains(n.roles, r) }

// newNode wires a node. It needs Kafka and Postgres to be there; ClickHouse may come later.
func newNode(ctx context.Context, settings nodeSettings, engines engineSettings, roles []role, log *slog.Logger) (*node, error) {
	if err := errors.Join(settings.check(), engines.check()); err != nil {
		return nil, err
	}
	n := &node{settings: settings, roles: roles, boot: "boot_" + rand.Text(), log: log, metrics: telemetry.NewMetrics()}
	if err := n.wire(ctx, engines); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) wire(ctx context.Context, engines engineSettings) error {
	var err error
	if n.traces, err = telemetry.NewTraces(ctx, telemetry.TraceConfig{
		Endpoint: n.settings.TraceEndpoint, Ratio: n.settings.TraceRatio, Instance: n.boot,
	}); err != nil {
		return err
	}
	if err := n.openStores(ctx, engines); err != nil {
		return err
	}
	if err := n.wireFold(ctx); err != nil {
		return err
	}
	if err := n.wireCommands(); err != nil {
		return err
	}
	n.wireMetrics()
	return n.wireAPI()
}

// openStores connects to the engines and makes what lives in them but in no read model.
func (n *node) openStores(ctx context.Context, engines engineSettings) error {
	master, err := engines.masterKey()
	if err != nil {
		return err
	}
	n.guard = postgres.NewGuard(postgres.GuardConfig{
		Ends:   func(ctx context.Context) (map[int32]int64, error) { return n.cluster.Ends(ctx) },
		Passed: projections.CheckpointsOn, Logger: n.log,
	})
	if n.pool, err = postgres.Open(ctx, postgres.Config{URL: engines.PostgresURL, MaxConns: 24, ApplicationName: "nido", Guard: n.guard}); err != nil {
		return err
	}
	if n.asidePool, err = postgres.Open(ctx, postgres.Config{
		URL: engines.PostgresURL, MaxConns: 4, ApplicationName: "nido aside", Guard: n.guard, Exempt: true,
	}); err != nil {
		return err
	}
	if err := postgres.Migrate(ctx, n.asidePool); err != nil {
		return err
	}
	if err := postgres.Restored(ctx, n.asidePool); err != nil {
		return err
	}
	if n.keyring, err = keyring.New(ctx, n.pool, master); err != nil {
		return err
	}
	if n.boots, err = postgres.NewBoots(n.asidePool); err != nil {
		return err
	}
	n.admission = admission.New(n.pool).Watched(n.metrics)
	n.keyUses = postgres.NewKeyUses(n.asidePool, n.log)
	n.deprecated = postgres.NewDeprecatedUses(n.asidePool, n.log)
	n.idempotency = postgres.NewIdempotency(n.pool, n.keyring)
	n.texts = postgres.NewTurnTexts(n.pool)
	n.waiters = postgres.NewWaiters(n.pool)
	generation, err := postgres.Generation(ctx, n.pool, clickhouseReadModels)
	if err != nil {
		return err
	}
	if n.clickhouse, err = clickhouse.New(clickhouse.Config{DSN: engines.ClickHouseURL, Generation: generation}); err != nil {
		return err
	}
	if n.cluster, err = kafka.Open(ctx, kafka.Config{
		Brokers: engines.KafkaBrokers, Prefix: n.settings.KafkaPrefix, ClientID: "nido-" + n.boot,
		Partitions: engines.KafkaPartitions, Logger: n.log,
	}); err != nil {
		return err
	}
	if n.events, err = n.cluster.Log(ctx); err != nil {
		return err
	}
	if n.requests, err = n.cluster.Requests(ctx); err != nil {
		return err
	}
	partitions, err := n.cluster.Partitions()
	if err != nil {
		return err
	}
	n.foldPool, err = postgres.Open(ctx, foldPool(engines.PostgresURL, partitions, n.guard))
	return err
}

// maxFolds bounds the partitions that a node folds at the same time; further ones take turns.
const maxFolds = 32

// foldPool has a connection for each partition, since any node may be the last one. A batch that erases conversations may
// drop a million messages in one statement; cut off, it would come again for ever. How long a whole batch may take, the
// projector says. It commits without waiting for the disk, as no other pool does: the log has all that it folds, and the
// guard notices a crash.
func foldPool(url string, partitions int, guard *postgres.Guard) postgres.Config {
	return postgres.Config{
		URL: url, MaxConns: int32(min(partitions, maxFolds)) + 1, StatementTimeout: 5 * time.Minute,
		ApplicationName: "nido fold", Guard: guard, Exempt: true, ByKey: true, Relaxed: true,
	}
}

// wireFold makes the projectors and what waits for them.
func (n *node) wireFold(ctx context.Context) error {
	n.postgres = projections.NewPostgres(n.foldPool, readSchema, n.log)
	if err := n.postgres.Prepare(ctx); err != nil {
		return err
	}
	n.progress = projections.NewProgress(n.asidePool, readSchema, n.log)
	n.analytics = projections.NewClickHouse(n.clickhouse, n.clickhouse.Folds(), n.keyring, n.progress, n.log).Following(n.clickhouse.Folds)
	n.requestRows = projections.NewRequests(n.clickhouse, n.clickhouse.Database)
	n.health = &health{
		cluster: n.cluster, clickhouse: n.clickhouse, progress: n.progress, guard: n.guard,
		folds: n.analytics, requestRows: n.requestRows, lags: newLags(n.cluster),
	}
	return nil
}

// wireCommands makes the write side.
func (n *node) wireCommands() (err error) {
	store := commands.Store{
		Log: n.events, Streams: projections.NewStreams(n.pool), Outcomes: n.progress, Queue: commands.NewQueue(), Observer: n.metrics,
	}
	n.keys = commands.NewKeys(store)
	n.accounts = commands.NewAccounts(store, n.keys)
	n.agents = commands.NewAgents(store)
	n.conversations = commands.NewConversations(store)
	if n.models, err = model.New(model.Config{
		BaseURL: n.settings.ModelBaseURL, APIKey: n.settings.ModelAPIKey,
		AnthropicAPIKey: n.settings.AnthropicAPIKey, AnthropicBaseURL: n.settings.AnthropicBaseURL,
		ProvidersFile: n.settings.Providers, Getenv: os.Getenv, Proxy: proxyFromEnvironment, Observer: n.metrics,
	}); err != nil {
		return fmt.Errorf("model providers: %w", err)
	}
	n.chat = commands.NewChat(commands.ChatConfig{
		Boot: n.boot, TotalTimeout: n.settings.TurnTimeout, Texts: n.texts, Observer: n.metrics, Logger: n.log,
		Line: commands.NewLine(commands.LineConfig{Places: n.waiters, OpenTurns: projections.NewConversations(n.pool), Waited: n.metrics.MessageWaited, Logger: n.log}),
	}, store, n.keyring, n.models)
	n.blanks = commands.NewBlanks(n.keyring, time.Now, n.log)
	n.sweeper = commands.NewSweeper(commands.SweeperConfig{ClaimStale: n.settings.ClaimTimeout, Texts: n.texts, Keyring: n.keyring, Observer: n.metrics, Logger: n.log}, store, lifeSigns{n.boots},
		leftovers{projections.NewConversations(n.pool), projections.NewHosts(n.pool)}, n.agents)
	n.watch = commands.NewWatch(store, dayCounts{projections.NewAccounts(n.pool)}, time.Now, n.log)
	n.eraser = commands.NewEraser(commands.EraserConfig{Logger: n.log}, store, postgres.NewErasures(n.pool), n.keyring,
		analytics{projections.NewForgetting(n.clickhouse, n.clickhouse.Database, n.clickhouse.Folded)},
		belongings{projections.NewErasures(n.pool), projections.NewHosts(n.pool), projections.NewAgents(n.pool), projections.NewKeys(n.pool)}, n.agents, n.keys)
	n.queue, err = requestlog.NewQueue(requestlog.Config{Node: n.boot}, n.requests, n.keyring, n.log)
	return err
}

// wireAPI is the end of the line: what answers HTTP. Nodes of other roles answer the probes only.
func (n *node) wireAPI() (err error) {
	proxies, err := n.settings.trustedProxies()
	if err != nil {
		return err
	}
	n.returned = api.NewReturned()
	n.handler, err = api.New(api.Config{
		Returned:  n.returned,
		PublicURL: n.settings.publicURL(), BaseDomain: n.settings.BaseDomain, ChatTimeout: n.settings.TurnTimeout + chatMargin, Logger: n.log,
		TrustedProxies: proxies, CORSOrigins: n.settings.CORSOrigins, Observer: n.metrics, Tracer: n.traces.Tracer("github.com/nidohq/nido/api"),
		Open: func() bool { return n.has(roleAPI) && n.health.serving.Load() },

		AccountCommands: n.accounts, AgentCommands: n.agents, KeyCommands: n.keys,
		ConversationCommands: n.conversations, Turns: n.chat, Blanks: n.blanks,

		Callers: projections.NewKeys(n.pool), Accounts: projections.NewAccounts(n.pool), Agents: projections.NewAgents(n.pool),
		Keys: projections.NewKeys(n.pool), Chats: projections.NewChat(n.pool), Conversations: projections.NewConversations(n.pool),
		Erasures:    projections.NewErasures(n.pool),
		TurnQueries: projections.NewConversations(n.pool), TurnTexts: n.texts,
		Logs:  projections.NewLogs(n.clickhouse, n.clickhouse.Database),
		Stats: projections.NewStats(n.clickhouse, n.clickhouse.Folds()).Following(n.clickhouse.Folds),

		Keyring: n.keyring, Limiter: n.admission, Watch: n.watch, KeyUses: n.keyUses, Deprecations: deprecations{n.deprecated, projections.NewDeprecations(n.pool)}, Idempotency: once{n.idempotency, n.boot}, RequestLog: n.queue, Health: n.health,
	})
	return err
}

func proxyFromEnvironment(r *http.Request) (*url.URL, error) { return http.ProxyFromEnvironment(r) }
