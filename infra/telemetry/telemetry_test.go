package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/admission"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/model"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/telemetry/tracetest"
)

// Whoever is watched says what they want to be told; this is who listens to all of them.
var (
	_ commands.Observer     = (*Metrics)(nil)
	_ commands.TurnObserver = (*Metrics)(nil)
	_ kafka.Observer        = (*Metrics)(nil)
	_ model.Observer        = (*Metrics)(nil)
	_ admission.Observer    = (*Metrics)(nil)
)

// ask is what the operators' listener answers.
func ask(t testing.TB, m *Metrics, path string) (int, string) {
	t.Helper()
	answer := httptest.NewRecorder()
	m.OperatorServer().Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

func TestMetricsCountWhatTheyAreTold(t *testing.T) {
	m := NewMetrics()
	m.RequestBegan("chatByID")
	m.RequestBegan("chatByID")
	m.RequestEnded("chatByID", 200, "", 30*time.Millisecond, 17, 400)
	m.RequestEnded("", 404, "not_found", time.Millisecond, 0, 90)
	m.StreamHeld(1)
	m.Commanded("agent.configure", commands.OutcomeAccepted, 2, 4*time.Millisecond)
	m.Appended(commands.OutcomeAccepted, time.Millisecond)
	m.Awaited(commands.OutcomeLost, time.Millisecond)
	m.TurnStarted()
	m.TurnEnded(commands.EndCompleted)
	m.Replied(100*time.Millisecond, 2*time.Second)
	m.CallBegan("api.example.com")
	m.CallQueued("api.example.com", 20*time.Millisecond)
	m.MessageWaited("free", 3*time.Second)
	m.Providers(func() []model.Standing {
		return []model.Standing{{Provider: "api.example.com", Breaker: "half-open", Waiting: 3}}
	})
	m.CallEnded("api.example.com", "upstream_timeout", 0, time.Second, 0, 0)
	m.CallBegan("api.example.com")
	m.CallEnded("api.example.com", "ok", time.Second, 2*time.Second, 12, 34)
	m.Admitted()
	m.Refused("agent-day")
	m.Applied("postgres", 5, time.Millisecond)
	m.NotApplied("clickhouse")
	m.Build("v1.2.3", "api")
	m.Standing(func(context.Context) Standing {
		return Standing{Ready: true, Engines: map[string]bool{"kafka": true, "clickhouse": false}, Lags: []Lag{{"clickhouse", 3, 7, 90 * time.Second}}}
	})
	m.Erasures(func(context.Context) (postgres.Backlog, error) {
		return postgres.Backlog{Open: 2, Oldest: 90 * time.Second}, nil
	})
	status, page := ask(t, m, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, page)
	}
	for _, want := range []string{
		`nido_http_requests_in_flight{operation="chatByID"} 1`,
		`nido_http_requests_total{operation="chatByID",status="2xx"} 1`,
		`nido_http_requests_total{operation="none",status="4xx"} 1`,
		`nido_http_errors_total{code="not_found"} 1`,
		`nido_http_request_bytes_total{operation="chatByID"} 17`,
		`nido_http_response_bytes_total{operation="chatByID"} 400`,
		`nido_http_request_duration_seconds_bucket{operation="chatByID",le="0.025"} 0`,
		`nido_http_request_duration_seconds_bucket{operation="chatByID",le="0.05"} 1`,
		`nido_http_streams 1`,
		`nido_commands_total{command="agent.configure",outcome="accepted"} 1`,
		`nido_command_conflicts_total{command="agent.configure"} 2`,
		`nido_appends_total{outcome="accepted"} 1`,
		`nido_appends_total{outcome="unknown"} 0`,
		`nido_commit_waits_total{outcome="lost"} 1`,
		`nido_turns_started_total 1`,
		`nido_turns_ended_total{end="completed"} 1`,
		`nido_turns_ended_total{end="interrupted"} 0`,
		`nido_turn_first_token_seconds_sum 0.1`,
		`nido_upstream_calls_in_flight{provider="api.example.com"} 0`,
		`nido_upstream_breaker_state{provider="api.example.com",state="half-open"} 1`,
		`nido_upstream_breaker_state{provider="api.example.com",state="open"} 0`,
		`nido_upstream_calls_waiting{provider="api.example.com"} 3`,
		`nido_upstream_queue_seconds_count{provider="api.example.com"} 1`,
		`nido_turn_waits_total{outcome="free"} 1`,
		`nido_turn_wait_seconds_sum 3`,
		`nido_upstream_calls_total{outcome="upstream_timeout",provider="api.example.com"} 1`,
		`nido_upstream_first_token_seconds_count{provider="api.example.com"} 1`,
		`nido_upstream_tokens_total{direction="output",provider="api.example.com"} 34`,
		`nido_admissions_total 1`,
		`nido_admission_refusals_total{counter="agent-day"} 1`,
		`nido_projector_records_total{projector="postgres"} 5`,
		`nido_projector_failures_total{projector="clickhouse"} 1`,
		`nido_build_info{roles="api",version="v1.2.3"} 1`,
		`nido_engine_up{engine="clickhouse"} 0`,
		`nido_erasures_open 2`,
		`nido_erasures_oldest_seconds 90`,
		`nido_ready 1`,
		`nido_projector_lag_records{partition="3",projector="clickhouse"} 7`,
		`nido_projector_lag_seconds{partition="3",projector="clickhouse"} 90`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("there is no %s", want)
		}
	}
}

