package e2e

// This file judges by the log alone, with nothing of Nido's code, and holds tables and acknowledgements against it.

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// judgement is what a foreign client makes of the log.
type judgement struct {
	records  int
	losers   int
	lost     map[int64]bool      // their offsets
	versions map[string]int64    // of every stream
	turns    map[string][]string // turn → types of its events
	marks    map[string]int      // how often a mark stands in an accepted event of its own stream
	events   map[string][]string // stream → types
}

var markPattern = regexp.MustCompile(`mark-\d+-\d+-`)

// judge applies the rule of the log: a commit happens if its stream stands at its base. One whose base lies ahead of its
// stream was decided on something that the log does not have.
func judge(t *testing.T, engines []string) judgement {
	t.Helper()
	j := judgement{lost: map[int64]bool{}, versions: map[string]int64{}, turns: map[string][]string{}, marks: map[string]int{}, events: map[string][]string{}}
	commands := map[string]bool{}
	for i, record := range readTopic(t, engines) {
		j.records++
		if record.Offset != int64(i) {
			t.Fatalf("offset %d at place %d of the log", record.Offset, i)
		}
		var commit struct {
			Base    int64
			Command string
			Events  []struct {
				Type string
				Data json.RawMessage
			}
		}
		if err := json.Unmarshal(record.Value, &commit); err != nil {
			t.Fatalf("offset %d: %v", record.Offset, err)
		}
		stream := string(record.Key)
		switch version := j.versions[stream]; {
		case commit.Base > version:
			t.Errorf("offset %d: %s stands at %d, the commit builds on %d: something in between is lost", record.Offset, stream, version, commit.Base)
			continue
		case commit.Base < version:
			j.losers++
			j.lost[record.Offset] = true
			continue
		}
		j.versions[stream]++
		if commands[stream+" "+commit.Command] {
			t.Errorf("offset %d: command %s was applied to %s twice", record.Offset, commit.Command, stream)
		}
		commands[stream+" "+commit.Command] = true
		for _, event := range commit.Events {
			j.events[stream] = append(j.events[stream], event.Type)
			var data struct{ Turn string }
			if err := json.Unmarshal(event.Data, &data); err != nil {
				t.Fatalf("offset %d: %v", record.Offset, err)
			}
			if data.Turn != "" {
				j.turns[data.Turn] = append(j.turns[data.Turn], event.Type)
			}
			if strings.HasPrefix(event.Type, "host.") {
				continue // a slug is made of the name
			}
			for _, mark := range slices.Compact(slices.Sorted(slices.Values(markPattern.FindAllString(string(event.Data), -1)))) {
				j.marks[mark]++
			}
		}
	}
	for turn, events := range j.turns {
		if len(events) != 2 || events[0] != "message.received" || !strings.HasPrefix(events[1], "reply.") {
			t.Errorf("turn %s: %v", turn, events)
		}
	}
	return j
}

// check holds what was acknowledged against the log, and against what every node says now.
func (l *load) check(log judgement) {
	t := l.t
	t.Helper()
	for mark, times := range log.marks {
		if times != 1 || !l.tried[mark] {
			t.Errorf("%s stands %d times in the log; sent: %v", mark, times, l.tried[mark])
		}
	}
	for mark, id := range l.marks {
		if log.marks[mark] != 1 {
			t.Errorf("%s was acknowledged for %s and stands %d times in the log", mark, id, log.marks[mark])
		}
	}
	for _, id := range l.revoked {
		stream := "apikey-" + strings.TrimPrefix(id, "key_")
		if revocations := times(log.events[stream], "key.revoked"); revocations != 1 {
			t.Errorf("key %s was revoked, its stream says %v", id, log.events[stream])
		}
	}
	for agent, wanted := range l.changed {
		found := slices.DeleteFunc(slices.Clone(log.events["agent-"+agent]), func(kind string) bool { return kind == "agent.created" })
		if !slices.Equal(found, wanted) {
			t.Errorf("agent %s: acknowledged %v, in the log %v", agent, wanted, found)
		}
	}
	for _, leak := range l.leaked {
		t.Errorf("a revoked key opened: %s", leak)
	}
	l.checkReplies()
}

func times(list []string, wanted string) (found int) {
	for _, one := range list {
		if one == wanted {
			found++
		}
	}
	return found
}

// checkReplies reads every conversation through the API, from both nodes in turn.
func (l *load) checkReplies() {
	t := l.t
	t.Helper()
	questions, replies := map[string]int{}, map[string]messageView{} // replies that were completed
	again := 0
	for i, conversation := range slices.Sorted(maps.Keys(l.talks)) {
		node := l.clients[i%2]
		got := node.found(t, "/api/conversations/"+conversation+"?agentId="+l.talks[conversation])
		if got == 404 {
			continue // nothing that was sent there has been kept
		}
		said := node.messages(l.talks[conversation], conversation)
		for j, message := range said {
			if want := []string{"user", "assistant"}[j%2]; message.Role != want {
				t.Fatalf("%s: message %d is the %s's", conversation, j, message.Role)
			}
			if message.Role == "user" {
				questions[message.Text]++
				continue
			}
			text := said[j-1].Text
			if _, twice := replies[text]; twice || questions[text] > 1 && l.keyed[text] == "" {
				t.Errorf("%q was answered, and is there again", text)
			}
			if message.Status == "completed" {
				replies[text] = message
			}
		}
	}
	// A turn that has failed lets its Idempotency-Key begin anew: the message is there again, behind its failure.
	for text, times := range questions {
		if times > 1 {
			again++
		}
		if !l.tried[markPattern.FindString(text)] {
			t.Errorf("%q was never sent", text)
		}
	}
	t.Logf("%d messages, %d of them begun anew behind a failed turn", len(questions), again)
	for text, reply := range l.replies {
		if kept := replies[text]; kept.ID != reply.MessageID || kept.Text != reply.Response || kept.Text != text {
			t.Errorf("acknowledged reply to %q: %+v, kept %+v", text, reply, kept)
		}
	}
}

// found asks whether something is there.
func (c *client) found(t *testing.T, path string) int {
	t.Helper()
	got, err := c.do(t.Context(), "GET", path, nil)
	if err != nil || got.status != 200 && got.status != 404 {
		t.Fatalf("GET %s: %d %s, %v", path, got.status, got.body, err)
	}
	return got.status
}

// checkTables compares the streams and the losers of Postgres with the log's.
func checkTables(t *testing.T, engines []string, log judgement) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), variable(t, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	rows, err := db.Query(t.Context(), `SELECT stream, version FROM read.streams`)
	if err != nil {
		t.Fatal(err)
	}
	if folded := counts(t, rows); !maps.Equal(folded, log.versions) {
		t.Errorf("%d streams in Postgres, %d in the log, or at other versions", len(folded), len(log.versions))
	}
	rows, err = db.Query(t.Context(), `SELECT off FROM read.rejections`)
	if err != nil {
		t.Fatal(err)
	}
	losers, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	if len(losers) != len(log.lost) || slices.ContainsFunc(losers, func(offset int64) bool { return !log.lost[offset] }) {
		t.Errorf("Postgres rejected %d commits, the log says %d, or others", len(losers), len(log.lost))
	}
}

func countRows(t *testing.T, engines []string, query string) (found int) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), variable(t, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	if err := db.QueryRow(t.Context(), query).Scan(&found); err != nil {
		t.Fatal(err)
	}
	return found
}
