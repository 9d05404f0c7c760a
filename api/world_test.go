package api

// The parts behind the API as the tests have them: only what a store or a command would answer. The real ones are
// tested by the end-to-end suite, against real engines.

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/projections"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// world stands behind an API under test.
type world struct {
	t          *testing.T
	server     *Server
	ops        map[string]*operation
	logged     *bytes.Buffer // what the logger wrote
	mu         sync.Mutex
	lookups    int // of keys
	callers    map[string]projections.Caller
	agents     map[string]projections.Agent
	issued     []commands.IssueKey
	rotated    []commands.RotateKey
	described  []string
	used       []string // public ids of keys
	created    []commands.Meta
	records    []projections.Request
	turns      []commands.Turn
	metas      []commands.Meta
	send       func(ctx context.Context, turn commands.Turn) (commands.Reply, error)
	begun      chan *commands.Live // takes turns that the test ends itself; nil ends them at once
	counted    []quota.Request
	verdict    func(quota.Request) quota.Verdict
	watched    []commands.DayCount
	deprecated map[string]int64 // uses by key and item
	found      map[string]projections.Turn
	pieces     map[string][]commands.TurnPiece
	places     freePlaces
	line       *commands.Line
	fail       error // what every command answers
	kept       map[string]*keptAnswer
	panics     bool
	ready      bool
	// unsettled counts the answers under Idempotency-Keys that the store does not take before it does.
	unsettled int
	erased    []domain.StreamID
	plans     []account.ChangePlan
	lost      bool          // the store takes a request under an Idempotency-Key, and does not say so
	lostFor   time.Duration // the same, and the row is there only then
	silent    bool          // the store does not answer who looks for a turn
	committed domain.Version
	blanks    map[string][]commands.Blank // conversations that lie ready, by their doors
	doors     []string                    // through which conversations began, and to whom
}

type keptAnswer struct {
	fingerprint []byte
	inputs      commands.Inputs
	run         [32]byte // what the run that has it proposed
	answer      *Recorded
	inFlight    bool
}

// ourContract is read once: there are hundreds of worlds.
var ourContract = sync.OnceValues(func() (contract, error) { return readContract(document) })

func newWorld(t *testing.T) *world {
	ours, err := ourContract()
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOf(t, ours)
}

// newWorldOf is a world with a contract of its own.
func newWorldOf(t *testing.T, contract contract) *world {
	w := &world{
		t: t, logged: &bytes.Buffer{}, callers: map[string]projections.Caller{}, agents: map[string]projections.Agent{},
		kept: map[string]*keptAnswer{}, found: map[string]projections.Turn{}, pieces: map[string][]commands.TurnPiece{}, ready: true, deprecated: map[string]int64{}, blanks: map[string][]commands.Blank{},
	}
	w.send = func(_ context.Context, turn commands.Turn) (commands.Reply, error) {
		return commands.Reply{MessageID: "msg_1", ConversationID: turn.Conversation, Text: "hello back", Model: "echo", CreatedAt: noon, DataKey: plainKey("dk_1")}, nil
	}
	w.verdict = func(request quota.Request) quota.Verdict {
		verdict := quota.Verdict{Admitted: true}
		for _, rule := range request.Rules {
			verdict.Standings = append(verdict.Standings, quota.Standing{Rule: rule, Remaining: rule.Limit - 1, Reset: 61 * time.Second})
		}
		return verdict
	}
	w.line = commands.NewLine(commands.LineConfig{Places: &w.places, OpenTurns: &w.places, Logger: slog.New(slog.DiscardHandler)})
	server, err := newServer(Config{
		PublicURL: "http://nido.test:8080", BaseDomain: "nido.test", Clock: func() time.Time { return noon },
		Logger:          slog.New(slog.NewJSONHandler(w.logged, nil)),
		AccountCommands: accountsOf{w}, AgentCommands: agentsOf{w}, KeyCommands: keysOf{w}, ConversationCommands: conversationsOf{w}, Turns: turnsOf{w}, Blanks: blanksOf{w},
		Callers: w, Accounts: accountsOf{w}, Agents: agentsOf{w}, Keys: keysOf{w}, Chats: w, Conversations: conversationsOf{w}, Erasures: erasuresOf{w}, TurnQueries: w, TurnTexts: w,
		Logs: logsOf{w}, Stats: statsOf{w}, Keyring: plainRing{}, Limiter: limiterOf{w}, Watch: limiterOf{w}, KeyUses: w, Idempotency: w, RequestLog: w, Health: w, Deprecations: deprecationsOf{w},
	}, contract)
	if err != nil {
		t.Fatal(err)
	}
	w.server, w.ops = server, contract.operations
	w.found["turn_1"] = projections.Turn{
		Stream: "conversation-agt_1.mac", Agent: "agt_1", ConversationID: domain.Sealed{Key: "dk_1", Data: []byte("conv-123")},
		End: &projections.Message{
			ID: "msg_2", Turn: "turn_1", Role: projections.RoleAssistant, Outcome: projections.Completed, Model: "echo", At: noon,
			Text: domain.Sealed{Key: "dk_1", Data: []byte("¡Hola, Ana!")},
		},
	}
	w.agents["agt_1"] = projections.Agent{
		ID: "agt_1", Account: "acc_1", Slug: "ventas", Status: agent.Active, Version: 1,
		Settings: agent.Settings{Name: "Ventas", Model: "echo"}, CreatedAt: noon, ChangedAt: noon,
	}
	return w
}

