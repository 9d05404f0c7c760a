package projections_test

// This file tests what is left in ClickHouse of a conversation that was erased, and that no text comes in behind it.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

// rowsWithoutTime lists every row of both tables but for when it was inserted.
func rowsWithoutTime(t *testing.T, conn driver.Conn, database string) (rows []string) {
	t.Helper()
	for _, table := range []string{"messages", "conversations"} {
		found, err := conn.Query(t.Context(), fmt.Sprintf(`SELECT toString(tuple(* EXCEPT insert_by)) AS line FROM %s.%s FINAL ORDER BY line`, database, table))
		if err != nil {
			t.Fatal(err)
		}
		for found.Next() {
			var line string
			if err := found.Scan(&line); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, table+" "+line)
		}
		if err := found.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

func TestWhatIsErasedInClickHouseIsWhatAFoldWithoutTheKeysMakesOfIt(t *testing.T) {
	story := newClickhouseLog("acc_1")
	for n := range 6 {
		story.turn(t, "agt_1", fmt.Sprintf("c%d", n), noon.Add(time.Duration(n)*time.Hour), time.Millisecond, time.Second)
	}
	story.commit(t, clickhouseStream("agt_1", "c1"), noon.Add(2*time.Hour), conversation.Resolved{At: noon.Add(2 * time.Hour)})
	story.commit(t, clickhouseStream("agt_1", "c1"), noon.Add(3*time.Hour), conversation.ReplyFailed{Turn: "trn_x", Message: "msg_x", Code: "interrupted", At: noon})
	served, _, conn, database := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
	rebuilt, _, _, after := newClickhouseFold(t, clickhouseTextKeys{destroyed: map[string]bool{"dk_c1": true, "dk_c4": true}}, clickhouseVerdicts{})
	clickhouseFold(t, served, story.records, 3, 9)
	clickhouseFold(t, rebuilt, story.records)

	forgetting := projections.NewForgetting(conn, database, func(context.Context) ([]string, error) { return []string{database}, nil })
	var gone []projections.ForgottenConversation
	for _, id := range []string{"c1", "c4"} {
		gone = append(gone, projections.ForgottenConversation{Account: "acc_1", Agent: "agt_1", Stream: string(clickhouseStream("agt_1", id)), Keys: []string{"dk_" + id}})
	}
	for range 2 { // it may be called again
		if err := forgetting.Conversations(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	is, want := rowsWithoutTime(t, conn, database), rowsWithoutTime(t, conn, after)
	if !slices.Equal(is, want) {
		t.Errorf("it holds\n%s\nand a fold without the keys\n%s", strings.Join(is, "\n"), strings.Join(want, "\n"))
	}
	var left uint64
	if err := conn.QueryRow(t.Context(), `SELECT count() FROM system.parts WHERE database = '`+database+`' AND NOT active`).Scan(&left); err != nil || left > 0 {
		t.Errorf("%d replaced parts are left, %v", left, err)
	}

	if err := forgetting.Account(t.Context(), "acc_1"); err != nil {
		t.Fatal(err)
	}
	for _, row := range rowsWithoutTime(t, conn, database) {
		if strings.Contains(row, "hello") || strings.Contains(row, "client-") {
			t.Errorf("left of the account: %s", row)
		}
	}
}

func TestErasingALineOfTheRequestLogLeavesItsCounts(t *testing.T) {
	conn, database := clickhouseConn(t)
	requests := projections.NewRequests(conn, database)
	if err := requests.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	batch := projections.RequestBatch{After: -1, Last: 0}
	if err := requests.Begin(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	gone, kept := projections.NewRequestID(noon), projections.NewRequestID(noon)
	for id, key := range map[string]string{gone: "dk_gone", kept: "dk_kept"} {
		batch.Requests = append(batch.Requests, projections.Request{
			ID: id, At: noon, Account: "acc_1", AgentID: "agt_1", ConversationID: "persona", Method: "POST", Path: "/x", Query: "a=b", Status: 200,
			Latency: time.Second, InputTokens: 7, DataKey: key, RemoteIP: "192.0.2.1", UserAgent: "curl",
			RequestBody: projections.Body{Text: []byte(`{"query":"zarzamora ` + key + `"}`)}, ResponseBody: projections.Body{Text: []byte(`{"response":"mora"}`)},
		})
	}
	if err := requests.Insert(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	logs := projections.NewLogs(conn, database)
	search := func(words string) int {
		t.Helper()
		found, err := logs.List(t.Context(), "acc_1", projections.LogFilter{Q: words, Limit: 10}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if found := search("zarzamora"); found != 2 {
		t.Fatalf("%d lines have the word", found)
	}
	forgetting := projections.NewForgetting(conn, database, func(context.Context) ([]string, error) { return nil, nil })
	forgotten := []projections.ForgottenConversation{{Account: "acc_1", Agent: "agt_1", Stream: "conversation-agt_1.x", Keys: []string{"dk_gone", "dk_other"}}}
	if err := forgetting.Conversations(t.Context(), forgotten); err != nil {
		t.Fatal(err)
	}
	if found := search("zarzamora"); found != 1 {
		t.Errorf("%d lines have the word", found)
	}
	is, ok, err := logs.Get(t.Context(), "acc_1", gone)
	if err != nil || !ok || !is.Erased || is.Status != 200 || is.Latency != time.Second || is.InputTokens != 7 {
		t.Errorf("the line is %+v, %v", is, err)
	}
	if is.ConversationID+is.Path+is.Query+is.RemoteIP+is.UserAgent+string(is.RequestBody.Text)+string(is.ResponseBody.Text) != "" {
		t.Errorf("the line still says %+v", is)
	}
	if other, ok, err := logs.Get(t.Context(), "acc_1", kept); err != nil || !ok || other.Erased || other.ConversationID != "persona" {
		t.Errorf("the other line is %+v, %v", other, err)
	}
}

func TestATextThatComesTooLateIsRefused(t *testing.T) {
	_, _, conn, database := newClickhouseFold(t, clickhouseTextKeys{}, clickhouseVerdicts{})
	if err := projections.NewRequests(conn, database).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	forgetting := projections.NewForgetting(conn, database, func(context.Context) ([]string, error) { return nil, nil })
	for _, table := range []string{"messages", "conversations", "requests"} {
		for seconds, refused := range map[int]bool{-1: true, 5: false} {
			// The query is there in time; what counts is when the rows come.
			batch, err := conn.PrepareBatch(t.Context(), fmt.Sprintf(`INSERT INTO %s.%s (account, insert_by)`, database, table))
			if err != nil {
				t.Fatal(err)
			}
			now, err := forgetting.Now(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := batch.Append("acc_1", now.Add(time.Duration(seconds)*time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := batch.Send(); (err != nil) != refused {
				t.Errorf("%s, %d seconds before its time is over: %v", table, seconds, err)
			}
		}
	}
}
