package e2e

// This file watches nodes as operators do: metrics, traces, log lines and /readyz while applications use the API.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/infra/model/modeltest"
	"github.com/nidohq/nido/infra/telemetry/tracetest"
)

// What must never be seen by those who watch.
const (
	plantedSentence = "El faro de Punta Delgada cierra los martes"
	plantedModelKey = "sk-planted-7c1f0e2b9d"
)

// observatory is an API node and a projector node that tell everything they can.
type observatory struct {
	engines        []string
	api, projector watched
	collector      *tracetest.Collector
	model          *modeltest.Server
	key            string
	root           *client
	agent          agentView
}

func observe(t *testing.T) *observatory {
	o := &observatory{collector: tracetest.Start(t)}
	o.model = modeltest.New(modeltest.Options{Reply: func(asked modeltest.Request) modeltest.Reply {
		switch text := asked.Messages[len(asked.Messages)-1].Text; {
		case strings.Contains(text, "refuse"):
			return modeltest.Failure(http.StatusBadRequest)
		case strings.Contains(text, "slowly"):
			return modeltest.Reply{Tokens: []string{"one ", "two ", "three"}, BetweenTokens: 400 * time.Millisecond}
		}
		return modeltest.Words("you said: " + asked.Messages[len(asked.Messages)-1].Text)
	}})
	t.Cleanup(o.model.Close)
	_, o.engines = startEngines(t, t.TempDir())
	o.key = bootstrap(t, o.engines)
	env := []string{"NIDO_TRACE_ENDPOINT=" + o.collector.URL, "NIDO_MODEL_BASE_URL=" + o.model.OpenAI(), "NIDO_MODEL_API_KEY=" + plantedModelKey}
	o.projector = startWatched(t, o.engines, "projector,sweeper", env...)
	o.api = startWatched(t, o.engines, "api", env...)
	o.root = newClient(t, o.api.base, o.key)
	o.agent = o.root.createAgent("Watched")
	return o
}

func (o *observatory) chatPath() string { return "/api/v2/agent/" + o.agent.ID + "/chat" }

func TestOperatorsSeeWhatNodesDoAndNothingOfWhatIsSaid(t *testing.T) {
	t.Parallel()
	o := observe(t)
	t.Run("every request, command and turn is counted once", o.counts)
	t.Run("a chat is one trace through both processes", o.traces)
	t.Run("a request that fails is found by its id in the log", o.logs)
	t.Run("what clients make up makes no series", o.series)
	t.Run("rules and dashboard read what nodes expose", o.rulesReadWhatIsExposed)
	t.Run("nobody who watches sees a word or a key", o.secrets)
	t.Run("a projector that stops raises its alerts, and a dead one has a lag", o.stops)
}

