package projections

// This file stands beside the folds into ClickHouse: how far each has come on every partition, for whoever watches.

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Checkpoints reads how far every partition has been folded. A partition without a checkpoint is absent.
func (c *ClickHouse) Checkpoints(ctx context.Context) (map[int32]int64, error) {
	return c.store.now().checkpoints(ctx)
}

// Checkpoints reads how far every partition has been written. A partition without a checkpoint is absent.
func (r *Requests) Checkpoints(ctx context.Context) (map[int32]int64, error) {
	return r.store.now().checkpoints(ctx)
}

const clickhouseCheckpointsQuery = `SELECT part, max(off) AS off FROM {db:Identifier}.checkpoints GROUP BY part`

func (s clickhouseStore) checkpoints(ctx context.Context) (map[int32]int64, error) {
	var rows []struct {
		Part int32 `ch:"part"`
		Off  int64 `ch:"off"`
	}
	if err := s.conn.Select(ctx, &rows, clickhouseCheckpointsQuery, clickhouse.Named("db", s.database)); err != nil {
		return nil, fmt.Errorf("read the checkpoints in %s: %w", s.database, err)
	}
	found := make(map[int32]int64, len(rows))
	for _, row := range rows {
		found[row.Part] = row.Off
	}
	return found, nil
}
