package projections_test

// This file tests the one question with which a chat turn begins.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
	"github.com/nidohq/nido/projections"
)

// tenant is a log that sets up account acc_1 with key k1 and agents agt_1 (slug ventas), agt_2 (claimed, not bound),
// agt_3 (deleted), and account acc_2 with agt_9 (slug ajeno).
func tenant() *log {
	var story log
	create := func(account, id, slug string, limit *int) {
		story.add(commit(host.Aggregate, slug, 0, "claim", noon, host.Claimed{Account: account, Agent: id}))
		story.add(commit(agent.Aggregate, id, 0, "create", noon, agent.Created{Account: account, Slug: slug, Settings: agent.Settings{Name: id, Model: "echo", HistoryLimit: limit}}))
		if slug != "unbound" {
			story.add(commit(host.Aggregate, slug, 1, "bind", noon, host.Bound{Agent: id}))
		}
	}
	story.add(commit(account.Aggregate, "acc_1", 0, "open", noon, account.Opened{Name: "A", Plan: account.Pro}))
	story.add(commit(account.Aggregate, "acc_2", 0, "open", noon, account.Opened{Name: "B", Plan: account.Pro}))
	story.add(commit(apikey.Aggregate, "k1", 0, "issue", noon, apikey.Issued{Account: "acc_1", Name: "key", Hash: []byte{1}, Scopes: []apikey.Scope{apikey.Chat}}))
	create("acc_1", "agt_1", "ventas", pointer(3))
	create("acc_1", "agt_2", "unbound", nil)
	create("acc_1", "agt_3", "gone", nil)
	create("acc_2", "agt_9", "ajeno", nil)
	story.add(commit(agent.Aggregate, "agt_3", 1, "delete", noon, agent.Deleted{}))
	return &story
}

func TestAdmissionSaysWhatIsMissing(t *testing.T) {
	db := newDatabase(t)
	db.apply(t, tenant().records...)
	chat := projections.NewChat(db.pool)
	for name, ask := range map[string]struct {
		admission projections.Admission
		caller    bool
		agent     string
	}{
		"by id":                      {projections.Admission{PublicID: "k1", AgentID: "agt_1", Mac: "m"}, true, "agt_1"},
		"by host":                    {projections.Admission{PublicID: "k1", Slug: "ventas", Mac: "m"}, true, "agt_1"},
		"the id before the host":     {projections.Admission{PublicID: "k1", AgentID: "agt_2", Slug: "ventas", Mac: "m"}, true, "agt_2"},
		"no such key":                {projections.Admission{PublicID: "k2", AgentID: "agt_1", Mac: "m"}, false, ""},
		"no such agent":              {projections.Admission{PublicID: "k1", AgentID: "agt_7", Mac: "m"}, true, ""},
		"another account's agent":    {projections.Admission{PublicID: "k1", AgentID: "agt_9", Mac: "m"}, true, ""},
		"another account's host":     {projections.Admission{PublicID: "k1", Slug: "ajeno", Mac: "m"}, true, ""},
		"a deleted agent":            {projections.Admission{PublicID: "k1", AgentID: "agt_3", Mac: "m"}, true, ""},
		"a host that is not bound":   {projections.Admission{PublicID: "k1", Slug: "unbound", Mac: "m"}, true, ""},
		"no agent at all":            {projections.Admission{PublicID: "k1", Mac: "m"}, true, ""},
		"bytes that no id can have":  {projections.Admission{PublicID: "k1", AgentID: "agt_1\x00", Mac: "m"}, true, ""},
		"an unknown key and no host": {projections.Admission{PublicID: "", Slug: "nobody"}, false, ""},
	} {
		got, err := chat.Admit(t.Context(), ask.admission)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if (got.Caller != nil) != ask.caller || (got.Agent != nil) != (ask.agent != "") {
			t.Errorf("%s: caller %+v, agent %+v", name, got.Caller, got.Agent)
		}
		if got.Agent != nil && (got.Agent.ID != ask.agent || got.Stream != projections.ConversationStream(ask.agent, "m")) {
			t.Errorf("%s: agent %s, stream %s", name, got.Agent.ID, got.Stream)
		}
		if got.Snapshot.Version != 0 || got.Snapshot.State != nil || got.Key != nil || got.History != nil {
			t.Errorf("%s: %+v, want no conversation", name, got)
		}
	}
}

