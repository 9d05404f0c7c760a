package telemetry

// This file stands at the HTTP layer: the four golden signals of every route.

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// requestsMetrics implements api.Observer.
type requestsMetrics struct {
	requests, refusals, read, written *prometheus.CounterVec
	inFlight                          *prometheus.GaugeVec
	duration                          *prometheus.HistogramVec
	streams                           prometheus.Gauge
}

// noOperation stands for requests that found no route: whatever path they asked for.
const noOperation = "none"

func newRequestsMetrics(f factory) requestsMetrics {
	return requestsMetrics{
		requests: f.counter("http_requests_total", "Requests that were answered, by operation and class of status.", "operation", "status"),
		refusals: f.counter("http_errors_total", "Answers with an error, by its code in the catalogue.", "code"),
		read:     f.counter("http_request_bytes_total", "Bytes of requests' bodies.", "operation"),
		written:  f.counter("http_response_bytes_total", "Bytes of answers' bodies.", "operation"),
		inFlight: f.gauge("http_requests_in_flight", "Requests that are being answered.", "operation"),
		duration: f.histogram("http_request_duration_seconds", "From a request's head to the end of its answer; of a stream, as long as it was read.", requestBuckets, "operation"),
		streams:  f.gauge("http_streams", "Streams that are being read.").WithLabelValues(),
	}
}

// RequestBegan implements api.Observer.
func (m *requestsMetrics) RequestBegan(operation string) {
	m.inFlight.WithLabelValues(operation).Inc()
}

// RequestEnded implements api.Observer.
func (m *requestsMetrics) RequestEnded(operation string, status int, code string, took time.Duration, read, written int64) {
	if operation == "" {
		operation = noOperation
	} else {
		m.inFlight.WithLabelValues(operation).Dec()
	}
	m.requests.WithLabelValues(operation, class(status)).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
	m.read.WithLabelValues(operation).Add(float64(read))
	m.written.WithLabelValues(operation).Add(float64(written))
	if code != "" {
		m.refusals.WithLabelValues(code).Inc()
	}
}

// StreamHeld implements api.Observer.
func (m *requestsMetrics) StreamHeld(by int) { m.streams.Add(float64(by)) }

// class is a status' first digit: "2xx". What is none, because a handler was cut off before it answered, is "none".
func class(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}