func (o *observatory) counts(t *testing.T) {
	api, projector := o.api.scrape(t), o.projector.scrape(t)
	var usage struct{ Input, Output int64 }
	for range 3 {
		reply := o.root.chat(o.agent.ID, "conv-1", plantedSentence)
		usage.Input, usage.Output = usage.Input+reply.Usage.InputTokens, usage.Output+reply.Usage.OutputTokens
	}
	body := chatBody("conv-2", "slowly, please")
	body["streaming"] = true
	stream := o.root.open("POST", o.chatPath(), body)
	stream.until("message.delta")
	held := o.api.scrape(t)
	for _, series := range []string{"nido_http_streams", "nido_turns_open", `nido_http_requests_in_flight{operation="chatByID"}`} {
		if held[series] != 1 {
			t.Errorf("while a stream is held %s is %v", series, held[series])
		}
	}
	var whole chatView
	if err := json.Unmarshal([]byte(stream.until("turn.completed").data), &whole); err != nil {
		t.Fatal(err)
	}
	stream.rest()
	usage.Input, usage.Output = usage.Input+whole.Usage.InputTokens, usage.Output+whole.Usage.OutputTokens
	o.root.must(http.StatusBadGateway, "POST", o.chatPath(), chatBody("conv-3", "refuse this"))
	for range 2 { // the second one changes nothing
		o.root.must(http.StatusOK, "PATCH", "/api/agents/"+o.agent.ID, map[string]any{"instructions": "Be brief."})
	}
	o.root.with(o.key[:len(o.key)-1]).must(http.StatusUnauthorized, "GET", "/api/me", nil)
	o.root.must(http.StatusNotFound, "GET", "/nowhere", nil)

	const provider = "env:openai" // as the configuration calls it
	wanted := map[string]float64{
		`nido_http_requests_total{operation="chatByID",status="2xx"}`:                        4,
		`nido_http_requests_total{operation="chatByID",status="5xx"}`:                        1,
		`nido_http_requests_total{operation="configureAgent",status="2xx"}`:                  2,
		`nido_http_requests_total{operation="getMe",status="4xx"}`:                           1,
		`nido_http_requests_total{operation="none",status="4xx"}`:                            1,
		`nido_http_request_duration_seconds_count{operation="chatByID"}`:                     5,
		`nido_http_errors_total{code="upstream_rejected"}`:                                   1,
		`nido_http_errors_total{code="invalid_api_key"}`:                                     1,
		`nido_http_errors_total{code="not_found"}`:                                           1,
		`nido_commands_total{command="conversation.receive",outcome="accepted"}`:             5,
		`nido_commands_total{command="conversation.end",outcome="accepted"}`:                 5,
		`nido_commands_total{command="agent.configure",outcome="accepted"}`:                  1,
		`nido_commands_total{command="agent.configure",outcome="nothing_new"}`:               1,
		`nido_appends_total{outcome="accepted"}`:                                             11,
		`nido_append_duration_seconds_count`:                                                 11,
		`nido_commit_waits_total{outcome="accepted"}`:                                        11,
		`nido_turns_started_total`:                                                           5,
		`nido_turns_ended_total{end="completed"}`:                                            4,
		`nido_turns_ended_total{end="failed"}`:                                               1,
		`nido_turn_first_token_seconds_count`:                                                4,
		`nido_upstream_calls_total{outcome="ok",provider="` + provider + `"}`:                4,
		`nido_upstream_calls_total{outcome="upstream_rejected",provider="` + provider + `"}`: 1,
		`nido_upstream_tokens_total{direction="input",provider="` + provider + `"}`:          float64(usage.Input),
		`nido_upstream_tokens_total{direction="output",provider="` + provider + `"}`:         float64(usage.Output),
		`nido_admissions_total`:                                                              5,
		`nido_request_log_lost_total`:                                                        0,
		`nido_http_streams`:                                                                  0,
		`nido_turns_open`:                                                                    0,
	}
	// The stream's own line is written behind its last byte.
	var after page
	await(t, 10*time.Second, "the last request to be counted", func() bool {
		after = o.api.scrape(t)
		return after[`nido_http_requests_total{operation="chatByID",status="2xx"}`]-api[`nido_http_requests_total{operation="chatByID",status="2xx"}`] == 4
	})
	for series, growth := range wanted {
		if got := after[series] - api[series]; got != growth {
			t.Errorf("%s grew by %v, not by %v", series, got, growth)
		}
	}
	if usage.Output == 0 {
		t.Error("no reply said its usage")
	}
	const folded = `nido_projector_records_total{projector="postgres"}`
	await(t, 20*time.Second, "both projectors to have folded everything", func() bool {
		now := o.projector.scrape(t)
		return now[`nido_projector_lag_records{partition="0",projector="postgres"}`] == 0 &&
			now[`nido_projector_lag_records{partition="0",projector="clickhouse"}`] == 0 && now[folded]-projector[folded] >= 11
	})
	if got := o.projector.scrape(t)[folded] - projector[folded]; got != 11 {
		t.Errorf("the fold counted %v commits, not 11", got)
	}
}