func TestAdmissionReadsTheConversation(t *testing.T) {
	db := newDatabase(t)
	story := tenant()
	c := newChat("acc_1", "agt_1", "m1", noon)
	story.add(c.receive("uno", "boot1"))
	story.add(c.complete("one"))
	story.add(c.receive("dos", "boot1"))
	story.add(c.fail("upstream_timeout"))
	story.add(c.receive("tres", "boot1"))
	last := story.add(c.complete("three"))
	db.apply(t, story.records...)
	asked := projections.NewChat(db.pool)
	admission := projections.Admission{PublicID: "k1", AgentID: "agt_1", Mac: "m1", Command: "new"}

	got, err := asked.Admit(t.Context(), admission)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := conversation.Aggregate.DecodeState(got.Snapshot.State); err != nil || state.Turns != 3 || got.Snapshot.Version != 6 || got.Snapshot.Committed != 0 {
		t.Errorf("snapshot %+v, state %+v, %v", got.Snapshot, state, err)
	}
	wantEqual(t, "the newest three that have a text, oldest first", got.History, []projections.Said{
		{Role: "user", Text: seal(c.key(), "dos")}, {Role: "user", Text: seal(c.key(), "tres")}, {Role: "assistant", Text: seal(c.key(), "three")},
	}, nil)
	wantEqual(t, "a data key that the keyring never had", got.Key, &projections.WrappedKey{ID: c.key(), Missing: true}, nil)

	execute(t, db.pool, `INSERT INTO data_keys (id, owner, wrapped) VALUES ($1, $2, '\x0102')`, c.key(), string(c.stream()))
	admission.Command = last.Command
	got, err = asked.Admit(t.Context(), admission)
	wantEqual(t, "a data key", got.Key, &projections.WrappedKey{ID: c.key(), Owner: string(c.stream()), Wrapped: []byte{1, 2}}, err)
	if got.Snapshot.Committed != 6 {
		t.Errorf("a command that was committed: %+v", got.Snapshot)
	}
	execute(t, db.pool, `UPDATE data_keys SET wrapped = NULL, destroyed_at = now()`)
	got, err = asked.Admit(t.Context(), admission)
	wantEqual(t, "a destroyed data key", got.Key, &projections.WrappedKey{ID: c.key(), Owner: string(c.stream()), Destroyed: true}, err)

	got, err = asked.Admit(t.Context(), projections.Admission{PublicID: "k1", AgentID: "agt_1", Mac: "m1", Command: "new", Key: "dk_other"})
	wantEqual(t, "a key of its own comes before one that lies ready", got.Key.ID, c.key(), err)

	db.apply(t,
		story.add(commit(agent.Aggregate, "agt_1", 1, "configure", noon, agent.Configured{Version: 2, Changes: agent.Changes{HistoryLimit: pointer(0)}})),
		story.add(commit(apikey.Aggregate, "k1", 1, "revoke", noon.Add(time.Hour), apikey.Revoked{})))
	got, err = asked.Admit(t.Context(), admission)
	if err != nil || got.History != nil || got.Caller.RevokedAt == nil || got.Agent.Version != 2 {
		t.Errorf("after the changes: %+v, %v", got, err)
	}
}

