package projections_test

// This file stands at the query: statistics against a table worked out by hand, and against a model without a database.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

var statsNoon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// statsStory is an account's three days with two agents.
func statsStory(t testing.TB) *clickhouseLog {
	log := newClickhouseLog("acc_one")
	for i := range 4 {
		log.turn(t, "agt_a", "c1", statsNoon.Add(time.Duration(i)*time.Minute), time.Duration(i+1)*100*time.Millisecond, time.Duration(i+1)*time.Second)
	}
	log.commit(t, clickhouseStream("agt_a", "c1"), statsNoon.Add(time.Hour), conversation.Resolved{At: statsNoon.Add(time.Hour)})
	log.turn(t, "agt_a", "c2", statsNoon, 50*time.Millisecond, 80*time.Millisecond)
	// c2 fails on the next day, late enough to be the same day in Buenos Aires as its first message is in UTC.
	late := statsNoon.Add(14 * time.Hour)
	log.commit(t, clickhouseStream("agt_a", "c2"), late, conversation.MessageReceived{Turn: "t", Message: "m", Text: clickhouseSeal("dk_c2", "?"), Received: late})
	log.commit(t, clickhouseStream("agt_a", "c2"), late, conversation.ReplyFailed{Turn: "t", Message: "n", Code: "upstream_timeout",
		Usage: conversation.Usage{InputTokens: 7}, At: late.Add(time.Second)})
	// c3 was resolved, and a message reopened it.
	log.turn(t, "agt_b", "c3", statsNoon, time.Second, 2*time.Second)
	log.commit(t, clickhouseStream("agt_b", "c3"), statsNoon, conversation.Resolved{At: statsNoon.Add(time.Minute)})
	again := statsNoon.Add(2 * time.Minute)
	log.commit(t, clickhouseStream("agt_b", "c3"), again, conversation.Reopened{At: again, ByMessage: true},
		conversation.MessageReceived{Turn: "u", Message: "o", Text: clickhouseSeal("dk_c3", "once more"), Received: again})
	log.commit(t, clickhouseStream("agt_b", "c3"), again, conversation.ReplyCancelled{Turn: "u", Message: "p",
		Text: clickhouseSeal("dk_c3", "half"), Usage: conversation.Usage{OutputTokens: 3}, At: again.Add(time.Second)})
	return log
}

func quantiles(count int64, p50, p95, p99 time.Duration) projections.Quantiles {
	return projections.Quantiles{Count: count, P50: p50, P95: p95, P99: p99}
}

// statsWant is what statsStory comes to by agent and day in UTC, worked out by hand.
var statsWant = []projections.ConversationStats{
	{AgentID: "agt_a", Day: "2026-03-14", Conversations: 2, Messages: 10, Resolved: 1, InputTokens: 50, OutputTokens: 25,
		FirstReply: quantiles(5, 200*time.Millisecond, 400*time.Millisecond, 400*time.Millisecond),
		FullReply:  quantiles(5, 2*time.Second, 4*time.Second, 4*time.Second)},
	{AgentID: "agt_a", Day: "2026-03-15", Conversations: 1, Messages: 1, Failures: 1, InputTokens: 7},
	{AgentID: "agt_b", Day: "2026-03-14", Conversations: 1, Messages: 4, InputTokens: 10, OutputTokens: 8,
		FirstReply: quantiles(1, time.Second, time.Second, time.Second),
		FullReply:  quantiles(1, 2*time.Second, 2*time.Second, 2*time.Second)},
}

func statsAsk(t testing.TB, stats *projections.Stats, account string, query projections.StatsQuery) []projections.ConversationStats {
	t.Helper()
	rows, err := stats.Conversations(t.Context(), account, query)
	if err != nil {
		t.Fatalf("ask for statistics: %v", err)
	}
	return rows
}