func TestTheOperatorsListenerHasHealthAndProfilesButNoCommandLine(t *testing.T) {
	m := NewMetrics()
	for path, want := range map[string]int{
		"/healthz": 200, "/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 403, "/api/agents": 404,
	} {
		if status, said := ask(t, m, path); status != want {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
}

// startTraces traces into a collector of the test.
func startTraces(t *testing.T, ratio float64) (*Traces, *tracetest.Collector) {
	t.Helper()
	collector := tracetest.Start(t)
	traces, err := NewTraces(t.Context(), TraceConfig{Endpoint: collector.URL, Ratio: ratio, Instance: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return traces, collector
}

func TestLogLinesCarryTheirRequestAndTrace(t *testing.T) {
	var lines bytes.Buffer
	type requestKey struct{}
	logger := NewLogger(&lines, LogConfig{JSON: true, RequestID: func(ctx context.Context) string {
		id, _ := ctx.Value(requestKey{}).(string)
		return id
	}})
	traces, collector := startTraces(t, 1)
	ctx, span := traces.Tracer("test").Start(context.WithValue(t.Context(), requestKey{}, "req_1"), "a request")
	logger.With("node", "a").WarnContext(ctx, "slow", "took", 1500*time.Millisecond)
	span.End()
	logger.InfoContext(t.Context(), "started")
	decoder := json.NewDecoder(&lines)
	var slow, started map[string]any
	if err := errors.Join(decoder.Decode(&slow), decoder.Decode(&started)); err != nil {
		t.Fatal(err)
	}
	if slow["request_id"] != "req_1" || slow["trace_id"] != span.SpanContext().TraceID().String() || slow["node"] != "a" || slow["took"] != "1.5s" {
		t.Errorf("the line is %v", slow)
	}
	if _, there := started["request_id"]; there || started["trace_id"] != nil {
		t.Errorf("a line of no request is %v", started)
	}
	if err := traces.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spans := collector.Spans(); len(spans) != 1 || spans[0].Name != "a request" || spans[0].Process != "test" {
		t.Errorf("the collector has %v", spans)
	}
}

func TestWhatIsNotSampledIsNotSent(t *testing.T) {
	traces, collector := startTraces(t, 0)
	_, span := traces.Tracer("test").Start(t.Context(), "a request")
	span.End()
	if err := traces.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spans := collector.Spans(); span.IsRecording() || len(spans) != 0 {
		t.Errorf("the collector has %v", spans)
	}
}

func TestTraceSettingsThatCannotBeMeantAreRefused(t *testing.T) {
	for _, config := range []TraceConfig{{Endpoint: "collector:4318"}, {Endpoint: "ftp://collector"}, {Ratio: 1.5}, {Ratio: -1}} {
		if _, err := NewTraces(t.Context(), config); err == nil {
			t.Errorf("%+v was taken", config)
		}
	}
}

// BenchmarkChat is everything that one chat is counted as: the request, two commands with their appends and waits, the
// admission, the turn and the call of the model.
func BenchmarkChat(b *testing.B) {
	m := NewMetrics()
	b.ReportAllocs()
	for b.Loop() {
		m.RequestBegan("chatByID")
		m.Admitted()
		for _, command := range []string{"conversation.receive", "conversation.end"} {
			m.Appended(commands.OutcomeAccepted, time.Millisecond)
			m.Awaited(commands.OutcomeAccepted, time.Millisecond)
			m.Commanded(command, commands.OutcomeAccepted, 0, time.Millisecond)
		}
		m.TurnStarted()
		m.CallBegan("api.example.com")
		m.CallEnded("api.example.com", "ok", time.Second, 2*time.Second, 12, 34)
		m.Replied(time.Second, 2*time.Second)
		m.TurnEnded(commands.EndCompleted)
		m.RequestEnded("chatByID", 200, "", time.Millisecond, 100, 300)
	}
}

// BenchmarkScrape is one scrape of a node that has served every kind of request.
func BenchmarkScrape(b *testing.B) {
	m := NewMetrics()
	for i := range 60 {
		operation := "operation" + string(rune('A'+i))
		m.RequestBegan(operation)
		m.RequestEnded(operation, 200, "", time.Millisecond, 1, 1)
		m.Commanded(operation, commands.OutcomeAccepted, 0, time.Millisecond)
	}
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	for b.Loop() {
		answer, err := http.Get(server.URL)
		if err != nil {
			b.Fatal(err)
		}
		read, err := io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK {
			b.Fatal(answer.Status, err)
		}
		b.ReportMetric(float64(read), "bytes")
	}
}