func TestANewConversationGetsTheKeyThatLiesReadyForItAndNoOther(t *testing.T) {
	db := newDatabase(t)
	db.apply(t, tenant().records...)
	asked := projections.NewChat(db.pool)
	stream := string(projections.ConversationStream("agt_1", "m"))
	execute(t, db.pool, `INSERT INTO data_keys (id, owner, wrapped) VALUES ('dk_ready', $1, '\x01'), ('dk_strange', 'conversation-agt_2.m', '\x02')`, stream)
	execute(t, db.pool, `INSERT INTO data_keys (id, owner, wrapped, destroyed_at) VALUES ('dk_gone', $1, NULL, now())`, stream)
	for key, want := range map[string]*projections.WrappedKey{
		"dk_ready": {ID: "dk_ready", Owner: stream, Wrapped: []byte{1}}, "dk_strange": nil, "dk_gone": nil, "dk_lost": nil, "": nil,
	} {
		got, err := asked.Admit(t.Context(), projections.Admission{PublicID: "k1", Slug: "ventas", Mac: "m", Command: "new", Key: key})
		wantEqual(t, key, got.Key, want, err)
	}
}

// TestAdmissionLooksEverythingUpByIndex explains the statement on tables that are worth an index.
func TestAdmissionLooksEverythingUpByIndex(t *testing.T) {
	db := newDatabase(t)
	story := tenant()
	for i := range 3000 {
		c := newChat("acc_1", "agt_1", fmt.Sprintf("m%d", i), noon)
		for range 1 + i%4 {
			story.add(c.receive("hola", "boot1"))
			story.add(c.complete(strings.Repeat("x", 200)))
		}
	}
	for i := range 2000 {
		story.add(opened(fmt.Sprintf("acc_x%d", i), fmt.Sprintf("open%d", i), 0))
		story.add(commit(apikey.Aggregate, fmt.Sprintf("x%d", i), 0, fmt.Sprintf("issue%d", i), noon, apikey.Issued{Account: "acc_1", Name: "key", Scopes: []apikey.Scope{apikey.Chat}}))
		story.add(commit(agent.Aggregate, fmt.Sprintf("agt_x%d", i), 0, fmt.Sprintf("create%d", i), noon, agent.Created{Account: "acc_1", Settings: agent.Settings{Name: "x", Model: "m"}}))
		story.add(commit(host.Aggregate, fmt.Sprintf("x%d", i), 0, fmt.Sprintf("claim%d", i), noon, host.Claimed{Account: "acc_1", Agent: fmt.Sprintf("agt_x%d", i)}, host.Bound{}))
	}
	for batch := range slices.Chunk(story.records, 1000) {
		if err := db.projector.Apply(t.Context(), 0, checkpoint(t, db.projector, 0), batch); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, db.pool, `INSERT INTO data_keys (id, owner, wrapped) SELECT key, stream, '\x01' FROM conversations`)
	execute(t, db.pool, `ANALYZE`)

	captured := &capture{}
	pool := db.tapped(t, captured)
	admission := projections.Admission{PublicID: "k1", Slug: "ventas", Mac: "m1234", Command: "c"}
	if _, err := projections.NewChat(pool).Admit(t.Context(), admission); err != nil {
		t.Fatal(err)
	}
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	for _, setting := range []string{`force_custom_plan`, `force_generic_plan`} {
		if _, err := tx.Exec(t.Context(), `SELECT set_config('plan_cache_mode', $1, true)`, setting); err != nil {
			t.Fatal(err)
		}
		rows, err := tx.Query(t.Context(), `EXPLAIN (ANALYZE, FORMAT TEXT) `+captured.sql, captured.args...)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		t.Logf("%s:\n%s", setting, text)
		if strings.Contains(text, "Seq Scan") || strings.Contains(text, "Hash") || strings.Contains(text, "Merge") {
			t.Errorf("%s reads a whole table", setting)
		}
	}

	const n = 300
	took := make([]time.Duration, n)
	for i := range took {
		admission.Mac = fmt.Sprintf("m%d", i*7)
		began := time.Now()
		got, err := projections.NewChat(db.pool).Admit(t.Context(), admission)
		if err != nil || got.Snapshot.Version == 0 || len(got.History) == 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	t.Logf("admission: p50 %v, p99 %v", took[n/2], took[n*99/100])
}
