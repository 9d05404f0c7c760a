package backup

// This file stands where the files of the request log become rows again.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	clickhousego "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// readBlocks hands out the blocks of a file.
func readBlocks(from io.Reader, fn func(block *proto.Block) error) (rows int64, err error) {
	reader := chproto.NewReader(bufio.NewReaderSize(from, 256<<10))
	for {
		block := proto.NewBlock()
		err := block.Decode(reader, 0)
		if errors.Is(err, io.EOF) && block.Rows() == 0 {
			return rows, nil // the count tells whether that was the end
		}
		if err != nil {
			return rows, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		rows += int64(block.Rows())
		if err := fn(block); err != nil {
			return rows, err
		}
	}
}

// target is a table that rows go back to.
type target struct {
	insert string
	// fenced tables refuse rows whose time is over, so that no text comes in long after it was opened (projections). What a
	// restore puts in has been looked at with the keyring as it is now, and nobody erases meanwhile.
	fenced bool
}

const (
	insertRequests = `INSERT INTO {db:Identifier}.requests (`
	insertGaps     = `INSERT INTO {db:Identifier}.gaps (`
	fenceColumn    = "insert_by"
	// fenceTime is enough for one block.
	fenceTime = 24 * time.Hour
)

// columns looks whether the request log is fenced.
func (r Restore) columns(ctx context.Context) (target, error) {
	var fences uint64
	err := r.ClickHouse.QueryRow(ctx, `SELECT count() FROM system.columns WHERE database = {db:String} AND table = 'requests' AND name = {fence:String}`,
		clickhousego.Named("db", r.ClickHouse.Database), clickhousego.Named("fence", fenceColumn)).Scan(&fences)
	return target{insert: insertRequests, fenced: fences > 0}, err
}

// fillRows puts the rows of a file back. Coming twice they change nothing.
func (r Restore) fillRows(ctx context.Context, from folder, into target, file File, rows int64, gone func(row) bool) (blank int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, longWork)
	defer cancel()
	err = from.each(file, nil, func(content io.Reader) error {
		number := 0
		found, err := readBlocks(content, func(block *proto.Block) error {
			number++
			emptied, err := r.insertBlock(ctx, into, file.SHA256+"-"+strconv.Itoa(number), block, gone)
			blank += emptied
			return err
		})
		if err == nil && found != rows {
			err = fmt.Errorf("%w: %s has %d rows, the manifest says %d", ErrDamaged, file.Name, found, rows)
		}
		return err
	})
	return blank, err
}

func (r Restore) insertBlock(ctx context.Context, into target, token string, block *proto.Block, gone func(row) bool) (blank int64, err error) {
	names := slices.Clone(block.ColumnsNames())
	at := map[string]int{}
	for i, name := range names {
		at[name] = i
	}
	if _, there := at[fenceColumn]; into.fenced && !there {
		names = append(names, fenceColumn)
	}
	// The names are as a table of ours had them: the file is authenticated.
	statement := into.insert + "`" + strings.Join(names, "`, `") + "`)"
	ctx = clickhousego.Context(ctx, clickhousego.WithSettings(clickhousego.Settings{"async_insert": 0, "insert_deduplication_token": "restore:" + token}),
		clickhousego.WithParameters(clickhousego.Parameters{"db": r.ClickHouse.Database}))
	batch, err := r.ClickHouse.PrepareBatch(ctx, statement)
	if err != nil {
		return 0, err
	}
	values, size, until := make([]any, len(names)), 0, time.Now().Add(fenceTime)
	for number := range block.Rows() {
		cell := func(column string) any {
			if i, there := at[column]; there {
				return block.Columns[i].Row(number, false)
			}
			return nil
		}
		empty := gone(cell)
		if empty {
			blank++
		}
		for i, name := range names {
			values[i] = cell(name)
			if empty {
				values[i] = blanked(name, values[i])
			}
			if into.fenced && name == fenceColumn {
				values[i] = until
			}
			if text, ok := values[i].(string); ok {
				size += len(text)
			}
		}
		if err := batch.Append(values...); err != nil {
			return blank, errors.Join(err, batch.Abort())
		}
	}
	if batch.Rows() == 0 {
		return blank, batch.Abort()
	}
	r.Progress.Add(int64(block.Rows()), size)
	return blank, batch.Send()
}
