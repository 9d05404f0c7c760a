package main

// This file stands beside the stores: an operator has a copy made of what is nowhere else.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nidohq/nido/infra/backup"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/progress"
)

// backupCommand copies into a directory, or reads what is there. Checking needs nothing but the directory and the master
// key, so the stores' addresses are asked for here and not by kong.
type backupCommand struct {
	To    string `help:"The directory of the backup: empty, or one that an earlier backup of this installation went to, which is brought up to date." type:"path" placeholder:"DIR"`
	Check string `help:"Instead: read the backup in this directory to its end and compare it with its manifest." type:"path" placeholder:"DIR"`

	WithoutRequestLog bool          `help:"Leave the request log as the directory has it, for when ClickHouse is away."`
	Patience          time.Duration `help:"Give up when nothing has moved for so long." default:"10m"`

	KafkaBrokers  []string `help:"Kafka's brokers." env:"NIDO_KAFKA_BROKERS" placeholder:"HOST:PORT"`
	KafkaPrefix   string   `help:"First part of the names of topics and consumer groups." default:"nido" env:"NIDO_KAFKA_PREFIX"`
	PostgresURL   string   `help:"Postgres." env:"NIDO_POSTGRES_URL" placeholder:"URL"`
	ClickHouseURL string   `name:"clickhouse-url" help:"ClickHouse, on its native protocol." env:"NIDO_CLICKHOUSE_URL" placeholder:"URL"`
	MasterKey     string   `help:"32 bytes in base64; the files are sealed under a key that is derived from it." env:"NIDO_MASTER_KEY" required:"" placeholder:"KEY"`
}

// Run implements kong's command.
func (c backupCommand) Run(ctx context.Context, log *slog.Logger) error {
	if (c.To == "") == (c.Check == "") {
		return errors.New("give either --to DIR or --check DIR")
	}
	master, err := engineSettings{MasterKey: c.MasterKey}.masterKey()
	if err != nil {
		return err
	}
	keys, err := keyring.ForBackup(master)
	if err != nil {
		return err
	}
	began, progress := time.Now(), &progress.Progress{Out: os.Stderr}
	if c.Check != "" {
		found, err := backup.Check{Dir: c.Check, Keys: keys, Patience: c.Patience, Progress: progress}.Run(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("the backup of %s is whole: %s\n", found.Taken.Format(time.RFC3339), summary(found, began))
		return nil
	}
	return c.copy(ctx, log, keys, progress, began)
}

func (c backupCommand) copy(ctx context.Context, log *slog.Logger, keys keyring.BackupKeys, progress *progress.Progress, began time.Time) (err error) {
	settings, err := c.stores()
	if err != nil {
		return err
	}
	work := backup.Backup{
		Dir: c.To, Prefix: c.KafkaPrefix, Keys: keys, Patience: c.Patience, Out: os.Stdout, Progress: progress, Logger: log,
	}
	if c.WithoutRequestLog {
		o, err := settings.logSettings.open(ctx, log)
		if err != nil {
			return err
		}
		defer func() { err = closing(err, o.close) }()
		work.Cluster, work.Pool = o.cluster, o.pool
	} else {
		s, err := settings.open(ctx, log)
		if err != nil {
			return err
		}
		defer func() { err = closing(err, s.close) }()
		work.Cluster, work.Pool, work.ClickHouse = s.cluster, s.pool, s.clickhouse
	}
	made, err := work.Run(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("backup of %s: %s\n", made.Taken.Format(time.RFC3339), summary(made, began))
	if made.Requests.Behind > 0 {
		fmt.Printf("%d bundles of the request log had not reached ClickHouse and are not in it\n", made.Requests.Behind)
	}
	return nil
}

// stores are the addresses, of which none may be missing.
func (c backupCommand) stores() (storeSettings, error) {
	var missing []string
	for name, given := range map[string]bool{
		"NIDO_KAFKA_BROKERS": len(c.KafkaBrokers) > 0, "NIDO_POSTGRES_URL": c.PostgresURL != "",
		"NIDO_CLICKHOUSE_URL": c.ClickHouseURL != "" || c.WithoutRequestLog,
	} {
		if !given {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return storeSettings{}, fmt.Errorf("not set: %s", strings.Join(missing, ", "))
	}
	return storeSettings{
		logSettings:   logSettings{KafkaBrokers: c.KafkaBrokers, KafkaPrefix: c.KafkaPrefix, PostgresURL: c.PostgresURL},
		ClickHouseURL: c.ClickHouseURL, MasterKey: c.MasterKey,
	}, nil
}

// summary counts what is in a backup.
func summary(m *backup.Manifest, began time.Time) string {
	return fmt.Sprintf("%d events, %d days of the request log, %.1f MB in all, in %s",
		m.Events(), len(m.Requests.Days), float64(m.Bytes())/1e6, time.Since(began).Round(10*time.Millisecond))
}
