//go:build linux

package main

// This file is the rows about projectors that begin with empty read models: rows per second over bare batch inserts of
// rows of the same shape.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const eventsTopic = "nido.events"

// fillLog sees to it that the log holds enough turns, and returns the end of its one partition.
func (b *bench) fillLog(ctx context.Context) (end int64, err error) {
	c, err := b.nodes(ctx)
	if err != nil {
		return 0, err
	}
	if end, err = logEnd(ctx); err != nil {
		return 0, err
	}
	if missing := b.catchUp - int(end)/2; missing > 0 {
		load := b.chat(c, c.fast)
		load.Count, load.Span = missing, 10*time.Minute
		if _, err := b.measure(ctx, load, 64); err != nil {
			return 0, err
		}
	}
	return logEnd(ctx)
}

func logEnd(ctx context.Context) (int64, error) {
	kafka, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("NIDO_KAFKA_BROKERS")))
	if err != nil {
		return 0, fmt.Errorf("reach the log: %w", err)
	}
	defer kafka.Close()
	ends, err := kadm.NewClient(kafka).ListEndOffsets(ctx, eventsTopic)
	if err != nil {
		return 0, fmt.Errorf("read the log's end: %w", err)
	}
	end, ok := ends.Lookup(eventsTopic, 0)
	if !ok {
		return 0, errors.New("the log has no partition 0")
	}
	return end.Offset, end.Err
}

// progress is how far a projector is and when.
type progress struct {
	offset int64
	at     time.Time
}

// followed watches a checkpoint until it reaches an end, and returns the records per second between the first sight of
// it beyond the beginning and the last.
func followed(ctx context.Context, end int64, checkpoint func() (int64, error)) (perSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	first := progress{offset: -1}
	var last progress
	began := time.Now()
	err = until(ctx, 10*time.Millisecond, func() (bool, error) {
		offset, err := checkpoint()
		last = progress{offset, time.Now()}
		if err == nil && first.offset < 0 {
			if offset >= 0 {
				first = last
			} else {
				began = last.at // nothing yet
			}
		}
		return err == nil && offset >= end-1, err
	})
	if first.at.Equal(last.at) { // all of it between two looks
		first = progress{-1, began}
	}
	return float64(last.offset-first.offset) / last.at.Sub(first.at).Seconds(), err
}

