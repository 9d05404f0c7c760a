package e2e

// This file asks every route of the contract for another account's things. It is generated from api/openapi.yaml, so that a
// new route cannot be forgotten: one with a path parameter that is not known here fails the test.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/jackc/pgx/v5"
)

// tenant is an account with one of everything.
type tenant struct {
	id       string
	client   *client
	slug     string
	ids      map[string]string // by the path segment before the parameter
	queries  map[string]string // by the query parameter
	agentID  string
	messages []string // what only the tenant may ever see
}

// settle gives an account one of everything that the contract knows.
func settle(t *testing.T, root *client, postgres *pgx.Conn, name string) tenant {
	t.Helper()
	id, own := root.customer("scale")
	word := strings.ToLower(name)
	agent := own.createAgent("Agente " + name)
	own.must(http.StatusOK, "PATCH", "/api/agents/"+agent.ID, map[string]any{"instructions": "instrucciones de " + word, "metadata": map[string]string{"a": "dato de " + word}})
	conversation := "conv-" + word
	chat := own.must(http.StatusOK, "POST", "/api/v2/agent/"+agent.ID+"/chat", chatBody(conversation, "mensaje de "+word))
	var reply chatView
	chat.into(t, &reply)
	key := own.issueKey("chat")
	own.chat(agent.ID, "borrada-"+word, "algo de "+word)
	erasure := own.erase("/api/conversations/borrada-" + word + "?agentId=" + agent.ID)
	request := chat.header.Get("X-Request-Id")
	await(t, 30*time.Second, "the request log", func() bool {
		got, err := own.do(t.Context(), "GET", "/api/logs/"+request, nil)
		return err == nil && got.status == http.StatusOK
	})
	var turn string
	if err := postgres.QueryRow(t.Context(), `SELECT turn FROM read.messages WHERE id = $1`, reply.MessageID).Scan(&turn); err != nil {
		t.Fatal(err)
	}
	return tenant{
		id: id, client: own, slug: agent.Slug, agentID: agent.ID,
		ids: map[string]string{
			"agents": agent.ID, "agent": agent.ID, "versions": "1", "keys": key.ID, "accounts": id, "conversations": conversation,
			"logs": request, "messages": reply.MessageID, "turns": turn, "erasures": erasure.ID, "models": agent.Slug,
		},
		queries: map[string]string{"agentId": agent.ID, "keyId": key.ID, "conversationId": conversation},
		messages: []string{
			"Agente " + name, "instrucciones de " + word, "dato de " + word, "mensaje de " + word, agent.ID, agent.Slug, key.ID, id, conversation,
			reply.MessageID, request, turn,
		},
	}
}

// call is one request that an operation understands.
type call struct {
	op     *openapi3.Operation
	method string
	path   string
	onHost bool
	aimed  bool // it names a thing in its path, or says something to an agent
	body   any
	sent   string // everything that was sent, as text
}

