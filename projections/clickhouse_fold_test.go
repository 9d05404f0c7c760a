package projections_test

// This file stands at the fold into ClickHouse: once however often, in order, behind Postgres, and an error where nobody answers.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

func TestFoldIntoClickHouse(t *testing.T) {
	t.Run("is as far as its slowest partition", func(t *testing.T) {
		fold, stats, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
		if mark, err := stats.Watermark(t.Context()); err != nil || !mark.IsZero() {
			t.Errorf("before anything: %v, %v", mark, err)
		}
		for partition := range int32(2) {
			log := newClickhouseLog("acc_one")
			log.turn(t, "agt_a", "c1", statsNoon.Add(time.Duration(partition)*time.Hour), time.Second, time.Second)
			for i := range log.records {
				log.records[i].Partition = partition
			}
			clickhouseFold(t, fold, log.records)
		}
		if mark, err := stats.Watermark(t.Context()); err != nil || !mark.Equal(statsNoon.Add(time.Second)) {
			t.Errorf("watermark %v, %v, want partition 0's", mark, err)
		}
		if err := fold.Idle(t.Context(), 0, statsNoon.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if mark, err := stats.Watermark(t.Context()); err != nil || !mark.Equal(statsNoon.Add(time.Hour+time.Second)) {
			t.Errorf("watermark %v, %v, want partition 1's", mark, err)
		}
	})
	t.Run("drops what Postgres rejected, even where it cannot be decoded", func(t *testing.T) {
		log := newClickhouseLog("acc_one")
		log.turn(t, "agt_a", "c1", statsNoon, time.Second, time.Second)
		lost := log.commit(t, clickhouseStream("agt_a", "c1"), statsNoon, conversation.MessageReceived{Turn: "x", Message: "x", Text: clickhouseSeal("k", "no"), Received: statsNoon})
		garbled := log.commit(t, clickhouseStream("agt_a", "c1"), statsNoon, conversation.Resolved{})
		log.records[garbled].Events[0].Type = "conversation.dissolved"
		fold, stats, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{rejected: []int64{lost, garbled}})
		clickhouseFold(t, fold, log.records)
		rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{})
		if len(rows) != 1 || rows[0].Messages != 2 || rows[0].Resolved != 0 {
			t.Fatalf("only the turn counts, got %+v", rows)
		}
	})
	t.Run("stops at what it cannot read, and keeps what came before", func(t *testing.T) {
		log := newClickhouseLog("acc_one")
		log.turn(t, "agt_a", "c1", statsNoon, time.Second, time.Second)
		bad := log.commit(t, clickhouseStream("agt_a", "c1"), statsNoon,
			conversation.Reopened{At: statsNoon, ByMessage: true}, conversation.MessageReceived{Text: clickhouseSeal("k", "never"), Received: statsNoon})
		log.records[bad].Events = append(log.records[bad].Events, domain.Stored{Type: "message.unsent", Schema: 1, Data: []byte(`{}`)})
		fold, stats, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
		err := fold.Apply(t.Context(), 0, -1, log.records)
		unreadable, ok := errors.AsType[*projections.Unreadable](err)
		if !ok || unreadable.Offset != bad || !errors.Is(err, domain.ErrUndecodable) {
			t.Fatalf("the error names the record, got %v", err)
		}
		if offset, _, err := fold.Checkpoint(t.Context(), 0); err != nil || offset != bad-1 {
			t.Errorf("the checkpoint stands before it, got %d, %v", offset, err)
		}
		if rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{}); len(rows) != 1 || rows[0].Messages != 2 {
			t.Errorf("no part of the commit was folded, got %+v", rows)
		}
	})
	t.Run("folds a batch of many chunks up to what it cannot read, and goes on behind it", func(t *testing.T) {
		log := newClickhouseLog("acc_one")
		for i := range 3100 {
			log.turn(t, "agt_a", fmt.Sprint("c", i%40), statsNoon.Add(time.Duration(i)*time.Second), time.Second, time.Second)
		}
		const lost, bad = 2600, 5700 // in the second and in the third chunk
		whole := log.records[bad].Events
		log.records[bad].Events = []domain.Stored{{Type: "message.unsent", Schema: 1, Data: []byte(`{}`)}}
		fold, stats, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{rejected: []int64{lost}})
		unreadable, ok := errors.AsType[*projections.Unreadable](fold.Apply(t.Context(), 0, -1, log.records))
		if !ok || unreadable.Offset != bad {
			t.Fatalf("the error names the record, got %v", unreadable)
		}
		if offset, _, err := fold.Checkpoint(t.Context(), 0); err != nil || offset != bad-1 {
			t.Errorf("the checkpoint stands before it, got %d, %v", offset, err)
		}
		if rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{}); len(rows) != 1 || rows[0].Messages != bad-1 {
			t.Errorf("not every record before it was folded, got %+v", rows)
		}
		log.records[bad].Events = whole
		if err := fold.Apply(t.Context(), 0, bad-1, log.records[bad:]); err != nil {
			t.Fatal(err)
		}
		if rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{}); len(rows) != 1 || rows[0].Messages != int64(len(log.records)-1) {
			t.Errorf("not all of them were folded once, got %+v", rows)
		}
	})
	t.Run("refuses a batch that does not follow its checkpoint", func(t *testing.T) {
		log := newClickhouseLog("acc_one")
		log.turn(t, "agt_a", "c1", statsNoon, time.Second, time.Second)
		log.turn(t, "agt_a", "c1", statsNoon, time.Second, time.Second)
		fold, _, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
		if offset, _, err := fold.Checkpoint(t.Context(), 0); err != nil || offset != -1 {
			t.Fatalf("an empty read model stands at -1, got %d, %v", offset, err)
		}
		clickhouseFold(t, fold, log.records[:2])
		for what, err := range map[string]error{
			"one that is ahead":  fold.Apply(t.Context(), 0, 2, log.records[3:]),
			"one that is behind": fold.Apply(t.Context(), 0, -1, log.records[:1]),
		} {
			if !errors.Is(err, projections.ErrFenced) {
				t.Errorf("%s: got %v", what, err)
			}
		}
		offset, hash, err := fold.Checkpoint(t.Context(), 0)
		if err != nil || offset != 1 || string(hash) != string(log.records[1].Hash) {
			t.Errorf("the checkpoint is record 1's, got %d %x %v", offset, hash, err)
		}
	})
	t.Run("keeps texts where they can be opened, and remembers where they were erased", func(t *testing.T) {
		log := newClickhouseLog("acc_one")
		log.turn(t, "agt_a", "kept", statsNoon, time.Second, time.Second)
		log.turn(t, "agt_a", "gone", statsNoon, time.Second, time.Second)
		fold, _, conn, database := newClickhouseFold(t, clickhouseTextKeys{destroyed: map[string]bool{"dk_gone": true}}, clickhouseVerdicts{})
		clickhouseFold(t, fold, log.records)
		var rows []struct {
			Stream string `ch:"stream"`
			Text   string `ch:"text"`
			Said   bool   `ch:"said"`
			Erased bool   `ch:"erased"`
			ID     string `ch:"id"`
		}
		err := conn.Select(t.Context(), &rows, `SELECT stream, text, said, erased,
			(SELECT any(conversation_id) FROM {db:Identifier}.conversations c WHERE c.stream = m.stream) AS id
			FROM {db:Identifier}.messages m WHERE kind = 'received' ORDER BY stream DESC`, clickhouse.Named("db", database))
		if err != nil || len(rows) != 2 {
			t.Fatalf("two messages, got %+v, %v", rows, err)
		}
		if kept := rows[0]; kept.Text != "hello from kept" || kept.Erased || !kept.Said || kept.ID != "client-kept" {
			t.Errorf("kept: %+v", kept)
		}
		if gone := rows[1]; gone.Text != "" || !gone.Erased || !gone.Said || gone.ID != "" {
			t.Errorf("gone: %+v", gone)
		}
	})
	t.Run("makes the tables of another binary anew", func(t *testing.T) {
		log := statsStory(t)
		fold, stats, conn, database := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
		clickhouseFold(t, fold, log.records)
		if err := fold.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		statsEqual(t, "our own tables stay", statsAsk(t, stats, "acc_one", projections.StatsQuery{ByAgent: true, ByDay: true}), statsWant)
		if err := conn.Exec(t.Context(), `ALTER TABLE {db:Identifier}.checkpoints MODIFY COMMENT 'another'`, clickhouse.Named("db", database)); err != nil {
			t.Fatal(err)
		}
		if err := fold.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{}); len(rows) != 0 {
			t.Errorf("the old rows are gone, got %+v", rows)
		}
		clickhouseFold(t, fold, log.records)
		statsEqual(t, "folded anew", statsAsk(t, stats, "acc_one", projections.StatsQuery{ByAgent: true, ByDay: true}), statsWant)
	})
}

