package e2e

// This file is the tests' trace collector: it takes what nodes send by OTLP over HTTP.

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

// span is a part of a trace, and which process told it.
type span struct {
	name, trace, id, parent, process string
}

type collector struct {
	url string
	mu  sync.Mutex
	all []span
	raw bytes.Buffer // everything that was sent
}

func startCollector(t *testing.T) *collector {
	c := &collector{}
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
	c.url = server.URL
	return c
}

func (c *collector) take(sent []byte, batch *collectorpb.ExportTraceServiceRequest) {
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
				c.all = append(c.all, span{
					one.Name, hex.EncodeToString(one.TraceId), hex.EncodeToString(one.SpanId), hex.EncodeToString(one.ParentSpanId), process,
				})
			}
		}
	}
}

// trace is what has been told of one trace so far.
func (c *collector) trace(id string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []span
	for _, one := range c.all {
		if one.trace == id {
			found = append(found, one)
		}
	}
	return found
}

// everything is all bytes that were sent.
func (c *collector) everything() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.raw.Bytes())
}