func statsEqual(t testing.TB, what string, got, want []projections.ConversationStats) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func TestStatistics(t *testing.T) {
	fold, stats, conn, database := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
	log := statsStory(t)
	clickhouseFold(t, fold, log.records, 3, 4, 9)
	byBoth := projections.StatsQuery{ByAgent: true, ByDay: true}

	t.Run("come to what was worked out by hand", func(t *testing.T) {
		statsEqual(t, "by agent and day", statsAsk(t, stats, "acc_one", byBoth), statsWant)
	})
	t.Run("of one agent are its rows", func(t *testing.T) {
		query := byBoth
		query.AgentID = "agt_b"
		statsEqual(t, "agt_b", statsAsk(t, stats, "acc_one", query), statsWant[2:])
	})
	t.Run("count a conversation of two days once for both together", func(t *testing.T) {
		rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{})
		if len(rows) != 1 || rows[0].Conversations != 3 || rows[0].Messages != 15 || rows[0].AgentID != "" || rows[0].Day != "" {
			t.Fatalf("all together: %+v", rows)
		}
		if rate := rows[0].ResolutionRate(); rate != 1.0/3 {
			t.Errorf("resolution rate %v, want a third", rate)
		}
		if average := rows[0].AverageMessages(); average != 5 {
			t.Errorf("average messages %v, want 5", average)
		}
	})
	t.Run("take the days of the zone that was asked for", func(t *testing.T) {
		zone, err := time.LoadLocation("America/Argentina/Buenos_Aires")
		if err != nil {
			t.Fatal(err)
		}
		rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{AgentID: "agt_a", ByDay: true, Location: zone})
		if len(rows) != 1 || rows[0].Day != "2026-03-14" || rows[0].Messages != 11 {
			t.Fatalf("02:00 UTC is still the day before in Buenos Aires, got %+v", rows)
		}
	})
	t.Run("refuse a zone that only this machine knows", func(t *testing.T) {
		_, err := stats.Conversations(t.Context(), "acc_one", projections.StatsQuery{Location: time.Local})
		if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Field != "tz" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("include the first instant and not the last", func(t *testing.T) {
		rows := statsAsk(t, stats, "acc_one", projections.StatsQuery{AgentID: "agt_a", From: statsNoon.Add(time.Minute), To: statsNoon.Add(2 * time.Minute)})
		if len(rows) != 1 || rows[0].Messages != 2 || rows[0].Conversations != 1 || rows[0].Resolved != 1 {
			t.Fatalf("one minute of c1: %+v", rows)
		}
	})
	t.Run("show nothing of another account", func(t *testing.T) {
		if rows := statsAsk(t, stats, "acc_two", byBoth); len(rows) != 0 {
			t.Fatalf("acc_two has no conversations, got %+v", rows)
		}
	})
	t.Run("are the same after folding everything again in other pieces", func(t *testing.T) {
		for _, ends := range [][]int{{1, 2, 5}, {7}, nil} {
			// A crash between rows and checkpoint: the checkpoint is lost, the rows are not.
			if err := conn.Exec(t.Context(), `TRUNCATE TABLE {db:Identifier}.checkpoints`, clickhouse.Named("db", database)); err != nil {
				t.Fatal(err)
			}
			clickhouseFold(t, fold, log.records, ends...)
			statsEqual(t, fmt.Sprint("pieces ", ends), statsAsk(t, stats, "acc_one", byBoth), statsWant)
		}
		if err := conn.Exec(t.Context(), `OPTIMIZE TABLE {db:Identifier}.messages FINAL`, clickhouse.Named("db", database)); err != nil {
			t.Fatal(err)
		}
		statsEqual(t, "merged", statsAsk(t, stats, "acc_one", byBoth), statsWant)
	})
	t.Run("are up to the newest commit, or to when nothing was left", func(t *testing.T) {
		newest := log.records[5].Time
		for _, record := range log.records {
			if record.Time.After(newest) {
				newest = record.Time
			}
		}
		for _, want := range []time.Time{newest, newest.Add(time.Hour)} {
			if err := fold.Idle(t.Context(), 0, want); err != nil {
				t.Fatal(err)
			}
			if mark, err := stats.Watermark(t.Context()); err != nil || !mark.Equal(want) {
				t.Errorf("watermark %v, %v, want %v", mark, err, want)
			}
		}
	})
}

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

// statsModel is what the statistics mean, without a database.
type statsModel struct {
	by     map[statsGroup]*statsCell
	status map[domain.StreamID]conversation.Status
}

type statsGroup struct{ agent, day string }

type statsCell struct {
	row           projections.ConversationStats
	conversations map[domain.StreamID]bool
	first, full   []time.Duration
}

func newStatsModel(t testing.TB, records []domain.Recorded, query projections.StatsQuery) []projections.ConversationStats {
	m := statsModel{by: map[statsGroup]*statsCell{}, status: map[domain.StreamID]conversation.Status{}}
	for _, record := range records {
		for _, stored := range record.Events {
			event, err := conversation.Aggregate.Codec.Decode(stored)
			if err != nil {
				t.Fatal(err)
			}
			m.add(record.Stream, event, query)
		}
	}
	var rows []projections.ConversationStats
	for group, cell := range m.by {
		row := cell.row
		row.AgentID, row.Day = group.agent, group.day
		row.Conversations = int64(len(cell.conversations))
		for stream := range cell.conversations {
			if m.status[stream] == conversation.Settled {
				row.Resolved++
			}
		}
		row.FirstReply, row.FullReply = statsModelQuantiles(cell.first), statsModelQuantiles(cell.full)
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b projections.ConversationStats) int {
		return cmp.Or(cmp.Compare(a.AgentID, b.AgentID), cmp.Compare(a.Day, b.Day))
	})
	return rows
}

