package e2e

// This file erases, and looks for what was said in everything that the engines hold: before, to know that it looks in the
// right places, and after.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/model/modeltest"
)

type erasureView struct {
	ID, Of, Status      string
	RequestedAt, DoneAt *time.Time
}

// erase asks for an erasure.
func (c *client) erase(path string, headers ...string) (erasure erasureView) {
	c.t.Helper()
	c.must(http.StatusAccepted, "DELETE", path, nil, headers...).into(c.t, &erasure)
	return erasure
}

// awaitErased waits until an erasure is done.
func (c *client) awaitErased(t *testing.T, erasure erasureView) erasureView {
	t.Helper()
	await(t, time.Minute, "the erasure", func() bool {
		got, err := c.do(t.Context(), "GET", "/api/erasures/"+erasure.ID, nil)
		return err == nil && json.Unmarshal(got.body, &erasure) == nil && erasure.Status == "done"
	})
	t.Logf("%s erased after %v", erasure.Of, erasure.DoneAt.Sub(*erasure.RequestedAt))
	return erasure
}

// planted is a sentence and its installation.
type planted struct {
	installation
	dir  string // of the engines
	text string
	word string // of it, which nothing else holds
}

// plant prepares a sentence that nothing else contains.
func plant(t *testing.T, env ...string) planted {
	t.Helper()
	dir := t.TempDir()
	_, engines := startEngines(t, dir)
	key := bootstrap(t, engines)
	node := startNode(t, engines, "api,projector,sweeper", env...)
	word := "zarzamora7q"
	return planted{
		installation: installation{engines: engines, node: node, root: newClient(t, node.base, key)}, dir: dir,
		text: "mi secreto es " + word + " de Ñuñoa", word: word,
	}
}

// inClickHouse lists the tables that hold the sentence, those of the system too, and what is on the disk.
func (p planted) inClickHouse(t *testing.T) (places []string) {
	t.Helper()
	conn := p.clickhouse(t)
	var tables []struct {
		Database string   `ch:"database"`
		Table    string   `ch:"table"`
		Columns  []string `ch:"columns"`
	}
	const query = `SELECT database, table, groupArray(name) AS columns FROM system.columns
		WHERE (startsWith(database, 'nido') OR database = 'system' AND endsWith(table, '_log')) AND type LIKE '%String%'
		GROUP BY database, table ORDER BY database, table`
	if err := conn.Select(t.Context(), &tables, query); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var rows uint64
		sql := fmt.Sprintf("SELECT count() FROM `%s`.`%s` WHERE position(concatWithSeparator(' ', toString(`%s`)), 'zarza' || 'mora7q') > 0",
			table.Database, table.Table, strings.Join(table.Columns, "`), toString(`"))
		if err := conn.QueryRow(t.Context(), sql).Scan(&rows); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if rows > 0 {
			places = append(places, table.Database+"."+table.Table)
		}
	}
	return places
}

