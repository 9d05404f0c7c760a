package projections_test

// This file stands at the query: a model of the statistics without a database, and random logs to compare them on.

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

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