func (o *observatory) traces(t *testing.T) {
	const trace, clients = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
	answer := o.root.must(http.StatusOK, "POST", o.chatPath(), chatBody("conv-traced", plantedSentence), "Traceparent", "00-"+trace+"-"+clients+"-01")
	if says := answer.header.Get("Traceresponse"); !strings.HasPrefix(says, "00-"+trace+"-") || strings.Contains(says, clients) {
		t.Errorf("Traceresponse is %q", says)
	}
	wanted := map[string]int{
		"POST /api/v2/agent/{agentId}/chat": 1, "conversation.receive": 1, "conversation.end": 1, "call the model": 1,
		"append": 2, "await the fold": 2, "fold into postgres": 2, "fold into clickhouse": 2,
	}
	var told []tracetest.Span
	await(t, 20*time.Second, "the whole trace", func() bool {
		told = o.collector.Trace(trace)
		return len(told) >= 12
	})
	names, ids, processes := map[string]int{}, map[string]tracetest.Span{clients: {}}, map[string]bool{}
	for _, one := range told {
		names[one.Name]++
		ids[one.ID] = one
		processes[one.Process] = true
	}
	if !maps.Equal(names, wanted) || len(processes) != 2 {
		t.Errorf("the trace has %v, of %d processes", names, len(processes))
	}
	for _, one := range told {
		parent, known := ids[one.Parent]
		if !known {
			t.Errorf("%s hangs in the air", one.Name)
		}
		if strings.HasPrefix(one.Name, "fold into") && (parent.Name != "append" || parent.Process == one.Process) {
			t.Errorf("%s is below %s, of the same process: %v", one.Name, parent.Name, parent.Process == one.Process)
		}
	}
}

func (o *observatory) logs(t *testing.T) {
	const trace = "7b8efff798038103d269b633813fc60c"
	answer := o.root.must(http.StatusBadGateway, "POST", o.chatPath(), chatBody("conv-4", "refuse this, too"), "Traceparent", "00-"+trace+"-eee19b7ec3c1b174-01")
	await(t, 5*time.Second, "a line of the log with the request "+answer.header.Get("X-Request-Id"), func() bool {
		text, err := os.ReadFile(o.api.log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var said map[string]any
			if err := json.Unmarshal([]byte(line), &said); err != nil && strings.HasSuffix(line, "\n") { // else it is being written
				t.Fatalf("a line is not JSON: %s", line)
			}
			if said["request_id"] == answer.header.Get("X-Request-Id") {
				if said["msg"] != "request failed" || said["code"] != "upstream_rejected" || said["trace_id"] != trace || said["level"] != "ERROR" {
					t.Errorf("the line is %s", line)
				}
				return true
			}
		}
		return false
	})
}

// series counts them before and after a flood of things that clients may make up.
func (o *observatory) series(t *testing.T) {
	flood := func(round int) {
		inParallel(8, 100, func(i int) {
			made := fmt.Sprintf("made-up-%d-%d", round, i)
			for _, call := range [][2]string{
				{"GET", "/" + made}, {"GET", "/api/agents/" + made}, {"POST", "/api/v2/agent/" + made + "/chat"}, {"BREW" + fmt.Sprint(i), "/api/agents"},
				{"GET", "/api/conversations/" + made + "/messages?agentId=" + made},
			} {
				var body any
				if call[0] == "POST" {
					body = map[string]any{"query": made, "conversationId": made}
				}
				if _, err := o.root.onHost(made).do(t.Context(), call[0], call[1], body); err != nil {
					t.Error(err)
				}
				if _, err := o.root.do(t.Context(), call[0], call[1], body, "X-Request-Id", made); err != nil {
					t.Error(err)
				}
			}
		})
	}
	flood(1)
	before := o.api.scrape(t)
	flood(2)
	after := o.api.scrape(t)
	for series := range after {
		if _, known := before[series]; !known && strings.HasPrefix(series, "nido_") {
			t.Errorf("a new series: %s", series)
		}
		if strings.Contains(series, "made-up") || strings.Contains(series, o.agent.ID) || strings.Contains(series, "BREW") {
			t.Errorf("a client's word is in %s", series)
		}
	}
	t.Logf("%d series on the API node", len(after))
}

