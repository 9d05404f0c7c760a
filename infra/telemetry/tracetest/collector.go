// Package tracetest stands below the tests: a trace collector that takes what processes send by OTLP over HTTP, and says
// what it has.
package tracetest

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a part of a trace, and which process told it.
type Span struct{ Name, Trace, ID, Parent, Process string }

// Collector takes spans until the test ends. A request that it cannot read fails the test.
type Collector struct {
	URL string

	mu  sync.Mutex
	all []Span
	raw bytes.Buffer
}

// Start starts a collector.
func Start(t testing.TB) *Collector {
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		var batch collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(sent, &batch)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("the collector was sent what is no trace, to %s: %v", r.URL.Path, err)
			return
		}
		c.take(sent, &batch)
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *Collector) take(sent []byte, batch *collectorpb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(sent)
	for _, resource := range batch.ResourceSpans {
		process := ""
		for _, attribute := range resource.Resource.Attributes {
			if attribute.Key == "service.instance.id" {
				process = attribute.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, one := range scope.Spans {
				c.all = append(c.all, Span{
					one.Name, hex.EncodeToString(one.TraceId), hex.EncodeToString(one.SpanId), hex.EncodeToString(one.ParentSpanId), process,
				})
			}
		}
	}
}

// Spans is what has been told so far, in its order.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// Trace is what has been told of one trace so far.
func (c *Collector) Trace(id string) []Span {
	return slices.DeleteFunc(c.Spans(), func(one Span) bool { return one.Trace != id })
}

// Everything is all bytes that were sent, unpacked.
func (c *Collector) Everything() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.raw.Bytes())
}
