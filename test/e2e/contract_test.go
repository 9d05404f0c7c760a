package e2e

// This file asks a node whatever api/openapi.yaml allows, and much that it does not, and holds every answer against the
// document. The operations come from the document, so that a new route cannot be forgotten; the ids come from earlier
// answers, so that requests find something.
//
// A failure names the seed with which rapid asks the same again. -contract.for asks for longer.

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"

	"github.com/nidohq/nido/infra/model/modeltest"
)

var contractFor = flag.Duration("contract.for", 0, "how long the contract is fuzzed; by default each operation gets its checks once, for 40 s in all")

// contractLimit bounds the fuzzing where no other time is asked for.
const contractLimit = 40 * time.Second

// leastTries is what each operation gets on a machine that is too slow for all its checks in that time, and more where it
// has not yet done what it is for.
const leastTries = 30

// operation is one method of one route of the document.
type operation struct {
	method, route string
	item          *openapi3.PathItem
	spec          *openapi3.Operation
}

func (o operation) String() string { return o.method + " " + o.route }

func (o operation) parameters() openapi3.Parameters {
	return slices.Concat(o.item.Parameters, o.spec.Parameters)
}

// isOpenAI reports whether the route passes over fields that it does not know.
func (o operation) isOpenAI() bool { return o.spec.Extensions["x-nido-openai"] == true }

func (o operation) body() *openapi3.Schema {
	if o.spec.RequestBody == nil {
		return nil
	}
	return o.spec.RequestBody.Value.Content["application/json"].Schema.Value
}

// contract is a node under its document, and what is known to be there.
type contract struct {
	document   *openapi3.T
	operations []operation
	root       *client
	slug       string // of the agent whose host is asked
	catalogue  string // of errors, as the node tells it

	mu     sync.Mutex
	things map[string][]string    // ids, by the segment of the path that stands before them
	agents map[string]string      // of conversations
	pages  map[string]string      // the latest cursor of each list
	spared map[string]bool        // ids that nothing may change: the fuzzing would be over
	agent  string                 // the one whose host is asked
	keys   atomic.Int64           // Idempotency-Keys so far
	count  map[string]map[int]int // answers by operation and status
	late   atomic.Int64           // requests that had to be repeated
}

func TestTheWholeContractFuzzed(t *testing.T) {
	t.Parallel()
	c := startContract(t)
	limit := contractLimit
	if *contractFor > 0 {
		limit = *contractFor
	}
	deadline := time.Now().Add(limit)
	var failed sync.Map
	for round := 0; round == 0 || *contractFor > 0 && time.Now().Before(deadline); round++ {
		inParallel(4, len(c.operations), func(i int) {
			op := c.operations[i]
			if _, before := failed.Load(op.String()); before {
				return
			}
			if !t.Run(op.String(), func(t *testing.T) {
				tried := 0
				rapid.Check(t, func(rt *rapid.T) {
					if tried++; tried > leastTries && time.Now().After(deadline) && c.done(op) > 0 {
						return
					}
					c.try(rt, op)
				})
			}) {
				failed.Store(op.String(), true)
			}
		})
	}
	c.checkCoverage(t)
	c.checkRequestLog(t)
}

// try makes one request and judges its answer.
func (c *contract) try(rt *rapid.T, op operation) {
	in := c.draw(rt, op)
	got, err := c.send(in)
	// A busy machine may let a store's patience run out. What is refused again and again is the request's fault.
	for tries := 1; err == nil && tries <= 5 && (got.status == http.StatusServiceUnavailable || got.status == http.StatusGatewayTimeout); tries++ {
		c.late.Add(1)
		<-time.After(time.Duration(tries) * 100 * time.Millisecond)
		got, err = c.send(in)
	}
	if err != nil {
		rt.Fatalf("%v\nwas answered with %v", in, err)
	}
	if fault := c.judge(in, got); fault != "" {
		rt.Fatalf("%v\nwas answered with %d %v\n%s\n%s", in, got.status, got.header, cut(string(got.body)), fault)
	}
	c.learn(in, got)
}

// request is one call as it goes out.
type request struct {
	op     operation
	method string
	host   string // the slug of an agent's host, empty for the management API
	path   string // with its query
	header http.Header
	body   []byte
	fault  string // what is wrong with it; empty where the document allows it
	wrong  bool   // whether it must be refused
}

func (r request) String() string {
	kind := "a request that the document allows"
	if r.fault != "" {
		kind = "a request with a fault: " + r.fault
	}
	return fmt.Sprintf("%s\n%s %s (host %q)\n%v\n%s", kind, r.method, cut(r.path), r.host, without(r.header, "Authorization"), cut(string(r.body)))
}

func without(header http.Header, name string) http.Header {
	header = header.Clone()
	header.Del(name)
	return header
}

func cut(text string) string {
	const most = 2000
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes)", text[:most], len(text))
}

func (c *contract) send(in request) (answer, error) {
	base := c.root.base
	if in.host != "" {
		base = c.root.onHost(in.host).base
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, in.method, base, bytes.NewReader(in.body))
	if err != nil {
		return answer{}, err
	}
	path, query, _ := strings.Cut(in.path, "?")
	r.URL.Opaque = path // as it is written, escapes and dots included
	r.URL.RawQuery = query
	r.Header = in.header.Clone()
	if r.Header.Get("Authorization") == "" && in.header["Authorization"] == nil {
		r.Header.Set("Authorization", "Bearer "+c.root.key)
	}
	response, err := c.root.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: body}, err
}

