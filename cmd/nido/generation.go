package main

// This file stands beside the queries: a node follows a rebuild to the generation of ClickHouse's read models that
// serves from now on.

import (
	"context"
	"time"

	"github.com/nidohq/nido/infra/postgres"
)

const (
	// followEvery is how soon a node notices a switch. A rebuild drops the old generation much later.
	followEvery    = 500 * time.Millisecond
	followPatience = 2 * time.Second
)

// followGeneration asks Postgres which generation serves, until the context ends. While Postgres is away the node serves
// nothing, and the generation stays as it was.
func (n *node) followGeneration(ctx context.Context) error {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		asking, cancel := context.WithTimeout(ctx, followPatience)
		generation, err := postgres.Generation(asking, n.asidePool, clickhouseReadModels)
		cancel()
		switch {
		case err != nil:
			n.log.DebugContext(ctx, "generation not looked up", "error", err)
		case n.clickhouse.Serve(generation):
			n.log.InfoContext(ctx, "another generation of the read models serves", "database", n.clickhouse.Folds())
		}
	}
}
