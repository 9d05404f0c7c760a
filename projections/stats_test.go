package projections_test

// This file stands at the query: statistics against a table worked out by hand, and against a model without a database.

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

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
