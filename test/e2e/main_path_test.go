package e2e

// This file walks the main path as a new user does, in one process with the embedded engines.

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

func TestANewUserCreatesAnAgentChatsAndReads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := startDev(t, dir)
	root := newClient(t, node.base, rootKey(t, dir))

	agent := root.createAgent("Agente de Ventas")
	if agent.Slug != "agente-de-ventas" || agent.Status != "active" || agent.Version != 1 {
		t.Fatalf("agent: %+v", agent)
	}

	t.Run("chat by id continues a conversation", func(t *testing.T) {
		first := root.chat(agent.ID, "conv-123", "¿Cuáles son los horarios de atención?")
		if first.Model != "echo" || first.ConversationID != "conv-123" || !strings.Contains(first.Response, "horarios de atención") {
			t.Fatalf("reply: %+v", first)
		}
		root.chat(agent.ID, "conv-123", "otra cosa")
		said := root.messages(agent.ID, "conv-123")
		if len(said) != 4 || said[0].Role != "user" || said[1].Role != "assistant" || said[2].Text != "otra cosa" {
			t.Fatalf("messages: %+v", said)
		}
	})

	t.Run("chat on the agent's own host, with a key for nothing else", func(t *testing.T) {
		var issued struct{ ID, Key string }
		root.must(http.StatusCreated, "POST", "/api/keys", map[string]any{
			"name": "Sitio web", "scopes": []string{"chat"}, "agentIds": []string{agent.ID},
		}).into(t, &issued)
		site := root.with(issued.Key).onHost(agent.Slug)
		var reply chatView
		site.must(http.StatusOK, "POST", "/api/v1/chat", map[string]any{"message": "Hello!"}).into(t, &reply)
		if !strings.HasPrefix(reply.ConversationID, "conv_") || reply.AgentID != agent.ID {
			t.Fatalf("reply: %+v", reply)
		}
		root.must(http.StatusOK, "GET", "/api/conversations/"+reply.ConversationID, nil) // no agentId needed
		other := root.createAgent("Otro")
		if got := root.with(issued.Key).must(http.StatusForbidden, "POST", "/api/v2/agent/"+other.ID+"/chat", chatBody("", "x")); got.code() == "" {
			t.Fatalf("no envelope: %s", got.body)
		}
		root.with(issued.Key).must(http.StatusForbidden, "GET", "/api/agents", nil)
		root.must(http.StatusOK, "POST", "/api/keys/"+issued.ID+"/revoke", map[string]any{})
		site.must(http.StatusUnauthorized, "POST", "/api/v1/chat", map[string]any{"message": "Hello!"})
	})

	t.Run("conversations are a plain array that one can reduce", func(t *testing.T) {
		var conversations []conversationView
		root.must(http.StatusOK, "GET", "/api/conversations?agentId="+agent.ID, nil).into(t, &conversations)
		total := 0
		for _, conversation := range conversations {
			total += conversation.MessageCount
		}
		if len(conversations) != 2 || total != 6 {
			t.Fatalf("conversations: %+v", conversations)
		}
		root.must(http.StatusOK, "POST", "/api/conversations/conv-123/resolve?agentId="+agent.ID, nil)
		var resolved []conversationView
		root.must(http.StatusOK, "GET", "/api/conversations?status=resolved", nil).into(t, &resolved)
		if len(resolved) != 1 || resolved[0].ID != "conv-123" {
			t.Fatalf("resolved: %+v", resolved)
		}
	})

	t.Run("every request is in the log, without its secrets", func(t *testing.T) {
		var page struct {
			Data []struct{ RequestID, Path, KeyID string }
		}
		await(t, 10*time.Second, "the chat in the request log", func() bool {
			root.must(http.StatusOK, "GET", "/api/logs?status=200&agentId="+agent.ID, nil).into(t, &page)
			return len(page.Data) >= 3
		})
		for _, entry := range page.Data {
			if strings.HasSuffix(entry.Path, "/chat") {
				detail := root.must(http.StatusOK, "GET", "/api/logs/"+entry.RequestID, nil)
				if strings.Contains(string(detail.body), root.key[20:50]) {
					t.Fatalf("the key is in the log: %s", detail.body)
				}
			}
		}
		keyed := root.must(http.StatusOK, "GET", "/api/logs?keyId="+page.Data[0].KeyID, nil)
		if !strings.Contains(string(keyed.body), page.Data[0].RequestID) {
			t.Fatalf("filtered by key: %s", keyed.body)
		}
	})

	t.Run("statistics count by agent and day", func(t *testing.T) {
		var stats struct {
			Data []struct {
				AgentID                           string
				Conversations, Messages, Resolved int
			}
		}
		await(t, 10*time.Second, "the conversations in the statistics", func() bool {
			root.must(http.StatusOK, "GET", "/api/stats/conversations?groupBy=agent,day", nil).into(t, &stats)
			for _, row := range stats.Data {
				if row.AgentID == agent.ID && row.Conversations == 2 && row.Messages == 6 && row.Resolved == 1 {
					return true
				}
			}
			return false
		})
	})

	t.Run("everything is there after a restart, and the conversation goes on", func(t *testing.T) {
		if code := node.stop(syscall.SIGTERM, 30*time.Second); code != 0 {
			t.Fatalf("exit code %d\n%s", code, node.tail())
		}
		again := startDev(t, dir)
		root := newClient(t, again.base, rootKey(t, dir))
		root.must(http.StatusOK, "GET", "/api/me", nil)
		if agents := root.must(http.StatusOK, "GET", "/api/agents/"+agent.ID, nil).object(t); agents["name"] != "Agente de Ventas" {
			t.Fatalf("agent: %v", agents)
		}
		root.chat(agent.ID, "conv-123", "sigo")
		if said := root.messages(agent.ID, "conv-123"); len(said) != 6 {
			t.Fatalf("messages: %+v", said)
		}
		if got := root.must(http.StatusOK, "GET", "/api/conversations/conv-123?agentId="+agent.ID, nil).object(t); got["status"] != "open" {
			t.Fatalf("a new message reopens: %v", got)
		}
	})
}

