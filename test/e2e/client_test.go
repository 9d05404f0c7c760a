package e2e

// This file is the tests' HTTP client: what an application would write.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// client calls one node with one key.
type client struct {
	t    testing.TB
	base string
	key  string
	http *http.Client
}

func newClient(t testing.TB, base, key string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DialContext: dialLoopback}
	t.Cleanup(transport.CloseIdleConnections)
	// Streams included, the longest of which wait until a dead node's turn is ended.
	return &client{t: t, base: base, key: key, http: &http.Client{Transport: transport, Timeout: 3 * time.Minute}}
}

// dialLoopback resolves every name below localhost to this machine, as browsers and curl do.
func dialLoopback(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && strings.HasSuffix(host, ".localhost") {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, address)
}

// with is the same client under another key.
func (c *client) with(key string) *client {
	other := *c
	other.key = key
	return &other
}

// onHost is the same client on an agent's own host.
func (c *client) onHost(slug string) *client {
	other := *c
	_, port, _ := strings.Cut(strings.TrimPrefix(c.base, "http://"), ":")
	other.base = "http://" + slug + ".localhost:" + port
	return &other
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. The error is the connection's.
func (c *client) do(ctx context.Context, method, path string, body any, headers ...string) (answer, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: data}, err
}

// untilLetIn sends a request until the node lets it in: what is refused as too much for the moment was not begun, and a
// machine that others use can do less than one thinks.
func (c *client) untilLetIn(method, path string, body any) (got answer, err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if got, err = c.do(c.t.Context(), method, path, body); err != nil || got.code() != "overloaded" {
			break
		}
	}
	return got, err
}

// must sends a request and wants a status.
func (c *client) must(status int, method, path string, body any, headers ...string) answer {
	c.t.Helper()
	got, err := c.do(c.t.Context(), method, path, body, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if got.status != status {
		c.t.Fatalf("%s %s: status %d, not %d: %s", method, path, got.status, status, got.body)
	}
	return got
}

// into decodes an answer.
func (a answer) into(t testing.TB, target any) {
	t.Helper()
	if err := json.Unmarshal(a.body, target); err != nil {
		t.Fatalf("decode %s: %v", a.body, err)
	}
}

// object decodes an answer's JSON object.
func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var object map[string]any
	a.into(t, &object)
	return object
}

// code is the error's code, or "".
func (a answer) code() string {
	var envelope struct{ Error struct{ Code string } }
	if json.Unmarshal(a.body, &envelope) != nil {
		return ""
	}
	return envelope.Error.Code
}

type agentView struct {
	ID, Name, Slug, Endpoint, Status, Model, Instructions string
	Version                                               int
	Metadata                                              map[string]string
}

type chatView struct {
	Response, ConversationID, MessageID, AgentID, Model string
	Usage                                               struct{ InputTokens, OutputTokens int64 }
}

type messageView struct {
	ID, Role, Text, Status string
	Error                  *string
}

type conversationView struct {
	ID, AgentID, Status string
	MessageCount        int
}

func (c *client) createAgent(name string) agentView {
	c.t.Helper()
	var agent agentView
	c.must(http.StatusCreated, "POST", "/api/agents", map[string]any{
		"name": name, "instructions": "Sos un asistente de ventas amable...", "model": "gpt-4o-mini",
	}).into(c.t, &agent)
	return agent
}

func (c *client) chat(agentID, conversation, text string) chatView {
	c.t.Helper()
	var reply chatView
	c.must(http.StatusOK, "POST", "/api/v2/agent/"+agentID+"/chat", chatBody(conversation, text)).into(c.t, &reply)
	return reply
}

func chatBody(conversation, text string) map[string]any {
	body := map[string]any{"query": text, "streaming": false}
	if conversation != "" {
		body["conversationId"] = conversation
	}
	return body
}

// messages reads all of a conversation's messages, page by page.
func (c *client) messages(agentID, conversation string) []messageView {
	c.t.Helper()
	var all []messageView
	for cursor := ""; ; {
		path := fmt.Sprintf("/api/conversations/%s/messages?agentId=%s&limit=100%s", conversation, agentID, cursor)
		var page struct {
			Data       []messageView
			NextCursor *string
		}
		c.must(http.StatusOK, "GET", path, nil).into(c.t, &page)
		all = append(all, page.Data...)
		if page.NextCursor == nil {
			return all
		}
		cursor = "&cursor=" + *page.NextCursor
	}
}
