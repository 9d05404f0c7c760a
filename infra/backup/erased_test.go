package backup_test

// This file restores texts whose owners the log says to be forgotten.

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/projections"
)

func TestWhatTheLogSaysWasErasedIsErasedAgain(t *testing.T) {
	w := newWorld(t)
	s, cluster, keys := w.source(t)
	log, err := cluster.Log(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	gone, kept := "conversation-agt_1."+keys.Index("gone"), "conversation-agt_1."+keys.Index("kept")
	hers, other := "conversation-agt_2."+keys.Index("hers"), "conversation-agt_3."+keys.Index("other")
	for _, c := range []struct {
		stream  string
		base    int
		account string
		kind    string
	}{
		{gone, 0, "acc_1", "conversation.started"},
		{gone, 1, "acc_1", "conversation.erased"},
		{kept, 0, "acc_1", "conversation.started"},
		{kept, 1, "acc_1", "message.received"},
		{kept, 1, "acc_1", "conversation.erased"}, // comes too late: it is rejected
		{"account-acc_2", 0, "acc_2", "account.opened"},
		{hers, 0, "acc_2", "conversation.started"},
		{"account-acc_2", 1, "acc_2", "account.erased"}, // her conversations were to follow
		{other, 0, "acc_3", "conversation.started"},
	} {
		if _, err := log.Append(t.Context(), commit(c.stream, c.base, c.account, c.kind)); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Destroy(t.Context(), "acc_late"); err != nil { // its event came behind the log's end
		t.Fatal(err)
	}
	owners := []string{gone, kept, hers, other, "acc_2", "acc_3"}
	for _, owner := range owners {
		if _, err := keys.Create(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Date(2026, 3, 14, 11, 0, 0, 0, time.UTC)
	s.ask(t, before.Add(2*time.Hour), projections.Request{Account: "acc_1", AgentID: "agt_1", ConversationID: "gone", RequestBody: said("of the next one under that id")})
	s.ask(t, before, projections.Request{Account: "acc_1", AgentID: "agt_1", ConversationID: "gone", RequestBody: said("of the erased one")},
		projections.Request{Account: "acc_1", AgentID: "agt_1", ConversationID: "kept", RequestBody: said("of the kept one")},
		projections.Request{Account: "acc_1", AgentID: "agt_9", ConversationID: "gone", RequestBody: said("of another agent's")},
		projections.Request{Account: "acc_2", RequestBody: said("of the erased account")})
	dir := t.TempDir()
	s.mustBackup(t, cluster, dir)
	w.lose(t)
	to := w.stores(t)
	var told bytes.Buffer
	if _, err := to.restore(t, dir, &told); err != nil {
		t.Fatal(err)
	}
	rows, err := to.pool.Query(t.Context(), `SELECT owner FROM nido.data_keys WHERE wrapped IS NOT NULL`)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(alive)
	want := []string{kept, other, "acc_3"}
	slices.Sort(want)
	if !slices.Equal(alive, want) {
		t.Errorf("keys are left of %v, not of %v", alive, want)
	}
	requests := to.requests(t)
	if rows := strings.Count(requests, "req_"); rows != 5 {
		t.Errorf("%d requests are left of 5: they are blanked, not dropped", rows)
	}
	for text, there := range map[string]bool{"of the erased one": false, "of the kept one": true, "of another agent's": true, "of the erased account": false, "of the next one under that id": true} {
		if strings.Contains(strings.ReplaceAll(requests, `\'`, "'"), text) != there {
			t.Errorf("%q is there: %v", text, !there)
		}
	}
	if !strings.Contains(told.String(), "the keys of acc_late are destroyed") || strings.Contains(told.String(), "the keys of "+gone) {
		t.Errorf("said %s", &told)
	}
	// A large log takes longer to be read than what is patient with a command that does not move.
	if !strings.Contains(told.String(), "looking for what was erased: 9 of 9 records (100 %)") {
		t.Errorf("said %s", &told)
	}
	if !strings.Contains(told.String(), "2 requests came back without what was said") {
		t.Errorf("said %s", &told)
	}
}
