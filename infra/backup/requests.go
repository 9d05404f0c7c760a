package backup

// This file stands at ClickHouse: the request log, which is primary there, one file for each day. The files are in
// ClickHouse's own Native format, so that its tools can read them once they are opened.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/nidohq/nido/projections"
)

const (
	// A block has at most so many rows, and not many more bytes.
	blockRows  = 4096
	blockBytes = 8 << 20
	// sinkPatience is how long the request log's way to ClickHouse may stand still while some of it is still on it.
	sinkPatience = 5 * time.Second
	sinkPoll     = 100 * time.Millisecond
)

// digestQuery tells the days apart that have changed. Rows are never changed but emptied where what was said is
// erased, so who they are, how long their bodies are and whether that has happened is enough.
const digestQuery = `SELECT toString(toDate(at)) AS day, toInt64(count()) AS rows,
	hex(sum(cityHash64(account, toUnixTimestamp64Milli(at), request_id, status, request_bytes, response_bytes, erased))) AS digest
FROM {db:Identifier}.requests FINAL GROUP BY day ORDER BY day`

const (
	dayQuery  = `SELECT * FROM {db:Identifier}.requests FINAL WHERE toDate(at) = {day:Date} ORDER BY account, at, request_id`
	gapsQuery = `SELECT * FROM {db:Identifier}.gaps FINAL ORDER BY account, id`
)

// requests copies the days that are new or have changed.
func (b Backup) requests(ctx context.Context, to folder, m *Manifest) error {
	behind, err := b.awaitSink(ctx)
	if err != nil {
		return fmt.Errorf("copy the request log: %w", err)
	}
	b.Progress.Begin("comparing the days of the request log", "days", 0)
	days, err := digests(ctx, b.ClickHouse, b.ClickHouse.Database)
	if err != nil {
		return fmt.Errorf("copy the request log: %w", err)
	}
	had := map[string]Day{}
	for _, day := range m.Requests.Days {
		had[day.Day] = day
	}
	now := RequestLog{Taken: time.Now().UTC().Truncate(time.Millisecond), Behind: behind}
	var news int64
	for _, day := range days {
		if had[day.Day].Digest != day.Digest {
			news += day.Rows
		}
	}
	b.Progress.Begin("copying the request log", "rows", news)
	for _, day := range days {
		if same := had[day.Day]; same.Digest == day.Digest {
			now.Days = append(now.Days, same)
			continue
		}
		day.Rows, day.File, err = b.rows(ctx, to, "requests/"+day.Day+"-"+m.ID+".native", dayQuery, clickhousego.Named("day", day.Day))
		if err != nil {
			return fmt.Errorf("copy the request log of %s: %w", day.Day, err)
		}
		if day.Rows > 0 { // else it has been removed meanwhile
			now.Days = append(now.Days, day)
		}
	}
	gaps := Table{Name: "gaps"}
	if gaps.Rows, gaps.File, err = b.rows(ctx, to, "requests/gaps-"+m.ID+".native", gapsQuery); err != nil {
		return fmt.Errorf("copy the request log's gaps: %w", err)
	}
	b.Progress.End()
	now.Gaps = &gaps
	m.Requests = now
	return nil
}

// awaitSink waits until the bundles that are on their way have reached ClickHouse, as long as they move. It says how many
// have not: where no projector runs, that is what has come in since.
func (b Backup) awaitSink(ctx context.Context) (behind int64, err error) {
	ends, err := b.Cluster.EndsOf(ctx, b.Cluster.RequestsTopic())
	if err != nil {
		return 0, err
	}
	sink := projections.NewRequests(b.ClickHouse, b.ClickHouse.Database)
	if err := sink.Prepare(ctx); err != nil {
		return 0, err
	}
	ticker := time.NewTicker(sinkPoll)
	defer ticker.Stop()
	b.Progress.Begin("waiting for the request log", "bundles", 0)
	for moved, least := time.Now(), int64(-1); ; {
		behind = 0
		for partition, end := range ends {
			offset, _, err := sink.Checkpoint(ctx, partition)
			if err != nil {
				return 0, err
			}
			behind += max(0, end-1-offset)
		}
		if least < 0 || behind < least {
			moved, least = time.Now(), behind
		}
		if behind == 0 || time.Since(moved) > sinkPatience {
			return behind, nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func digests(ctx context.Context, conn driver.Conn, database string) (days []Day, err error) {
	ctx, cancel := context.WithTimeout(ctx, longWork)
	defer cancel()
	rows, err := conn.Query(ctx, digestQuery, clickhousego.Named("db", database))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var day Day
		if err := rows.Scan(&day.Day, &day.Rows, &day.Digest); err != nil {
			return nil, err
		}
		days = append(days, day)
	}
	return days, rows.Err()
}

// rows writes what a query answers into a file.
func (b Backup) rows(ctx context.Context, to folder, name, query string, named ...any) (count int64, _ File, err error) {
	out, err := to.create(name)
	if err != nil {
		return 0, File{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, longWork)
	defer cancel()
	if count, err = b.writeBlocks(ctx, out, query, named); err != nil {
		out.abort()
		return 0, File{}, err
	}
	file, err := out.close()
	return count, file, err
}

func (b Backup) writeBlocks(ctx context.Context, out io.Writer, query string, named []any) (count int64, err error) {
	rows, err := b.ClickHouse.Query(ctx, query, append(named, clickhousego.Named("db", b.ClickHouse.Database))...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	types := rows.ColumnTypes()
	cells, values := make([]any, len(types)), make([]any, len(types))
	block := proto.NewBlock()
	for i, kind := range types {
		cells[i] = reflect.New(kind.ScanType()).Interface()
		if err := block.AddColumn(kind.Name(), column.Type(kind.DatabaseTypeName())); err != nil {
			return 0, err
		}
	}
	size := 0
	flush := func() error {
		var buffer chproto.Buffer
		if err := block.Encode(&buffer, 0); err != nil { // revision 0 is a file's
			return err
		}
		b.Progress.Add(int64(block.Rows()), len(buffer.Buf))
		count += int64(block.Rows())
		size = 0
		block.Reset()
		_, err := out.Write(buffer.Buf)
		return err
	}
	for rows.Next() {
		if err := rows.Scan(cells...); err != nil {
			return count, err
		}
		for i, cell := range cells {
			values[i] = reflect.ValueOf(cell).Elem().Interface()
			if text, ok := values[i].(string); ok {
				size += len(text)
			}
		}
		if err := block.Append(values...); err != nil {
			return count, err
		}
		if block.Rows() == blockRows || size >= blockBytes {
			if err := flush(); err != nil {
				return count, err
			}
		}
	}
	if err := rows.Err(); err != nil || block.Rows() == 0 {
		return count, err
	}
	return count, flush()
}
