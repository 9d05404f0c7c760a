package main

// This file stands beside the read models: an operator asks whether they are what the log says.

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/infra/replay"
)

// verifyCommand folds the log afresh and compares.
type verifyCommand struct {
	Limit int `help:"How many differences to list of each table." default:"10"`
	storeSettings
}

// Run implements kong's command.
func (c verifyCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, s.close) }()
	scratch, err := s.openPool(ctx, replay.VerifySchema, true)
	if err != nil {
		return err
	}
	found, err := replay.Verify{
		Cluster: s.cluster, Pool: s.pool, Scratch: scratch, Served: readSchema,
		ClickHouse: s.analytics(), Opener: s.keyring, Unfinished: postgres.NewErasures(s.pool).Unfinished, Limit: max(1, c.Limit),
		Out: os.Stdout, Progress: &progress.Progress{Out: os.Stderr}, Logger: log,
	}.Run(ctx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("the read models differ from the log in %d places", len(found))
	}
	return nil
}
