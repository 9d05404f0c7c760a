package projections

// This file stands beside the folds into ClickHouse: counts and checksums per account and day, of what is served and of
// what the log says.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/nidohq/nido/domain"
)

// digestTimeout bounds reading all rows of a table.
const digestTimeout = 2 * time.Hour

// digestKey is what rows are counted together by.
type digestKey struct {
	table, account string
	day            string // "2026-03-14", in UTC
}

// digestSum is the sum of the rows' checksums, which does not depend on their order.
type digestSum struct{ rows, sum uint64 }

// Digest is counts and checksums of rows of messages and conversations up to some offsets. Rows whose text has been
// erased are left out: when each store does so is its own business. It is safe for concurrent use.
type Digest struct {
	opener Opener
	upTo   map[int32]int64

	mu   sync.Mutex
	sums map[digestKey]digestSum
}

// NewDigest counts what the log says up to the last offsets given.
func NewDigest(opener Opener, upTo map[int32]int64) *Digest {
	return &Digest{opener: opener, upTo: upTo, sums: map[digestKey]digestSum{}}
}

// Add folds commits of one partition as the ClickHouse projector does; rejected are those that lost.
func (d *Digest) Add(ctx context.Context, batch []domain.Recorded, rejected []int64) error {
	var rows clickhouseRows
	for _, record := range batch {
		if last, folded := d.upTo[record.Partition]; !folded || record.Offset > last {
			continue
		}
		if _, lost := slices.BinarySearch(rejected, record.Offset); lost || record.Skipped {
			continue
		}
		if err := rows.fold(record); err != nil {
			return &Unreadable{Position: record.Position, Err: err}
		}
	}
	if err := rows.open(ctx, d.opener); err != nil {
		return fmt.Errorf("open the texts: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range rows.messages {
		if !m.erased {
			d.count("messages", m.clickhouseEvent, m.kind, strconv.FormatBool(m.said), m.turn, m.message, m.text, m.model, m.code,
				number(m.usage.InputTokens), number(m.usage.OutputTokens), number(m.firstReply.Microseconds()), number(m.fullReply.Microseconds()))
		}
	}
	for _, c := range rows.conversations {
		if !c.erased {
			d.count("conversations", c.clickhouseEvent, c.kind, c.id, c.metadata, strconv.FormatBool(c.byMessage))
		}
	}
	return nil
}

func number[N ~int | ~int32 | ~int64](n N) string { return strconv.FormatInt(int64(n), 10) }

// count adds one row. The checksum is that of clickhouseDigestRow.
func (d *Digest) count(table string, e clickhouseEvent, columns ...string) {
	at := clickhouseTime(e.at)
	all := append([]string{
		e.account, e.agent, number(at.UnixMilli()), e.stream, number(e.version), number(int(e.index)),
		number(e.position.Partition), number(e.position.Offset),
	}, columns...)
	hash := sha256.Sum256([]byte(strings.Join(all, "\x1f")))
	key := digestKey{table: table, account: e.account, day: at.Format(time.DateOnly)}
	sum := d.sums[key]
	sum.rows++
	sum.sum += binary.LittleEndian.Uint64(hash[:])
	d.sums[key] = sum
}

// What clickhouseDigestQuery adds up, in the order of Digest.count.
const (
	clickhouseDigestRow = `account, agent_id, toString(toUnixTimestamp64Milli(at)), stream, toString(version), toString(idx),
		toString(part), toString(off), toString(kind), `
	clickhouseDigestMessages = clickhouseDigestRow + `toString(said), turn_id, message_id, text, model, error_code,
		toString(input_tokens), toString(output_tokens), toString(first_reply_us), toString(full_reply_us)`
	clickhouseDigestConversations = clickhouseDigestRow + `conversation_id, metadata, toString(by_message)`
)

// clickhouseDigestQuery sums what one table holds; the offsets are given by partition.
func clickhouseDigestQuery(table, columns string) string {
	return `SELECT account, toString(toDate(at)) AS day, count() AS rows,
			sum(reinterpretAsUInt64(substring(SHA256(concatWithSeparator(char(31), ` + columns + `)), 1, 8))) AS sum
		FROM {db:Identifier}.` + table + ` FINAL
		WHERE NOT erased AND part < length({upto:Array(Int64)}) AND off <= {upto:Array(Int64)}[part + 1]
		GROUP BY account, day`
}

// Digest counts what is served of the records up to the last offsets given.
func (c *ClickHouse) Digest(ctx context.Context, upTo map[int32]int64) (*Digest, error) {
	digest := NewDigest(nil, upTo)
	c = c.now()
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	for table, columns := range map[string]string{"messages": clickhouseDigestMessages, "conversations": clickhouseDigestConversations} {
		if err := c.digest(ctx, table, clickhouseDigestQuery(table, columns), digest); err != nil {
			return nil, fmt.Errorf("count the rows of %s: %w", table, err)
		}
	}
	return digest, nil
}

func (c *ClickHouse) digest(ctx context.Context, table, query string, into *Digest) error {
	last := slices.Max(append(slices.Collect(maps.Keys(into.upTo)), -1))
	offsets := make([]string, last+1)
	for partition := range offsets {
		offsets[partition] = "-1"
		if offset, folded := into.upTo[int32(partition)]; folded {
			offsets[partition] = number(offset)
		}
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"db": c.store.database, "upto": "[" + strings.Join(offsets, ",") + "]",
	}))
	var rows []struct {
		Account string `ch:"account"`
		Day     string `ch:"day"`
		Rows    uint64 `ch:"rows"`
		Sum     uint64 `ch:"sum"`
	}
	if err := c.store.conn.Select(ctx, &rows, query); err != nil {
		return err
	}
	for _, row := range rows {
		into.sums[digestKey{table: table, account: row.Account, day: row.Day}] = digestSum{rows: row.Rows, sum: row.Sum}
	}
	return nil
}

// Rows is how many rows were counted.
func (d *Digest) Rows() (rows uint64) {
	for _, sum := range d.sums {
		rows += sum.rows
	}
	return rows
}

// Differences says where what is served is not what the log says.
func (d *Digest) Differences(served *Digest) []Difference {
	keys := maps.Clone(d.sums)
	maps.Copy(keys, served.sums)
	var found []Difference
	for key := range keys {
		want, got := d.sums[key], served.sums[key]
		difference := Difference{Table: "clickhouse " + key.table, Account: key.account, Key: "account=" + strconv.Quote(key.account) + " day=" + key.day}
		switch {
		case want.rows != got.rows:
			difference.What = fmt.Sprintf("%d rows where there should be %d", got.rows, want.rows)
		case want.sum != got.sum:
			difference.What = fmt.Sprintf("its %d rows have another checksum", got.rows)
		default:
			continue
		}
		found = append(found, difference)
	}
	slices.SortFunc(found, func(a, b Difference) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Key, b.Key)) })
	return found
}