func startContract(t *testing.T) *contract {
	t.Helper()
	model := modeltest.New(modeltest.Options{Reply: func(asked modeltest.Request) modeltest.Reply {
		if len(asked.Messages) > 0 && strings.HasPrefix(asked.Messages[len(asked.Messages)-1].Text, "break") {
			return modeltest.Reply{Tokens: []string{"a ", "b ", "c "}, ErrorAfter: 2}
		}
		return modeltest.Words("¡Hola, señor Núñez! \"¿Qué tal?\" 👋🏽")
	}})
	t.Cleanup(model.Close)
	dir := t.TempDir()
	node := startDev(t, dir, "NIDO_MODEL_BASE_URL="+model.OpenAI(), "NIDO_TURN_TIMEOUT=10s")
	document, err := openapi3.NewLoader().LoadFromFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{
		document: document, root: newClient(t, node.base, rootKey(t, dir)), things: map[string][]string{}, agents: map[string]string{},
		pages: map[string]string{}, spared: map[string]bool{}, count: map[string]map[int]int{},
	}
	for _, route := range slices.Sorted(maps.Keys(document.Paths.Map())) {
		item := document.Paths.Value(route)
		for _, method := range slices.Sorted(maps.Keys(item.Operations())) {
			c.operations = append(c.operations, operation{method, route, item, item.Operations()[method]})
		}
	}
	slices.SortStableFunc(c.operations, func(a, b operation) int { return rank(a) - rank(b) })
	c.catalogue = string(c.root.must(http.StatusOK, "GET", "/errors", nil).body)
	c.settle(t)
	return c
}

// rank puts first what makes things, and last what ends them.
func rank(op operation) int {
	switch {
	case op.method == http.MethodPost && !strings.Contains(op.route, "{"):
		return 0
	case op.method == http.MethodDelete:
		return 2
	}
	return 1
}

// settle makes one of everything, and remembers what must not be ended.
func (c *contract) settle(t *testing.T) {
	t.Helper()
	var me struct{ Key, Account struct{ ID string } }
	c.root.must(http.StatusOK, "GET", "/api/me", nil).into(t, &me)
	agent := c.root.createAgent("Siempre")
	c.slug, c.agent = agent.Slug, agent.ID
	for _, id := range []string{me.Key.ID, me.Account.ID, agent.ID} {
		c.spared[id] = true
	}
	c.things["slugs"] = []string{agent.Slug, agent.ID}
	limited := c.root.createAgent("Limitado")
	c.root.must(http.StatusOK, "PATCH", "/api/agents/"+limited.ID, map[string]any{"rateLimit": map[string]int{"perMinute": 3}})
	c.things["agents"] = []string{limited.ID, c.root.createAgent("Otro").ID}
	c.things["keys"] = []string{c.root.issueKey("chat").ID}
	account, _ := c.root.customer("free")
	c.things["accounts"] = []string{account}
	for i := range 3 {
		conversation := fmt.Sprintf("conv-%d", i)
		told := c.root.open("POST", "/api/v2/agent/"+agent.ID+"/chat", map[string]any{"query": "hola", "conversationId": conversation, "streaming": true}).rest()
		c.things["turns"] = append(c.things["turns"], turnOf(told[0]))
		c.things["conversations"] = append(c.things["conversations"], conversation)
		c.agents[conversation] = agent.ID
	}
	c.root.chat(agent.ID, "conv-borrada", "hola")
	c.things["erasures"] = []string{c.root.erase("/api/conversations/conv-borrada?agentId=" + agent.ID).ID}
}

// done is how often an operation has done what it is for.
func (c *contract) done(op operation) (times int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for status, count := range c.count[op.String()] {
		if status < 300 {
			times += count
		}
	}
	return times
}

// checkCoverage wants every operation to have been asked, and to have done what it is for.
func (c *contract) checkCoverage(t *testing.T) {
	t.Helper()
	total, statuses := 0, map[int]int{}
	for _, op := range c.operations {
		for status, count := range c.count[op.String()] {
			total += count
			statuses[status] += count
		}
		if c.done(op) == 0 {
			t.Errorf("%v has never done what it is for: %v", op, c.count[op.String()])
		}
	}
	t.Logf("%d requests to %d operations, %d of them repeated; answers by status: %v", total, len(c.operations), c.late.Load(), statuses)
}

// checkRequestLog wants even the oddest requests to be in the request log, and to be told as the document says.
func (c *contract) checkRequestLog(t *testing.T) {
	t.Helper()
	op := c.operations[slices.IndexFunc(c.operations, func(op operation) bool { return op.spec.OperationID == "getLog" })]
	for _, id := range slices.Clone(c.things["logs"]) {
		in := request{op: op, method: http.MethodGet, path: "/api/logs/" + id, header: http.Header{}}
		await(t, 30*time.Second, "request "+id+" in the request log", func() bool {
			got, err := c.send(in)
			if err != nil || got.status != http.StatusOK {
				return false
			}
			if fault := c.judge(in, got); fault != "" {
				t.Errorf("%v\n%s\n%s", in, got.body, fault)
			}
			return true
		})
	}
}
