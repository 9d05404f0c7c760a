package projections

// This file stands inside the writing of texts into ClickHouse: a text that was opened before its key was destroyed must
// not come in long after, however long its writer was held up. ADR 17 says why it is done this way.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	// clickhouseFence is how long the opened texts of a batch may take into their table. Each row carries the end of that
	// time, by ClickHouse's own clock, which was read before any key was; a constraint of the table compares it with the
	// time at which the block arrives. A batch takes milliseconds, and a tenth of a second on a busy machine.
	clickhouseFence = 10 * time.Second
	// clickhouseFenceMargin is for what has passed the constraint and is being written.
	clickhouseFenceMargin = 2 * time.Second
	// clickhouseFenceTries is how often a batch that came too late is begun anew before its caller hears of it.
	clickhouseFenceTries = 3
)

// insertBy is until when a batch may come in whose keys are read from now on.
func (c clickhouseCheckpoint) insertBy() time.Time { return c.read.Add(clickhouseFence) }

// clickhouseNow reads ClickHouse's clock.
func clickhouseNow(ctx context.Context, conn driver.Conn) (now time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, clickhouseQueryTimeout)
	defer cancel()
	if err := conn.QueryRow(ctx, `SELECT now64(3, 'UTC')`).Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("read ClickHouse's clock: %w", err)
	}
	return now, nil
}

// clickhouseTooLate reports that ClickHouse refused rows because their time was over.
func clickhouseTooLate(err error) bool {
	const violatedConstraint = 469
	exception, ok := errors.AsType[*clickhouse.Exception](err)
	return ok && exception.Code == violatedConstraint
}