// waiting is a Postgres fold that has not decided yet.
type clickhouseWaiting struct{ asked chan domain.Position }

func (w clickhouseWaiting) Passed(ctx context.Context, position domain.Position) error {
	w.asked <- position
	<-ctx.Done()
	return context.Cause(ctx)
}

func (w clickhouseWaiting) Rejected(context.Context, int32, int64, int64) ([]int64, error) {
	return nil, errors.New("asked before the fold had passed")
}

func TestFoldIntoClickHouseWaits(t *testing.T) {
	conn, database := clickhouseConn(t)
	asked := make(chan domain.Position, 1)
	fold := projections.NewClickHouse(conn, database, clickhouseTextKeys{}, clickhouseWaiting{asked}, slog.New(slog.DiscardHandler))
	if err := fold.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := statsStory(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("the assignment ends")
	done := make(chan error)
	go func() { done <- fold.Apply(ctx, 0, -1, log.records) }()
	if position := <-asked; position != log.records[len(log.records)-1].Position {
		t.Errorf("it waits for %v, want the batch's last record", position)
	}
	cancel(stopped)
	if err := <-done; !errors.Is(err, stopped) {
		t.Errorf("apply: %v", err)
	}
	if offset, _, err := fold.Checkpoint(t.Context(), 0); err != nil || offset != -1 {
		t.Errorf("nothing was folded, yet the checkpoint is %d, %v", offset, err)
	}
}

func TestClickHouseOutOfReachIsAnError(t *testing.T) {
	fold, stats, conn, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
	log := statsStory(t)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := fold.Apply(t.Context(), 0, -1, log.records); err == nil || errors.Is(err, projections.ErrFenced) {
		t.Errorf("apply: %v", err)
	}
	if _, err := stats.Conversations(t.Context(), "acc_one", projections.StatsQuery{}); err == nil {
		t.Error("statistics came out of nowhere")
	}
}