// key issues a key with scopes and lets a test change it.
func (w *world) key(scopes []apikey.Scope, change ...func(*projections.Caller)) string {
	inputs := commands.NewInputs(noon)
	key, err := apikey.Compose("live", append(inputs.Bytes("1"), inputs.Bytes("2")...))
	if err != nil {
		w.t.Fatal(err)
	}
	caller := projections.Caller{PublicID: key.PublicID, Hash: key.Hash(), Scopes: scopes, Account: "acc_1", Plan: account.Pro}
	for _, c := range change {
		c(&caller)
	}
	w.callers[key.PublicID] = caller
	return key.Reveal()
}

// request is one call and what it must look like on the wire.
type request struct {
	method, path, body, key string
	host                    string
	header                  map[string]string
	chunked                 bool
}

// do sends a request through the whole chain, and holds the answer against openapi.yaml.
func (w *world) do(in request) *httptest.ResponseRecorder {
	w.t.Helper()
	var body io.Reader = http.NoBody
	if in.body != "" {
		body = strings.NewReader(in.body)
	}
	if in.chunked {
		body = struct{ io.Reader }{body}
	}
	r := httptest.NewRequest(in.method, in.path, body)
	r.Host = in.host
	if r.Host == "" {
		r.Host = "nido.test:8080"
	}
	if in.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if in.key != "" {
		r.Header.Set("Authorization", "Bearer "+in.key)
	}
	for name, value := range in.header {
		r.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	w.server.ServeHTTP(recorder, r)
	w.conforms(r, recorder)
	return recorder
}

// conforms checks status, headers and body of an answer against the document.
func (w *world) conforms(r *http.Request, answer *httptest.ResponseRecorder) {
	w.t.Helper()
	if !strings.HasPrefix(answer.Header().Get("X-Request-Id"), "req_") {
		w.t.Errorf("%s %s: no X-Request-Id", r.Method, r.URL)
	}
	if answer.Code >= 400 && answer.Code != 503 || answer.Code == 503 && r.URL.Path != "/readyz" {
		w.isEnvelope(r, answer)
	}
	op := w.operationOf(r)
	if op == nil {
		return
	}
	response := op.spec.Responses.Status(answer.Code)
	if response == nil {
		w.t.Errorf("%s %s: status %d is not documented", r.Method, r.URL, answer.Code)
		return
	}
	documented := map[string]bool{}
	for name := range response.Value.Headers {
		documented[http.CanonicalHeaderKey(name)] = true
	}
	for name := range answer.Header() {
		if ownHeader(name) && !documented[name] {
			w.t.Errorf("%s %s: the header %s of %d is not documented", r.Method, r.URL, name, answer.Code)
		}
	}
	media := response.Value.Content.Get(answer.Header().Get("Content-Type"))
	if answer.Code == http.StatusNoContent || answer.Code == http.StatusNotModified || r.Method == http.MethodHead {
		return
	}
	if media == nil {
		w.t.Errorf("%s %s: %d answers %q, which is not documented", r.Method, r.URL, answer.Code, answer.Header().Get("Content-Type"))
		return
	}
	var value any
	if media.Schema.Value.Type.Is("string") {
		value = answer.Body.String()
	} else if err := json.Unmarshal(answer.Body.Bytes(), &value); err != nil {
		w.t.Errorf("%s %s: %v in %s", r.Method, r.URL, err, answer.Body)
		return
	}
	if err := media.Schema.Value.VisitJSON(value, openapi3.VisitAsResponse(), openapi3.EnableFormatValidation()); err != nil {
		w.t.Errorf("%s %s: the answer breaks the contract: %v", r.Method, r.URL, err)
	}
}

// ownHeader reports whether a header is ours to document. What every answer may have is said once, at the document's beginning.
func ownHeader(name string) bool {
	switch name {
	case "X-Request-Id", "X-Content-Type-Options", "X-Accel-Buffering", "Content-Type", "Content-Length", "Cache-Control", "Vary", "Deprecation", "Sunset", "Connection":
		return false
	case "Link":
		return false // of a deprecation, or of a page
	}
	return !strings.HasPrefix(name, "Access-Control-")
}

func (w *world) operationOf(r *http.Request) *operation {
	for _, op := range w.ops {
		if op.method != r.Method {
			continue
		}
		pattern, path := strings.Split(op.route, "/"), strings.Split(r.URL.Path, "/")
		matches := len(pattern) == len(path)
		for i := 0; matches && i < len(path); i++ {
			matches = pattern[i] == path[i] || strings.HasPrefix(pattern[i], "{")
		}
		if matches {
			return op
		}
	}
	return nil
}

func (w *world) isEnvelope(r *http.Request, answer *httptest.ResponseRecorder) {
	w.t.Helper()
	if strings.HasPrefix(answer.Header().Get("Content-Type"), "application/problem+json") {
		return
	}
	var envelope ErrorEnvelope
	if err := json.Unmarshal(answer.Body.Bytes(), &envelope); err != nil {
		w.t.Errorf("%s %s: %d without the envelope: %s", r.Method, r.URL, answer.Code, answer.Body)
		return
	}
	entry, known := entries[envelope.Error.Code]
	own := envelope.Error.RequestID == answer.Header().Get("X-Request-Id") || answer.Header().Get("Idempotent-Replayed") == "true"
	if !known || entry.Status != answer.Code || !own || envelope.Error.Message == "" {
		w.t.Errorf("%s %s: %d with the envelope %+v", r.Method, r.URL, answer.Code, envelope.Error)
	}
}

// refused is the envelope of a refusal.
func (w *world) refused(answer *httptest.ResponseRecorder, status int, code string) ErrorBody {
	w.t.Helper()
	var envelope ErrorEnvelope
	if err := json.Unmarshal(answer.Body.Bytes(), &envelope); err != nil || answer.Code != status || envelope.Error.Code != code {
		w.t.Fatalf("got %d %s, want %d %s", answer.Code, answer.Body, status, code)
	}
	return envelope.Error
}