// postgresCatchUp is row 9.
func postgresCatchUp(ctx context.Context, b *bench) error {
	b.say("row 9: the Postgres projector catches up")
	end, err := b.fillLog(ctx)
	if err != nil {
		return err
	}
	b.stopCluster()
	conn, err := reachPostgres(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	const fillBare = `INSERT INTO bare SELECT gen, 1, 0, md5(gen), md5(gen), 'user', 'received', '', md5(gen), $2, 'fast', 12, 20, 0, 0, now() FROM unnest($1::text[]) gen`
	var bare, records, rows []float64
	for round := range b.rounds {
		if _, err := conn.Exec(ctx, `DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE read.messages INCLUDING ALL)`); err != nil {
			return err
		}
		began, written := time.Now(), 0
		text := make([]byte, 560)
		for time.Since(began) < min(b.span, 2*time.Second) {
			names := make([]string, 500)
			for i := range names {
				names[i] = fmt.Sprintf("conversation-agt_%028d.%026d", round, written+i)
			}
			if _, err := conn.Exec(ctx, fillBare, names, text); err != nil {
				return err
			}
			written += len(names)
		}
		bare = append(bare, float64(written)/time.Since(began).Seconds())
		if _, err := conn.Exec(ctx, `DROP TABLE bare; DROP SCHEMA read CASCADE; CHECKPOINT`); err != nil {
			return err
		}
		projector, err := b.node(ctx, b.nido, "projector", b.profiled("--roles", "projector")...)
		if err != nil {
			return err
		}
		perSecond, err := followed(ctx, end, func() (offset int64, err error) {
			err = conn.QueryRow(ctx, `SELECT coalesce(max(off), -1) FROM read.checkpoints`).Scan(&offset)
			return offset, err
		})
		projector.stop()
		if err != nil {
			return err
		}
		var kept int64
		const count = `SELECT (SELECT count(*) FROM read.streams) + (SELECT count(*) FROM read.commits) + (SELECT count(*) FROM read.messages)
			+ (SELECT count(*) FROM read.conversations) + (SELECT count(*) FROM read.agents) + (SELECT count(*) FROM read.agent_versions) + (SELECT count(*) FROM read.hosts)`
		if err := conn.QueryRow(ctx, count).Scan(&kept); err != nil {
			return err
		}
		records, rows = append(records, perSecond), append(rows, perSecond*float64(kept)/float64(end))
	}
	b.results.add(9, "bare pgx inserts of 500 messages: rows per second", "/s", bare...)
	b.results.add(9, "Postgres projector: commits per second", "/s", records...)
	b.results.add(9, "Postgres projector: rows per second", "/s", rows...)
	b.results.add(9, "Postgres projector: rows over bare inserts", "×", over(rows, bare)...).atLeast(0.25)
	return nil
}

// clickHouseCatchUp is row 10.
func clickHouseCatchUp(ctx context.Context, b *bench) error {
	b.say("row 10: the ClickHouse projector catches up")
	end, err := b.fillLog(ctx)
	if err != nil {
		return err
	}
	b.stopCluster()
	options, err := clickhouse.ParseDSN(os.Getenv("NIDO_CLICKHOUSE_URL"))
	if err != nil {
		return errors.New("NIDO_CLICKHOUSE_URL is no DSN")
	}
	folds := options.Auth.Database + "_1"
	conn, err := clickhouse.Open(options)
	if err != nil {
		return fmt.Errorf("reach ClickHouse: %w", err)
	}
	defer conn.Close()
	var bare, records, rows []float64
	for range b.rounds {
		perSecond, err := bareMessages(ctx, conn, folds, min(b.span, 2*time.Second))
		if err != nil {
			return err
		}
		bare = append(bare, perSecond)
		if err := conn.Exec(ctx, "DROP DATABASE `"+folds+"` SYNC"); err != nil {
			return err
		}
		projector, err := b.node(ctx, b.nido, "projector", b.profiled("--roles", "projector")...)
		if err != nil {
			return err
		}
		commits, err := followed(ctx, end, func() (int64, error) {
			var seen uint64
			var offset int64
			err := conn.QueryRow(ctx, "SELECT count(), max(off) FROM `"+folds+"`.checkpoints").Scan(&seen, &offset)
			if _, refused := errors.AsType[*clickhouse.Exception](err); refused || err == nil && seen == 0 {
				return -1, nil // the tables are being made
			}
			return offset, err
		})
		projector.stop()
		if err != nil {
			return err
		}
		var kept uint64
		if err := conn.QueryRow(ctx, "SELECT (SELECT count() FROM `"+folds+"`.messages) + (SELECT count() FROM `"+folds+"`.conversations)").Scan(&kept); err != nil {
			return err
		}
		records, rows = append(records, commits), append(rows, commits*float64(kept)/float64(end))
	}
	b.results.add(10, "bare clickhouse-go inserts of 5,000 messages: rows per second", "/s", bare...)
	b.results.add(10, "ClickHouse projector: commits per second", "/s", records...)
	b.results.add(10, "ClickHouse projector: rows per second", "/s", rows...)
	b.results.add(10, "ClickHouse projector: rows over bare inserts", "×", over(rows, bare)...).atLeast(0.4)
	return nil
}

// bareMessages inserts into a table like messages, 5,000 rows at a time.
func bareMessages(ctx context.Context, conn driver.Conn, folds string, span time.Duration) (float64, error) {
	for _, statement := range []string{"DROP TABLE IF EXISTS bare SYNC", "CREATE TABLE bare AS `" + folds + "`.messages"} {
		if err := conn.Exec(ctx, statement); err != nil {
			return 0, err
		}
	}
	began, written := time.Now(), 0
	for time.Since(began) < span {
		batch, err := conn.PrepareBatch(ctx, `INSERT INTO bare (account, agent_id, at, stream, version, idx, kind, said, turn_id,
			message_id, text, erased, model, error_code, input_tokens, output_tokens, first_reply_us, full_reply_us, part, off, insert_by)`)
		if err != nil {
			return 0, err
		}
		at := time.Now().UTC().Truncate(time.Millisecond)
		for i := range 5000 {
			name := fmt.Sprintf("%026d", written+i)
			err := batch.Append("default", "agt_"+name, at, "conversation-agt_"+name, int64(1), uint16(0), "received", true, "turn_"+name,
				"msg_"+name, message, false, "fast", "", int64(12), int64(20), int64(100), int64(200), int32(0), int64(written+i), at.Add(time.Hour))
			if err != nil {
				return 0, errors.Join(err, batch.Abort())
			}
		}
		if err := batch.Send(); err != nil {
			return 0, err
		}
		written += 5000
	}
	return float64(written) / time.Since(began).Seconds(), conn.Exec(ctx, "DROP TABLE bare SYNC")
}