// aim builds an operation's calls for a tenant's things: as it is, and once more with each query parameter that names a
// thing.
func (v tenant) aim(t *testing.T, route, method string, item *openapi3.PathItem, op *openapi3.Operation) []call {
	t.Helper()
	c := call{op: op, method: method, path: route, onHost: op.Extensions["x-nido-host"] == "agent"}
	segments := strings.Split(route, "/")
	for i, segment := range segments {
		if !strings.HasPrefix(segment, "{") {
			continue
		}
		id := v.ids[segments[i-1]]
		if id == "" {
			t.Fatalf("%s: give every tenant of this test one of /%s/%s", route, segments[i-1], segment)
		}
		segments[i], c.aimed = id, true
	}
	c.path = strings.Join(segments, "/")
	if op.RequestBody != nil {
		c.body = v.bodyOf(op.RequestBody.Value.Content["application/json"])
	}
	c.aimed = c.aimed || (op.Extensions["x-nido-scope"] == "chat" && method == http.MethodPost)
	query, named := url.Values{}, url.Values{}
	for _, parameter := range slices.Concat(item.Parameters, op.Parameters) {
		if p := parameter.Value; p.In == "query" {
			if id := v.queries[p.Name]; id != "" {
				named.Set(p.Name, id)
			} else if strings.HasSuffix(p.Name, "Id") {
				t.Fatalf("%s: give every tenant of this test a %s", route, p.Name)
			}
			if p.Required {
				query.Set(p.Name, fmt.Sprint(v.sample(p.Schema.Value, p.Name)))
			}
		}
	}
	with := func(values url.Values) call {
		one := c
		if len(values) > 0 {
			one.path += "?" + values.Encode()
		}
		text, err := json.Marshal(one.body)
		if err != nil {
			t.Fatal(err)
		}
		one.sent = one.path + " " + string(text)
		if c.onHost {
			one.sent += " " + v.slug
		}
		return one
	}
	calls := []call{with(query)}
	if len(named) > 0 {
		all := maps.Clone(query)
		maps.Copy(all, named)
		calls = append(calls, with(all))
	}
	return calls
}

// bodyOf is the contract's own example of a body, where it has one, or one that its schema allows.
func (v tenant) bodyOf(media *openapi3.MediaType) any {
	for _, name := range slices.Sorted(maps.Keys(media.Examples)) {
		if example, ok := media.Examples[name].Value.Value.(map[string]any); ok {
			body := maps.Clone(example)
			if _, names := body["model"]; names {
				body["model"] = v.agentID
			}
			return body
		}
	}
	return v.sample(media.Schema.Value, "")
}

// sample makes a value that a schema allows; what names an agent names the tenant's.
func (v tenant) sample(schema *openapi3.Schema, name string) any {
	switch {
	case name == "agentId" || name == "model":
		return v.agentID
	case name == "agentIds":
		return []string{v.agentID}
	case len(schema.Enum) > 0:
		return schema.Enum[0]
	case len(schema.AnyOf) > 0:
		return v.sample(schema.AnyOf[0].Value, name)
	case len(schema.OneOf) > 0 && len(schema.Properties) == 0:
		return v.sample(schema.OneOf[0].Value, name)
	case schema.Type.Includes("object"):
		object := map[string]any{}
		required := slices.Clone(schema.Required)
		if len(schema.OneOf) > 0 {
			required = append(required, schema.OneOf[0].Value.Required...)
		}
		for property := range schema.Properties {
			if strings.HasPrefix(property, "agentId") {
				required = append(required, property)
			}
		}
		if len(required) == 0 && schema.MinProps > 0 {
			required = slices.Sorted(maps.Keys(schema.Properties))[:schema.MinProps]
		}
		for _, property := range required {
			object[property] = v.sample(schema.Properties[property].Value, property)
		}
		return object
	case schema.Type.Includes("array"):
		return []any{v.sample(schema.Items.Value, "")}
	}
	if examples, ok := schema.Extensions["examples"].([]any); ok && len(examples) > 0 {
		return examples[0]
	}
	if len(schema.Examples) > 0 {
		return schema.Examples[0]
	}
	switch {
	case schema.Type.Includes("integer"), schema.Type.Includes("number"):
		return 1
	case schema.Type.Includes("boolean"):
		return false
	case schema.Format == "date-time":
		return time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)
	}
	return "hola"
}