// onDisk lists the kinds of files below ClickHouse's directory in which the sentence can be read, decompressed where they
// are compressed: columns, indexes and whatever else, of active parts and of those that have been replaced.
func (p planted) onDisk(t *testing.T) (kinds []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(p.dir, "clickhouse"), func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // parts come and go
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if bytes.Contains(data, []byte(p.word)) || bytes.Contains(enginestest.Decompressed(data), []byte(p.word)) {
			kinds = append(kinds, filepath.Base(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// inTheOpen says where the sentence stands plainly in Kafka's records and in Postgres' rows; it never may.
func (p planted) inTheOpen(t *testing.T) (places []string) {
	t.Helper()
	brokers := strings.Split(variable(t, p.engines, "NIDO_KAFKA_BROKERS"), ",")
	for _, topic := range []string{"nido.events", "nido.requests"} {
		for _, record := range enginestest.ReadTopic(t, brokers, topic) {
			if bytes.Contains(record.Value, []byte(p.word)) {
				places = append(places, fmt.Sprintf("%s at %d", topic, record.Offset))
			}
		}
	}
	db := p.postgres(t)
	rows, err := db.Query(t.Context(), `SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('read', 'nido', 'read_next', 'read_old')`)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if rows.Err() != nil || len(tables) < 15 {
		t.Fatalf("tables %v, %v", tables, rows.Err())
	}
	for _, table := range tables {
		if count(t, db, `SELECT count(*) FROM `+table+` AS t WHERE position('`+p.word+`' IN t::text) > 0`) > 0 {
			places = append(places, table)
		}
	}
	return places
}

// sealedIn lists where the sentence can be read with the master key: tables of Postgres, and the log.
func (p planted) sealedIn(t *testing.T) (places []string) {
	t.Helper()
	for _, event := range logged(t, p.engines, "--open") {
		if strings.Contains(string(event.Data), p.word) {
			places = append(places, "the log")
		}
	}
	for _, opened := range openAll(t, p.engines) {
		if strings.Contains(opened.text, p.word) {
			places = append(places, opened.table)
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

// isGone wants the sentence nowhere.
func (p planted) isGone(t *testing.T) {
	t.Helper()
	for what, places := range map[string][]string{
		"ClickHouse": p.inClickHouse(t), "ClickHouse's files": p.onDisk(t), "the open": p.inTheOpen(t), "sealed": p.sealedIn(t),
	} {
		if len(places) > 0 {
			t.Errorf("it is still in %s: %v", what, places)
		}
	}
	for _, path := range []string{"/api/logs?q=" + p.word, "/api/conversations"} {
		if body := p.root.must(http.StatusOK, "GET", path, nil).body; bytes.Contains(body, []byte(p.word)) {
			t.Errorf("%s tells of it: %s", path, body)
		}
	}
}

// repeating answers with what it is asked. A message that begins with "hold" is answered slowly.
func repeating(asked modeltest.Request) modeltest.Reply {
	text := asked.Messages[len(asked.Messages)-1].Text
	reply := modeltest.Reply{Tokens: []string{text, " dijiste"}}
	if strings.HasPrefix(text, "hold") {
		reply.HangAfter = 1
	}
	return reply
}

func TestAnErasedConversationIsGoneFromEveryStore(t *testing.T) {
	t.Parallel()
	model := modeltest.New(modeltest.Options{Reply: repeating})
	t.Cleanup(model.Close)
	p := plant(t, "NIDO_MODEL_BASE_URL="+model.OpenAI())
	agent := p.root.createAgent("Olvido")
	chat := "/api/v2/agent/" + agent.ID + "/chat"
	name := "persona-" + p.word
	at := "/api/conversations/" + name + "?agentId=" + agent.ID
	body := chatBody(name, p.text)
	body["metadata"] = map[string]string{"nota": p.text}
	first := p.root.must(http.StatusOK, "POST", chat, body, "Idempotency-Key", "once")
	p.root.chat(agent.ID, "otra", "esto queda")
	open := p.root.open("POST", chat, map[string]any{"query": "hold " + p.text, "conversationId": name, "streaming": true})
	started := open.until("message.delta")

	t.Run("it is everywhere before", func(t *testing.T) {
		await(t, 30*time.Second, "the sentence in ClickHouse", func() bool { return len(p.inClickHouse(t)) == 3 })
		if places := p.inClickHouse(t); fmt.Sprint(places) != "[nido.requests nido_1.conversations nido_1.messages]" {
			t.Errorf("ClickHouse: %v", places)
		}
		if kinds := p.onDisk(t); !slices.ContainsFunc(kinds, func(kind string) bool { return strings.Contains(kind, "data") || strings.HasSuffix(kind, ".bin") }) {
			t.Errorf("ClickHouse's files: %v", kinds)
		} else {
			t.Logf("it can be read in %v", kinds)
		}
		if places := p.sealedIn(t); fmt.Sprint(places) != "[conversations idempotency messages the log turn_text]" {
			t.Errorf("sealed: %v", places)
		}
		if places := p.inTheOpen(t); len(places) > 0 {
			t.Errorf("in the open: %v", places)
		}
	})

	erasure := p.root.erase(at)
	t.Run("its running turn ends, and says why", func(t *testing.T) {
		end := open.until("turn.failed")
		if !strings.Contains(end.data, "conversation_erased") {
			t.Errorf("it ended with %s", end.data)
		}
		await(t, 20*time.Second, "the model to be left alone", func() bool { return model.Stats().Active == 0 })
		got := p.root.must(http.StatusNotFound, "GET", "/api/v1/turns/"+turnOf(started)+"/events", nil)
		if got.code() != "turn_not_found" {
			t.Errorf("resumed: %s", got.body)
		}
	})
	t.Run("nobody reads it any more", func(t *testing.T) {
		for method, path := range map[string]string{"GET": at, "POST": strings.Replace(at, "?", "/resolve?", 1)} {
			if got := p.root.must(http.StatusNotFound, method, path, nil); got.code() != "conversation_not_found" {
				t.Errorf("%s %s: %s", method, path, got.body)
			}
		}
		if again := p.root.erase(at); again.ID != erasure.ID {
			t.Errorf("erased again as %s, was %s", again.ID, erasure.ID)
		}
		got := p.root.must(http.StatusConflict, "POST", chat, body, "Idempotency-Key", "once")
		if got.code() != "conversation_erased" {
			t.Errorf("the repetition of %s got %s", first.body, got.body)
		}
	})
	if done := p.root.awaitErased(t, erasure); done.DoneAt.Sub(*done.RequestedAt) > time.Minute {
		t.Errorf("that is later than is promised: %+v", done)
	}
	t.Run("it is nowhere after", func(t *testing.T) { p.isGone(t) })
	t.Run("the log says that it was erased, and not what", func(t *testing.T) {
		events := logged(t, p.engines, "--type", "conversation.erased", "--open")
		if len(events) != 1 || events[0].Outcome != "accepted" || !strings.Contains(string(events[0].Data), erasure.ID) {
			t.Errorf("%+v", events)
		}
		for _, event := range logged(t, p.engines, "--stream", events[0].Stream, "--open") {
			if event.Type == "message.received" && !strings.Contains(string(event.Data), "(erased)") {
				t.Errorf("%s", event.Data)
			}
		}
	})
	t.Run("what was beside it is still there, and counts stay", func(t *testing.T) {
		if said := p.root.messages(agent.ID, "otra"); len(said) != 2 || said[0].Text != "esto queda" {
			t.Errorf("%+v", said)
		}
		if counted := p.statistics(); counted != 5 {
			t.Errorf("%d messages are counted", counted)
		}
		if found := p.root.must(http.StatusOK, "GET", "/api/logs?q=queda", nil); !bytes.Contains(found.body, []byte("otra")) {
			t.Errorf("the log lost another conversation's request: %s", found.body)
		}
	})
	t.Run("both read models come out the same when they are folded anew", func(t *testing.T) {
		mustOperate(t, p.engines, "verify")
		mustOperate(t, p.engines, "rebuild", "clickhouse", "--grace", "2s")
		mustOperate(t, p.engines, "rebuild", "postgres")
		mustOperate(t, p.engines, "verify")
		if counted := p.statistics(); counted != 5 {
			t.Errorf("%d messages are counted", counted)
		}
		p.isGone(t)
	})
	t.Run("a later message under the same id begins anew", func(t *testing.T) {
		p.root.chat(agent.ID, name, "hola otra vez")
		said := p.root.messages(agent.ID, name)
		if len(said) != 2 || said[0].Text != "hola otra vez" {
			t.Fatalf("%+v", said)
		}
		if asked := model.Requests(); len(asked[len(asked)-1].Parsed().Messages) != 1 {
			t.Errorf("the model heard of what was erased: %+v", asked[len(asked)-1].Parsed())
		}
		second := p.root.erase(at)
		if second.ID == erasure.ID {
			t.Error("the second conversation was not erased")
		}
		p.root.chat(agent.ID, name, "y otra")
		if said := p.root.messages(agent.ID, name); len(said) != 2 || said[0].Text != "y otra" {
			t.Errorf("%+v", said)
		}
		if again := p.root.must(http.StatusOK, "GET", "/api/conversations/"+url.PathEscape(name), nil); !bytes.Contains(again.body, []byte(name)) {
			t.Errorf("%s", again.body)
		}
	})
	if code := p.node.stop(syscall.SIGTERM, time.Minute); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