func TestAnUpstreamThatSpeaksLikeOpenAISeesTheWholeConversation(t *testing.T) {
	t.Parallel()
	model := modeltest.New(modeltest.Options{Reply: func(modeltest.Request) modeltest.Reply { return modeltest.Words("de 9 a 18") }})
	defer model.Close()
	dir := t.TempDir()
	node := startDev(t, dir, "NIDO_MODEL_BASE_URL="+model.OpenAI(), "NIDO_MODEL_API_KEY=sk-test")
	root := newClient(t, node.base, rootKey(t, dir))
	agent := root.createAgent("Horarios")
	root.chat(agent.ID, "c", "¿Horarios?")
	reply := root.chat(agent.ID, "c", "¿Y el domingo?")
	if reply.Response != "de 9 a 18" || reply.Usage.OutputTokens == 0 {
		t.Fatalf("reply: %+v", reply)
	}
	seen := model.Requests()
	last := seen[len(seen)-1].Parsed()
	want := []commands.Message{
		{Role: commands.User, Text: "¿Horarios?"}, {Role: commands.Assistant, Text: "de 9 a 18"}, {Role: commands.User, Text: "¿Y el domingo?"},
	}
	if len(last.Messages) != len(want) {
		t.Fatalf("the model saw %+v", last)
	}
	for i := range want {
		if last.Messages[i] != want[i] {
			t.Fatalf("the model saw %+v", last)
		}
	}
	if last.Instructions != "Sos un asistente de ventas amable..." || last.Model != "gpt-4o-mini" {
		t.Fatalf("the model saw %+v", last)
	}
}

func TestTheSnippetsOfTheProductPagesRunUnchanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := startDev(t, dir)
	root := newClient(t, node.base, rootKey(t, dir))
	agent := root.createAgent("Your Agent") // its slug is your-agent, as the snippet has it
	cmd := exec.Command("node", "--require", "./testdata/loopback.cjs", "./testdata/snippets.mjs")
	cmd.Env = append(os.Environ(), "BASE="+node.base, "HOST="+root.onHost(agent.Slug).base, "KEY="+root.key, "AGENT="+agent.ID)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if !strings.Contains(string(output), "4 messages in 2 conversations") {
		t.Fatalf("output: %s", output)
	}
}

func TestASecondProcessOnTheSameDirectoryOrPortIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := startDev(t, dir)
	second := launch(t, nil, "dev", "--data", dir, "--listen", freeAddress(t))
	<-second.gone
	if second.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(second.tail(), dir) {
		t.Fatalf("exit %d: %s", second.cmd.ProcessState.ExitCode(), second.tail())
	}
	other := filepath.Join(t.TempDir(), "data")
	taken := launch(t, nil, "dev", "--data", other, "--listen", strings.TrimPrefix(node.base, "http://"))
	<-taken.gone
	if taken.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(taken.tail(), "address already in use") {
		t.Fatalf("exit %d: %s", taken.cmd.ProcessState.ExitCode(), taken.tail())
	}
	node.awaitReady(20 * time.Second) // and the first goes on
}

func TestItStopsInOrderOnEachSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		node := startDev(t, dir)
		if code := node.stop(signal, 30*time.Second); code != 0 {
			t.Errorf("%v: exit code %d\n%s", signal, code, node.tail())
		}
	}
}

func TestAStoppingNodeFinishesItsTurns(t *testing.T) {
	t.Parallel()
	model := modeltest.New(modeltest.Options{Tokens: 20, BetweenTokens: 50 * time.Millisecond})
	defer model.Close()
	dir := t.TempDir()
	node := startDev(t, dir, "NIDO_MODEL_BASE_URL="+model.OpenAI(), "NIDO_STOP_DELAY=5s")
	root := newClient(t, node.base, rootKey(t, dir))
	agent := root.createAgent("Lento")
	replied := make(chan answer, 2)
	chat := func(conversation string) {
		got, _ := root.do(t.Context(), "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody(conversation, "x"))
		replied <- got
	}
	go chat("c")
	await(t, 10*time.Second, "the upstream call", func() bool { return model.Stats().Active == 1 })
	node.signal(syscall.SIGTERM)
	await(t, 2*time.Second, "the node's saying that it stops", func() bool {
		got, err := root.do(t.Context(), "GET", "/readyz", nil)
		return err == nil && got.status == http.StatusServiceUnavailable && strings.Contains(string(got.body), `"node":"stops"`)
	})
	chat("d") // of one whom the load balancer has sent here before it looked
	await(t, 30*time.Second, "its end", func() bool {
		select {
		case <-node.gone:
			return true
		default:
			return false
		}
	})
	if code := node.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, node.tail())
	}
	for range 2 {
		if got := <-replied; got.status != http.StatusOK {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
}