// send makes the call as somebody.
func (c call) send(t *testing.T, as *client, slug string) answer {
	t.Helper()
	if c.onHost {
		as = as.onHost(slug)
	}
	ctx, cancel := context.WithTimeout(t.Context(), leastPatience) // a stream has no end of its own
	defer cancel()
	got, err := as.do(ctx, c.method, c.path, c.body)
	if err != nil && got.status == 0 {
		t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	return got
}

// everything is what an account looks like to itself, but for what looking changes.
func (v tenant) everything(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, path := range []string{
		"/api/agents/" + v.agentID, "/api/agents/" + v.agentID + "/versions", "/api/keys", "/api/keys/" + v.ids["keys"],
		"/api/conversations?agentId=" + v.agentID, "/api/conversations/" + v.ids["conversations"] + "/messages?agentId=" + v.agentID,
	} {
		text := v.client.must(http.StatusOK, "GET", path, nil).body
		seen[path] = regexp.MustCompile(`"lastUsedAt":("[^"]*"|null)`).ReplaceAllString(string(text), "")
	}
	return seen
}

// eraseAccount comes behind everything else.
const eraseAccount = "DELETE /api/accounts/{id}"

func TestNobodyReachesAnotherAccountsThings(t *testing.T) {
	t.Parallel()
	_, engines := startEngines(t, t.TempDir())
	key := bootstrap(t, engines)
	node := startNode(t, engines, "api,projector,sweeper")
	root := newClient(t, node.base, key)
	postgres, err := pgx.Connect(t.Context(), variable(t, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = postgres.Close(context.WithoutCancel(t.Context())) }() // the test is over
	victim, stranger := settle(t, root, postgres, "Ajeno"), settle(t, root, postgres, "Propio")

	document, err := openapi3.NewLoader().LoadFromFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type operation struct {
		name  string
		calls []call
	}
	var operations []operation
	for route, item := range document.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Extensions["x-nido-scope"] != "none" {
				operations = append(operations, operation{method + " " + route, victim.aim(t, route, method, item, op)})
			}
		}
	}
	// What changes something comes last, and what ends something at the very end.
	rank := func(o operation) string {
		last := strings.HasSuffix(o.name, "/suspend") || strings.HasSuffix(o.name, "/revoke") || o.name == eraseAccount
		return fmt.Sprint(slices.Index([]string{"GET", "POST", "PATCH", "DELETE"}, o.calls[0].method), last, strings.Contains(o.name, "/agents"), o.name)
	}
	slices.SortFunc(operations, func(a, b operation) int { return strings.Compare(rank(a), rank(b)) })

	before := victim.everything(t)
	aimed := 0
	for _, operation := range operations {
		t.Run("a stranger's "+operation.name, func(t *testing.T) {
			for _, call := range operation.calls {
				got := call.send(t, stranger.client, victim.slug)
				if call.aimed {
					aimed++
					if got.status != http.StatusNotFound && got.status != http.StatusForbidden {
						t.Errorf("%s: status %d: %s", call.path, got.status, got.body)
					}
				}
				if got.status >= http.StatusInternalServerError {
					t.Errorf("%s: status %d: %s", call.path, got.status, got.body)
				}
				for _, secret := range victim.messages {
					if bytes.Contains(got.body, []byte(secret)) && !strings.Contains(call.sent, secret) {
						t.Errorf("%s tells of %q: %s", call.path, secret, got.body)
					}
				}
			}
		})
	}
	if aimed < 20 {
		t.Errorf("only %d calls named another account's things", aimed)
	}
	for path, was := range before {
		if is := victim.everything(t)[path]; is != was {
			t.Errorf("%s was\n%s\nand is\n%s", path, was, is)
		}
	}

	// The same calls reach the same things for whoever may: a wrong id would be refused to a stranger, too.
	for _, operation := range operations {
		t.Run("one's own "+operation.name, func(t *testing.T) {
			call := operation.calls[len(operation.calls)-1]
			as := victim.client
			if call.op.Extensions["x-nido-scope"] == "admin" {
				as = root
			}
			if got := call.send(t, as, victim.slug); call.aimed && (got.status == http.StatusNotFound || got.status == http.StatusForbidden) {
				t.Errorf("%s: status %d: %s", call.path, got.status, got.body)
			}
			if operation.name != eraseAccount { // the very last
				root.must(http.StatusOK, "POST", "/api/accounts/"+victim.id+"/resume", nil) // where it has just been suspended
			}
		})
	}
}
