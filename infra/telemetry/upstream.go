package telemetry

// This file stands at the edges of a chat turn: the limits before it, and the model's provider behind it.

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nidohq/nido/domain/quota"
)

// upstreamMetrics implements model.Observer.
type upstreamMetrics struct {
	calls, tokens        *prometheus.CounterVec
	calling              *prometheus.GaugeVec
	callFirst, callWhole *prometheus.HistogramVec
	callQueued           *prometheus.HistogramVec
}

func newUpstreamMetrics(f factory) upstreamMetrics {
	return upstreamMetrics{
		calls:      f.counter("upstream_calls_total", "Calls of model providers by outcome: ok, cancelled, or the code of the failure.", "provider", "outcome"),
		tokens:     f.counter("upstream_tokens_total", "Tokens that providers say they took in and gave out.", "provider", "direction"),
		calling:    f.gauge("upstream_calls_in_flight", "Calls of model providers that are under way.", "provider"),
		callFirst:  f.histogram("upstream_first_token_seconds", "From a call to its first word.", turnBuckets, "provider"),
		callQueued: f.histogram("upstream_queue_seconds", "How long calls waited for one of a provider's slots, where those are bounded.", stepBuckets, "provider"),
		callWhole:  f.histogram("upstream_call_seconds", "From a call to its end, whatever that was.", turnBuckets, "provider"),
	}
}

// CallQueued implements model.Observer.
func (m *upstreamMetrics) CallQueued(provider string, waited time.Duration) {
	m.callQueued.WithLabelValues(provider).Observe(waited.Seconds())
}

// CallBegan implements model.Observer.
func (m *upstreamMetrics) CallBegan(provider string) { m.calling.WithLabelValues(provider).Inc() }

// CallEnded implements model.Observer.
func (m *upstreamMetrics) CallEnded(provider, outcome string, first, whole time.Duration, inputTokens, outputTokens int64) {
	m.calling.WithLabelValues(provider).Dec()
	m.calls.WithLabelValues(provider, outcome).Inc()
	if first > 0 {
		m.callFirst.WithLabelValues(provider).Observe(first.Seconds())
	}
	m.callWhole.WithLabelValues(provider).Observe(whole.Seconds())
	if inputTokens > 0 || outputTokens > 0 {
		m.tokens.WithLabelValues(provider, "input").Add(float64(inputTokens))
		m.tokens.WithLabelValues(provider, "output").Add(float64(outputTokens))
	}
}

// admissionMetrics implements admission.Observer.
type admissionMetrics struct {
	admitted, unanswered prometheus.Counter
	refused              *prometheus.CounterVec
}

func newAdmissionMetrics(f factory) admissionMetrics {
	return admissionMetrics{
		admitted:   f.counter("admissions_total", "Requests that the limits let in.").WithLabelValues(),
		unanswered: f.counter("admission_failures_total", "Requests that could not be counted against their limits.").WithLabelValues(),
		refused: known(f.counter("admission_refusals_total", "Requests that a limit kept out, by the counter that was full.", "counter"),
			string(quota.Key), string(quota.Agent), string(quota.AgentDay), string(quota.Day)),
	}
}

// Admitted implements admission.Observer.
func (m *admissionMetrics) Admitted() { m.admitted.Inc() }

// Refused implements admission.Observer.
func (m *admissionMetrics) Refused(counter string) { m.refused.WithLabelValues(counter).Inc() }

// Unanswered implements admission.Observer.
func (m *admissionMetrics) Unanswered() { m.unanswered.Inc() }