func (o *observatory) rulesReadWhatIsExposed(t *testing.T) {
	metrics, known := map[string]bool{"up": true}, map[string]bool{"instance": true, "job": true}
	for _, of := range []watched{o.api, o.projector} {
		for series := range of.scrape(t) {
			metrics[name(series)] = true
			for label := range labels(series) {
				known[label] = true
			}
		}
	}
	// What only appears once something has gone wrong in a way that this test does not cause.
	metrics["nido_command_conflicts_total"], metrics["nido_projector_failures_total"] = true, true
	alerts, recorded := rules(t)
	expressions := dashboardQueries(t)
	for _, rule := range recorded {
		metrics[rule.Record] = true
	}
	for _, rule := range slices.Concat(alerts, recorded) {
		expressions = append(expressions, rule.Expr)
	}
	for _, expression := range expressions {
		needs, by := reads(expression)
		if len(needs) == 0 {
			t.Errorf("nothing is read by %s", expression)
		}
		for _, metric := range needs {
			if !metrics[metric] {
				t.Errorf("no node exposes %s, which is read by %s", metric, expression)
			}
		}
		for _, label := range by {
			if !known[label] {
				t.Errorf("nothing has the label %s, which is read by %s", label, expression)
			}
		}
	}
	t.Logf("%d expressions", len(expressions))
}

func (o *observatory) secrets(t *testing.T) {
	words := []string{plantedSentence, plantedModelKey, o.key, o.key[len("ha_live_")+8:], variable(t, o.engines, "NIDO_MASTER_KEY")}
	look := func(where string, text []byte) {
		for i, word := range words {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("%s holds secret number %d", where, i)
			}
		}
	}
	for where, of := range map[string]watched{"api": o.api, "projector": o.projector} {
		look("the metrics of "+where, []byte(fmt.Sprint(of.scrape(t))))
		text, err := os.ReadFile(of.log)
		if err != nil {
			t.Fatal(err)
		}
		look("the log of "+where, text)
	}
	traces := o.collector.Everything()
	if len(traces) < 1000 {
		t.Errorf("%d bytes of traces", len(traces))
	}
	look("the collector", traces)
	if bytes.Contains(traces, []byte("conv-traced")) {
		t.Error("the collector holds what a client chose to call a conversation")
	}
}

func (o *observatory) stops(t *testing.T) {
	alerts, _ := rules(t)
	named := func(which string) alert {
		for _, rule := range alerts {
			if rule.Alert == which {
				return rule
			}
		}
		t.Fatalf("there is no alert %s", which)
		return alert{}
	}
	stopped, behind := named("NidoProjectorStopped"), named("NidoFoldBehind")
	if quiet := o.projector.scrape(t); len(holds(t, stopped, quiet)) != 0 || len(holds(t, behind, quiet)) != 0 {
		t.Fatalf("an alert is raised though nothing is wrong: %v %v", holds(t, stopped, quiet), holds(t, behind, quiet))
	}
	foreign, err := kgo.NewClient(kgo.SeedBrokers(variable(t, o.engines, "NIDO_KAFKA_BROKERS")))
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: "nido.events", Key: []byte("x"), Value: []byte("not a commit")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "the alert on a stopped projector", func() bool {
		return slices.ContainsFunc(holds(t, stopped, o.projector.scrape(t)), func(labels map[string]string) bool {
			return labels["projector"] == "postgres" && labels["partition"] == "0"
		})
	})
	// The API node has no projector: it sees the lag from outside, and so it goes on seeing it when the projector is dead.
	const lag = `nido_projector_lag_seconds{partition="0",projector="postgres"}`
	var first page
	await(t, 20*time.Second, "a lag in seconds", func() bool { // from the first look on, where the record could not be read at once
		first = o.api.scrape(t)
		return first[lag] > 0
	})
	o.projector.stop(syscall.SIGTERM, 40*time.Second)
	await(t, 20*time.Second, "the alert on a fold that is behind", func() bool { return len(holds(t, behind, o.api.scrape(t))) == 1 })
	second := o.api.scrape(t)
	if first[lag] <= 0 || second[lag] <= first[lag] || second[`nido_projector_lag_records{partition="0",projector="postgres"}`] != 1 {
		t.Errorf("the lag was %v and is %v, of %v records", first[lag], second[lag], second[`nido_projector_lag_records{partition="0",projector="postgres"}`])
	}
	var ready struct {
		Status     string
		Projectors map[string]struct {
			LagEvents  int64
			LagSeconds float64
		}
	}
	o.root.must(http.StatusServiceUnavailable, "GET", "/readyz", nil).into(t, &ready)
	if fold := ready.Projectors["postgres"]; ready.Status != "unavailable" || fold.LagEvents != 1 || fold.LagSeconds < second[lag] {
		t.Errorf("/readyz says %+v", ready)
	}
}
