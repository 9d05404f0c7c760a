package e2e

// This file kills the whole process, engines and all, in the middle of the load, and counts what is left.

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// sent is what the applications know: which messages they sent, and which were acknowledged with which reply.
type sent struct {
	mu    sync.Mutex
	tried map[string]bool     // texts
	acked map[string]chatView // by text
	kept  int                 // texts that are there, acknowledged or not
}

// chat sends a message until it has been answered or refused for another reason than that the turn before still runs.
func (s *sent) chat(c *client, agentID, conversation, text string) (done bool) {
	s.mu.Lock()
	s.tried[text] = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got, err := c.do(ctx, "POST", "/api/v2/agent/"+agentID+"/chat", chatBody(conversation, text))
	for err == nil && (got.code() == "conversation_busy" || got.code() == "overloaded") { // of both nothing has happened
		got, err = c.do(ctx, "POST", "/api/v2/agent/"+agentID+"/chat", chatBody(conversation, text))
	}
	if err != nil || got.status != http.StatusOK {
		return false
	}
	var reply chatView
	if json.Unmarshal(got.body, &reply) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[text] = reply
	return true
}

func (s *sent) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.acked)
}

func TestAKillInTheMiddleOfAThousandChatsLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	const chats, conversations = 1000, 40
	model := modeltest.New(modeltest.Options{BetweenTokens: time.Millisecond, Reply: func(asked modeltest.Request) modeltest.Reply {
		return modeltest.Words("you said: " + asked.Messages[len(asked.Messages)-1].Text)
	}})
	defer model.Close()
	dir := t.TempDir()
	upstream := "NIDO_MODEL_BASE_URL=" + model.OpenAI()
	node := startDev(t, dir, upstream)
	root := newClient(t, node.base, rootKey(t, dir))
	agent := root.createAgent("Crash")
	book := &sent{tried: map[string]bool{}, acked: map[string]chatView{}}

	var killing sync.Once
	var killed atomic.Bool
	inParallel(conversations, chats, func(i int) {
		if killed.Load() {
			return
		}
		book.chat(root, agent.ID, fmt.Sprintf("conv-%d", i%conversations), fmt.Sprintf("message %d", i))
		if book.count() >= chats/2 {
			killing.Do(func() {
				killed.Store(true)
				node.signal(syscall.SIGKILL)
			})
		}
	})
	<-node.gone
	t.Logf("killed after %d acknowledged of %d tried", book.count(), len(book.tried))

	node = startDev(t, dir, upstream)
	root = newClient(t, node.base, rootKey(t, dir))
	await(t, time.Minute, "every turn to have its end", func() bool {
		for i := range conversations {
			said := root.messages(agent.ID, fmt.Sprintf("conv-%d", i))
			if len(said)%2 != 0 {
				return false
			}
		}
		return true
	})
	inParallel(conversations, chats-len(book.tried), func(i int) {
		text := fmt.Sprintf("later message %d", i)
		if !book.chat(root, agent.ID, fmt.Sprintf("conv-%d", i%conversations), text) {
			t.Errorf("%s was not answered", text)
		}
	})
	checkConversations(t, root, agent.ID, conversations, book)
	await(t, 15*time.Second, "the statistics to count everything", func() bool {
		var stats struct{ Data []struct{ Messages int } }
		root.must(http.StatusOK, "GET", "/api/stats/conversations", nil).into(t, &stats)
		return len(stats.Data) == 1 && stats.Data[0].Messages == book.kept
	})
	if code := node.stop(syscall.SIGTERM, 40*time.Second); code != 0 {
		t.Fatalf("exit code %d\n%s", code, node.tail())
	}
	_, engines := startEngines(t, dir)
	checkStores(t, engines, book)
}

