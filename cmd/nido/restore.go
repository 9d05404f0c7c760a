package main

// This file stands before a first start: empty stores get what a backup has.

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nidohq/nido/infra/backup"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/progress"
)

// restoreCommand puts a backup into empty stores. Nodes start on them when it has finished, and fold the log by themselves.
type restoreCommand struct {
	From     string        `help:"The directory of the backup." type:"path" required:"" placeholder:"DIR"`
	Patience time.Duration `help:"Give up when nothing has moved for so long; given again, the command goes on." default:"10m"`
	storeSettings
}

// Run implements kong's command.
func (c restoreCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	master, err := engineSettings{MasterKey: c.MasterKey}.masterKey()
	if err != nil {
		return err
	}
	o := &operator{settings: c.logSettings, log: log}
	defer func() { err = closing(err, o.close) }()
	pool, err := o.openPool(ctx, readSchema, false)
	if err != nil {
		return err
	}
	target, err := kafka.OpenTarget(ctx, kafka.Config{Brokers: c.KafkaBrokers, Prefix: c.KafkaPrefix, ClientID: "nido-restore", Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = closing(err, target.Close) }()
	analytics, err := clickhouse.New(clickhouse.Config{DSN: c.ClickHouseURL})
	if err != nil {
		return err
	}
	defer func() { err = closing(err, analytics.Close) }()
	began := time.Now()
	restored, err := backup.Restore{
		Dir: c.From, Prefix: c.KafkaPrefix, Log: target, Pool: pool, ClickHouse: analytics, MasterKey: master,
		Patience: c.Patience, Out: os.Stdout, Progress: &progress.Progress{Out: os.Stderr}, Logger: log,
	}.Run(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("these stores hold the backup of %s: %s\nnodes fold the log when they start\n", restored.Taken.Format(time.RFC3339), summary(restored, began))
	return nil
}