func (m statsModel) add(stream domain.StreamID, event conversation.Event, query projections.StatsQuery) {
	agent := string(stream[len("conversation-"):][:len("agt_x")])
	count := func(at time.Time, do func(*statsCell)) {
		if query.AgentID != "" && query.AgentID != agent || at.Before(query.From) || !at.Before(query.To) {
			return
		}
		group := statsGroup{}
		if query.ByAgent {
			group.agent = agent
		}
		if query.ByDay {
			group.day = at.In(query.Location).Format(time.DateOnly)
		}
		if m.by[group] == nil {
			m.by[group] = &statsCell{conversations: map[domain.StreamID]bool{}}
		}
		m.by[group].conversations[stream] = true
		do(m.by[group])
	}
	said := func(cell *statsCell, text domain.Sealed) {
		if !text.IsZero() {
			cell.row.Messages++
		}
	}
	spent := func(cell *statsCell, usage conversation.Usage) {
		cell.row.InputTokens += usage.InputTokens
		cell.row.OutputTokens += usage.OutputTokens
	}
	switch e := event.(type) {
	case conversation.Resolved:
		m.status[stream] = conversation.Settled
	case conversation.Reopened:
		m.status[stream] = conversation.Open
	case conversation.MessageReceived:
		count(e.Received, func(cell *statsCell) { said(cell, e.Text) })
	case conversation.ReplyCompleted:
		count(e.At, func(cell *statsCell) {
			said(cell, e.Text)
			spent(cell, e.Usage)
			cell.first, cell.full = append(cell.first, e.FirstReply), append(cell.full, e.FullReply)
		})
	case conversation.ReplyFailed:
		count(e.At, func(cell *statsCell) { said(cell, e.Text); spent(cell, e.Usage); cell.row.Failures++ })
	case conversation.ReplyCancelled:
		count(e.At, func(cell *statsCell) { said(cell, e.Text); spent(cell, e.Usage) })
	}
}

func statsModelQuantiles(set []time.Duration) projections.Quantiles {
	if len(set) == 0 {
		return projections.Quantiles{}
	}
	slices.Sort(set)
	at := func(share float64) time.Duration { return set[int(share*float64(len(set)))] }
	return quantiles(int64(len(set)), at(0.5), at(0.95), at(0.99))
}

func TestStatisticsAgreeWithAModel(t *testing.T) {
	fold, stats, _, _ := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
	zone, err := time.LoadLocation("America/Argentina/Buenos_Aires")
	if err != nil {
		t.Fatal(err)
	}
	partition := int32(0)
	rapid.Check(t, func(rt *rapid.T) {
		partition++
		log := statsRandomLog(t, rt, fmt.Sprint("acc_", partition))
		for i := range log.records {
			log.records[i].Partition = partition
		}
		clickhouseFold(t, fold, log.records, rapid.IntRange(0, len(log.records)).Draw(rt, "end of the first batch"))
		query := projections.StatsQuery{
			From:    statsNoon.Add(time.Duration(rapid.IntRange(-24, 24).Draw(rt, "from")) * time.Hour),
			To:      statsNoon.Add(time.Duration(rapid.IntRange(25, 120).Draw(rt, "to")) * time.Hour),
			AgentID: rapid.SampledFrom([]string{"", "agt_a"}).Draw(rt, "agent"),
			ByAgent: rapid.Bool().Draw(rt, "by agent"), ByDay: rapid.Bool().Draw(rt, "by day"),
			Location: rapid.SampledFrom([]*time.Location{time.UTC, zone}).Draw(rt, "zone"),
		}
		got, want := statsAsk(t, stats, log.account, query), newStatsModel(t, log.records, query)
		if !slices.Equal(got, want) {
			rt.Fatalf("%+v:\n got %+v\nwant %+v", query, got, want)
		}
	})
}

// statsRandomLog lets time pass and things happen in a few conversations, as the decider would have them.
func statsRandomLog(t testing.TB, rt *rapid.T, account string) *clickhouseLog {
	log := newClickhouseLog(account)
	now := statsNoon
	settled := map[domain.StreamID]bool{}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		now = now.Add(time.Duration(rapid.IntRange(1, 6*3600*1000).Draw(rt, "ms")) * time.Millisecond)
		agent := rapid.SampledFrom([]string{"agt_a", "agt_b", "agt_c"}).Draw(rt, "agent")
		id := rapid.SampledFrom([]string{"c1", "c2"}).Draw(rt, "conversation")
		stream := clickhouseStream(agent, id)
		usage := conversation.Usage{InputTokens: rapid.Int64Range(0, 99).Draw(rt, "in"), OutputTokens: rapid.Int64Range(0, 99).Draw(rt, "out")}
		text := domain.Sealed{}
		if rapid.Bool().Draw(rt, "some text") {
			text = clickhouseSeal("k", "half a reply")
		}
		if settled[stream] {
			log.commit(t, stream, now, conversation.Reopened{At: now, ByMessage: true})
			settled[stream] = false
		}
		delay := time.Duration(rapid.IntRange(1, 5000).Draw(rt, "delay")) * time.Millisecond
		switch rapid.SampledFrom([]string{"turn", "turn", "fail", "cancel", "resolve"}).Draw(rt, "what") {
		case "turn":
			log.turn(t, agent, id, now, delay/4, delay)
		case "fail":
			log.commit(t, stream, now, conversation.ReplyFailed{Text: text, Usage: usage, Code: "x", At: now.Add(delay)})
		case "cancel":
			log.commit(t, stream, now, conversation.ReplyCancelled{Text: text, Usage: usage, At: now.Add(delay)})
		case "resolve":
			log.commit(t, stream, now, conversation.Resolved{At: now})
			settled[stream] = true
		}
		now = now.Add(delay)
	}
	return log
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
