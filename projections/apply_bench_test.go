package projections_test

// This file measures the fold: how fast an empty read model catches up, against a bare insert of as many rows, and what
// a single commit takes.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
)

const (
	benchBatch = 500
	// benchOpen is how many turns are open at a time in the log that is folded.
	benchOpen = 50
)

// chats is a log of conversations with so many turns each, as live traffic leaves it: between a message and its reply
// lie those of other conversations.
func chats(conversations, turns int) []domain.Recorded {
	var story log
	all := make([]*chat, conversations)
	for i := range all {
		all[i] = newChat("acc_1", fmt.Sprintf("agt_%d", i%20), fmt.Sprintf("kq3v7m2p5w4c6t%012d", i), noon)
	}
	text := strings.Repeat("Los horarios de atención son de nueve a cinco. ", 6)
	var waiting []*chat
	for range turns {
		for _, c := range all {
			story.add(c.receive(text[:80], "boot1"))
			if waiting = append(waiting, c); len(waiting) > benchOpen {
				story.add(waiting[0].complete(text))
				waiting = waiting[1:]
			}
		}
	}
	for _, c := range waiting {
		story.add(c.complete(text))
	}
	return story.records
}

// BenchmarkCatchUp interleaves folding a log into an empty read model with inserting as many rows as that leaves.
func BenchmarkCatchUp(b *testing.B) {
	db := newDatabase(b)
	execute(b, db.pool, `CREATE TABLE nido.bare (id text COLLATE "C" PRIMARY KEY, number bigint, body bytea)`)
	records := chats(2000, 5)
	const tables = `TRUNCATE checkpoints, streams, commits, rejections, conversations, messages, turns, nido.bare`
	var folded, inserted []float64 // rows per second
	var rows int64
	for b.Loop() {
		execute(b, db.pool, tables)
		began := time.Now()
		for batch := range slices.Chunk(records, benchBatch) {
			if err := db.projector.Apply(b.Context(), 0, batch[0].Offset-1, batch); err != nil {
				b.Fatal(err)
			}
		}
		took := time.Since(began)
		rows = query[int64](b, db.pool, `SELECT (SELECT count(*) FROM streams) + (SELECT count(*) FROM commits) + (SELECT count(*) FROM messages) + (SELECT count(*) FROM conversations)`)[0]
		folded = append(folded, float64(rows)/took.Seconds())
		b.ReportMetric(float64(len(records))/took.Seconds(), "commits/s")

		began = time.Now()
		insertBare(b, db, int(rows))
		inserted = append(inserted, float64(rows)/time.Since(began).Seconds())
	}
	slices.Sort(folded)
	slices.Sort(inserted)
	fold, bare := folded[len(folded)/2], inserted[len(inserted)/2]
	b.ReportMetric(fold, "rows/s")
	b.ReportMetric(bare, "bare_rows/s")
	b.ReportMetric(100*fold/bare, "%_of_bare")
}

// insertBare is the reference: multi-row inserts of the same batch size, a transaction each.
func insertBare(b *testing.B, db *database, rows int) {
	const insert = `INSERT INTO nido.bare SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])`
	body := []byte(strings.Repeat("x", 250))
	for from := 0; from < rows; from += benchBatch {
		n := min(benchBatch, rows-from)
		ids, numbers, bodies := make([]string, n), make([]int64, n), make([][]byte, n)
		for i := range n {
			ids[i], numbers[i], bodies[i] = fmt.Sprintf("conversation-agt_1.kq3v7m2p5w4c6t%012d", (from+i)*7919%rows), int64(i), body
		}
		err := pgx.BeginFunc(b.Context(), db.pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(b.Context(), insert, ids, numbers, bodies)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOneCommit is what a lonely command waits for.
func BenchmarkOneCommit(b *testing.B) {
	db := newDatabase(b)
	c := newChat("acc_1", "agt_1", "m1", noon)
	var story log
	var took []time.Duration
	for b.Loop() {
		record := story.add(c.receive("hola", "boot1"))
		if len(story.records)%2 == 0 {
			c.version--
			story.records = story.records[:len(story.records)-1]
			c.turns--
			record = story.add(c.complete("buenas"))
		}
		began := time.Now()
		if err := db.projector.Apply(b.Context(), 0, record.Offset-1, []domain.Recorded{record}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50_µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99_µs")
}
