package main

// This file stands beside the node: what operators' commands share, which look at the log and its read models from
// outside while nodes serve.

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

// longWork is how long one statement of an operator's command may take, and how long a transaction may wait for it.
const longWork = 12 * time.Hour

// logSettings is where the log is, and who decides what was accepted.
type logSettings struct {
	KafkaBrokers []string `help:"Kafka's brokers." env:"NIDO_KAFKA_BROKERS" required:"" placeholder:"HOST:PORT"`
	KafkaPrefix  string   `help:"First part of the names of topics and consumer groups." default:"nido" env:"NIDO_KAFKA_PREFIX"`
	PostgresURL  string   `help:"Postgres." env:"NIDO_POSTGRES_URL" required:"" placeholder:"URL"`
}

// operator is an operator's command at work.
type operator struct {
	settings logSettings
	log      *slog.Logger
	cluster  *kafka.Cluster
	pool     *pgxpool.Pool // on the read models that are served
	opened   []func()
}

// open connects to the log and to Postgres.
func (s logSettings) open(ctx context.Context, log *slog.Logger) (*operator, error) {
	o := &operator{settings: s, log: log}
	var err error
	if o.pool, err = o.openPool(ctx, readSchema, false); err != nil {
		return nil, err
	}
	if err := postgres.Restored(ctx, o.pool); err != nil {
		return nil, closing(err, o.close)
	}
	o.cluster, err = kafka.Open(ctx, kafka.Config{
		Brokers: s.KafkaBrokers, Prefix: s.KafkaPrefix, ClientID: "nido-operator", MustExist: true, Logger: log,
	})
	if err != nil {
		return nil, closing(err, o.close)
	}
	return o, nil
}

// openPool opens a pool whose search path begins with a schema of read models.
func (o *operator) openPool(ctx context.Context, schema string, relaxed bool) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(ctx, postgres.Config{
		URL: o.settings.PostgresURL, MaxConns: 8, Schemas: []string{schema, "nido"}, ApplicationName: "nido operator",
		AcquireTimeout: 10 * time.Second, StatementTimeout: longWork, IdleTransactionTimeout: longWork, Relaxed: relaxed, ByKey: relaxed,
	})
	if err == nil {
		o.opened = append(o.opened, pool.Close)
	}
	return pool, err
}

func (o *operator) close() error {
	var err error
	if o.cluster != nil {
		err = o.cluster.Close()
	}
	for _, shut := range o.opened {
		shut()
	}
	return err
}

// storeSettings is where everything is that can be folded from the log, and the key that opens texts.
type storeSettings struct {
	logSettings
	ClickHouseURL string `name:"clickhouse-url" help:"ClickHouse, on its native protocol." env:"NIDO_CLICKHOUSE_URL" required:"" placeholder:"URL"`
	MasterKey     string `help:"32 bytes in base64; opens what ClickHouse holds in plain." env:"NIDO_MASTER_KEY" required:"" placeholder:"KEY"`
}

// stores is an operator's command that works on all stores.
type stores struct {
	*operator
	keyring    *keyring.Keyring
	clickhouse *clickhouse.Client
}

// open connects to everything.
func (s storeSettings) open(ctx context.Context, log *slog.Logger) (*stores, error) {
	master, err := engineSettings{MasterKey: s.MasterKey}.masterKey()
	if err != nil {
		return nil, err
	}
	o, err := s.logSettings.open(ctx, log)
	if err != nil {
		return nil, err
	}
	opened := &stores{operator: o}
	opened.keyring, err = keyring.New(ctx, o.pool, master)
	var generation int
	if err == nil {
		generation, err = postgres.Generation(ctx, o.pool, clickhouseReadModels)
	}
	if err == nil {
		opened.clickhouse, err = clickhouse.Open(ctx, clickhouse.Config{DSN: s.ClickHouseURL, Generation: generation})
	}
	if err != nil {
		return nil, closing(err, o.close)
	}
	o.opened = append(o.opened, func() { _ = opened.clickhouse.Close() }) // nothing is under way any more
	return opened, nil
}

// analytics is the ClickHouse projector into what is served, asked by nobody to fold.
func (s *stores) analytics() *projections.ClickHouse {
	return projections.NewClickHouse(s.clickhouse, s.clickhouse.Folds(), s.keyring, nil, s.log)
}
