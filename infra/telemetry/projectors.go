package telemetry

// This file stands at the fold: the batches that the projectors of this process apply.

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// projectorMetrics implements kafka.Observer.
type projectorMetrics struct {
	batches, records, failures *prometheus.CounterVec
	batchTime                  *prometheus.HistogramVec
}

func newProjectorMetrics(f factory) projectorMetrics {
	return projectorMetrics{
		batches:   f.counter("projector_batches_total", "Batches that a projector applied.", "projector"),
		records:   f.counter("projector_records_total", "Records in those batches.", "projector"),
		failures:  f.counter("projector_failures_total", "Batches that a projector's store did not take; they come again.", "projector"),
		batchTime: f.histogram("projector_batch_duration_seconds", "Applying one batch, where that succeeded.", stepBuckets, "projector"),
	}
}

// Applied implements kafka.Observer.
func (m *projectorMetrics) Applied(projector string, records int, took time.Duration) {
	m.batches.WithLabelValues(projector).Inc()
	m.records.WithLabelValues(projector).Add(float64(records))
	m.batchTime.WithLabelValues(projector).Observe(took.Seconds())
}

// NotApplied implements kafka.Observer.
func (m *projectorMetrics) NotApplied(projector string) { m.failures.WithLabelValues(projector).Inc() }