// checkConversations reads what Postgres says, through the API.
func checkConversations(t *testing.T, root *client, agentID string, conversations int, book *sent) {
	t.Helper()
	questions, replies := map[string]int{}, map[string]messageView{}
	for i := range conversations {
		said := root.messages(agentID, fmt.Sprintf("conv-%d", i))
		for j, message := range said {
			if want := []string{"user", "assistant"}[j%2]; message.Role != want {
				t.Fatalf("conversation %d: message %d is the %s's", i, j, message.Role)
			}
			if message.Role == "user" {
				questions[message.Text]++
			} else {
				replies[said[j-1].Text] = message
			}
		}
	}
	interrupted := 0
	book.kept = len(questions)
	for _, reply := range replies {
		if reply.Text != "" {
			book.kept++
		}
	}
	for text, count := range questions {
		if !book.tried[text] || count != 1 {
			t.Errorf("%q is there %d times", text, count)
		}
		if reply := replies[text]; reply.Status == "failed" {
			interrupted++
		} else if reply.Text != "you said: "+text {
			t.Errorf("reply to %q: %+v", text, reply)
		}
	}
	for text, reply := range book.acked {
		if replies[text].ID != reply.MessageID || replies[text].Text != reply.Response {
			t.Errorf("acknowledged reply to %q: %+v, kept %+v", text, reply, replies[text])
		}
	}
	t.Logf("%d acknowledged, %d messages kept, %d turns interrupted", len(book.acked), len(questions), interrupted)
}

// checkStores compares the log, read by a foreign client, with the rows of Postgres and ClickHouse.
func checkStores(t *testing.T, engines []string, book *sent) {
	t.Helper()
	turns := acceptedTurns(t, engines)
	for turn, events := range turns {
		if len(events) != 2 || events[0] != "message.received" || !strings.HasPrefix(events[1], "reply.") {
			t.Errorf("turn %s: %v", turn, events)
		}
	}

	db, err := pgx.Connect(t.Context(), variable(t, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	rows, err := db.Query(t.Context(), `SELECT turn || ' ' || role, count(*) FROM read.messages GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	inPostgres := counts(t, rows)

	options, err := clickhouse.ParseDSN(variable(t, engines, "NIDO_CLICKHOUSE_URL"))
	if err != nil {
		t.Fatal(err)
	}
	analytics, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer analytics.Close()
	found, err := analytics.Query(t.Context(), `
		SELECT turn_id || if(kind = 'received', ' user', ' assistant'), toInt64(count()), any(text) FROM nido_1.messages FINAL GROUP BY turn_id, kind`)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	inClickHouse, texts := map[string]int64{}, map[string]bool{}
	for found.Next() {
		var key, text string
		var count int64
		if err := found.Scan(&key, &count, &text); err != nil {
			t.Fatal(err)
		}
		inClickHouse[key] += count
		texts[text] = true
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}

	inLog := map[string]int64{}
	for turn := range turns {
		inLog[turn+" user"], inLog[turn+" assistant"] = 1, 1
	}
	if !maps.Equal(inLog, inPostgres) || !maps.Equal(inLog, inClickHouse) {
		t.Errorf("messages: %d in the log, %d in Postgres, %d in ClickHouse, or some of them doubled", len(inLog), len(inPostgres), len(inClickHouse))
	}
	for text, reply := range book.acked {
		if !texts[text] || !texts[reply.Response] {
			t.Errorf("ClickHouse lacks %q or its reply", text)
		}
	}
}

func counts(t *testing.T, rows pgx.Rows) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	var key string
	var count int64
	if _, err := pgx.ForEachRow(rows, []any{&key, &count}, func() error { found[key] = count; return nil }); err != nil {
		t.Fatal(err)
	}
	return found
}

// acceptedTurns applies the rule of the log by itself, with nothing of Nido's code: a commit happens if its stream
// stands at its base. It returns the events of every turn, in order.
func acceptedTurns(t *testing.T, engines []string) map[string][]string {
	t.Helper()
	versions, turns := map[string]int64{}, map[string][]string{}
	commands := map[string]bool{}
	for _, record := range readTopic(t, engines) {
		var commit struct {
			Base    int64
			Command string
			Events  []struct {
				Type string
				Data struct{ Turn string }
			}
		}
		if err := json.Unmarshal(record.Value, &commit); err != nil {
			t.Fatal(err)
		}
		if versions[string(record.Key)] != commit.Base {
			continue
		}
		versions[string(record.Key)]++
		if key := string(record.Key) + commit.Command; commands[key] {
			t.Errorf("command %s was applied twice", commit.Command)
		} else {
			commands[key] = true
		}
		for _, event := range commit.Events {
			if event.Data.Turn != "" {
				turns[event.Data.Turn] = append(turns[event.Data.Turn], event.Type)
			}
		}
	}
	return turns
}

const statsPath = "/api/stats/conversations?groupBy=agent,day&from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z"
