package telemetry

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// startTraces traces into a collector of the test, which says what spans it has.
func startTraces(t *testing.T, ratio float64) (*Traces, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var names []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" {
			t.Errorf("spans went to %s", r.URL.Path)
		}
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unpacked
		}
		sent, err := io.ReadAll(body)
		var batch collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(sent, &batch)
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range batch.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					names = append(names, span.Name)
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	traces, err := NewTraces(t.Context(), TraceConfig{Endpoint: server.URL, Ratio: ratio, Instance: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return traces, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return names
	}
}
