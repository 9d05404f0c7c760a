package telemetry

// This file stands at start: the metrics that a node pushes numbers into while it works. Those that are looked up when
// somebody asks are in collect.go.

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are all that a node counts. It implements the observers of the packages that do the work.
type Metrics struct {
	registry *prometheus.Registry

	requestsMetrics
	commandMetrics
	turnMetrics
	upstreamMetrics
	admissionMetrics
	projectorMetrics
}

// NewMetrics makes the metrics, and those of the process and of Go's runtime.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
	)
	f := factory{m.registry}
	m.requestsMetrics = newRequestsMetrics(f)
	m.commandMetrics = newCommandMetrics(f)
	m.turnMetrics = newTurnMetrics(f)
	m.upstreamMetrics = newUpstreamMetrics(f)
	m.admissionMetrics = newAdmissionMetrics(f)
	m.projectorMetrics = newProjectorMetrics(f)
	return m
}

// scrapeTimeout bounds one answer: whoever asks, asks again in a few seconds.
const scrapeTimeout = 5 * time.Second

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		Registry: m.registry, MaxRequestsInFlight: 4, Timeout: scrapeTimeout, EnableOpenMetrics: true,
	})
}

// The buckets of histograms, in seconds. Those of a step begin where an append to a local log lies; those of a turn end
// behind the longest that a turn may take by default.
var (
	stepBuckets    = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	turnBuckets    = []float64{.05, .1, .25, .5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300}
)

// factory makes metrics of a node: each with its name's first part, registered, and its labels named at one place.
type factory struct{ to prometheus.Registerer }

func (f factory) counter(name, help string, labels ...string) *prometheus.CounterVec {
	made := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nido_" + name, Help: help}, labels)
	f.to.MustRegister(made)
	return made
}

// known makes the counters of labels that are known beforehand: one that first appears with its first increment has
// never grown, as far as a rate can see.
func known(counter *prometheus.CounterVec, values ...string) *prometheus.CounterVec {
	for _, value := range values {
		counter.WithLabelValues(value)
	}
	return counter
}

func (f factory) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	made := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nido_" + name, Help: help}, labels)
	f.to.MustRegister(made)
	return made
}

func (f factory) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	made := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "nido_" + name, Help: help, Buckets: buckets}, labels)
	f.to.MustRegister(made)
	return made
}
