package main

// This file stands beside the read models: an operator has them folded anew from the log while the old ones serve.

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/infra/replay"
)

// rebuildCommand fills the next generation of a read model and switches to it.
type rebuildCommand struct {
	Postgres   rebuildPostgresCommand   `cmd:"" help:"Rebuild the read models in Postgres."`
	ClickHouse rebuildClickHouseCommand `cmd:"" name:"clickhouse" help:"Rebuild the read models in ClickHouse; the request log is none of them."`
}

type rebuildPostgresCommand struct {
	Batch int `help:"Records per transaction." default:"2000"`
	logSettings
}

// Run implements kong's command.
func (c rebuildPostgresCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	o, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, o.close) }()
	next, err := o.openPool(ctx, replay.NextSchema, true)
	if err != nil {
		return err
	}
	return replay.Postgres{
		Cluster: o.cluster, Pool: o.pool, Next: next, Served: readSchema, BatchRecords: c.Batch,
		Out: os.Stdout, Progress: &progress.Progress{Out: os.Stderr}, Logger: log,
	}.Run(ctx)
}

type rebuildClickHouseCommand struct {
	Batch int           `help:"Records per insert." default:"5000"`
	Grace time.Duration `help:"How long nodes have to follow the switch before the old generation is dropped." default:"10s"`
	storeSettings
}

// Run implements kong's command.
func (c rebuildClickHouseCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, s.close) }()
	return replay.ClickHouse{
		Cluster: s.cluster, Pool: s.pool, Served: readSchema, Client: s.clickhouse, Opener: s.keyring, ReadModel: clickhouseReadModels,
		BatchRecords: c.Batch, Grace: c.Grace, Out: os.Stdout, Progress: &progress.Progress{Out: os.Stderr}, Logger: log,
	}.Run(ctx)
}
