package backup

// This file stands before a restore, and beside every backup that lies somewhere: is it still what was written?

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/progress"
)

// Check reads a backup.
type Check struct {
	Dir      string
	Keys     keyring.BackupKeys
	Patience time.Duration
	Progress *progress.Progress
}

// Run reads every file to its end, compares sizes and hashes with the manifest, opens what is sealed, and counts records
// and rows. Its error names the file.
func (c Check) Run(ctx context.Context) (*Manifest, error) {
	ctx, stop := c.Progress.Watch(ctx, c.Patience)
	defer stop()
	m, err := Load(c.Dir, c.Keys)
	if err != nil {
		return nil, err
	}
	from, err := openFolder(c.Dir, c.Keys)
	if err != nil {
		return nil, err
	}
	return m, c.files(ctx, from, m)
}

func (c Check) files(ctx context.Context, from folder, m *Manifest) error {
	c.Progress.Begin("checking the backup", "files", int64(len(m.files())))
	read := func(file File, content func(io.Reader) error) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		defer c.Progress.Add(1, 0)
		return from.each(file, func(bytes int) { c.Progress.Add(0, bytes) }, content)
	}
	for _, topic := range m.Log {
		for _, partition := range topic.Partitions {
			for _, segment := range partition.Segments {
				var last kafka.Raw
				err := read(segment.File, func(content io.Reader) error {
					return eachRecord(content, segment, func(record kafka.Raw) error { last = record; return nil })
				})
				if err != nil {
					return err
				}
				if segment.First+segment.Records == partition.End && hex.EncodeToString(last.Hash()) != partition.Last {
					return fmt.Errorf("%w: %s ends with another record than the manifest says", ErrDamaged, segment.Name)
				}
			}
		}
	}
	for _, table := range m.Tables {
		// Rows are counted by Postgres: a line of CSV may have line breaks in it.
		if err := read(table.File, func(io.Reader) error { return nil }); err != nil {
			return err
		}
	}
	for file, rows := range m.requestFiles() {
		err := read(file, func(content io.Reader) error {
			found, err := readBlocks(content, func(*proto.Block) error { return nil })
			if err == nil && found != rows {
				err = fmt.Errorf("%w: %s has %d rows, the manifest says %d", ErrDamaged, file.Name, found, rows)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	c.Progress.End()
	return nil
}

// requestFiles are ClickHouse's, with the count of rows in each.
func (m *Manifest) requestFiles() map[File]int64 {
	files := map[File]int64{}
	for _, day := range m.Requests.Days {
		files[day.File] = day.Rows
	}
	if m.Requests.Gaps != nil {
		files[m.Requests.Gaps.File] = m.Requests.Gaps.Rows
	}
	return files
}

// eachRecord reads a segment, whose records must be where the manifest says.
func eachRecord(content io.Reader, segment Segment, fn func(kafka.Raw) error) error {
	reader := bufio.NewReaderSize(content, 256<<10)
	for next := segment.First; ; next++ {
		record, err := readFrame(reader)
		switch {
		case errors.Is(err, io.EOF) && next == segment.First+segment.Records:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: %s ends before record %d", ErrDamaged, segment.Name, next)
		case err != nil:
			return fmt.Errorf("%w: %s: %w", ErrDamaged, segment.Name, err)
		case record.Offset != next:
			return fmt.Errorf("%w: %s has record %d where %d should be", ErrDamaged, segment.Name, record.Offset, next)
		}
		if err := fn(record); err != nil {
			return err
		}
	}
}
