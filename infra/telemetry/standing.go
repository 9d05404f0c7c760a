package telemetry

// This file stands beside the fold: how the whole installation stands, as this node sees it by asking the engines. It is
// what /readyz says, in numbers; so a projector whose process is dead still has a lag.

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nidohq/nido/infra/postgres"
)

// Standing is how things stand.
type Standing struct {
	Ready   bool            // chat can be served here
	Engines map[string]bool // which of them answer
	Lags    []Lag
}

// Lag is how far a projector is behind on one partition.
type Lag struct {
	Projector string
	Partition int32
	Records   int64         // that wait
	Age       time.Duration // of the oldest of them
}

// lookTimeout bounds looking at everything, well within a scrape's time.
const lookTimeout = 2 * time.Second

// Standing tells how things stand, by looking at every scrape.
func (m *Metrics) Standing(look func(context.Context) Standing) {
	ready := desc("ready", "1 while this node can serve chat; what /readyz says.")
	engine := desc("engine_up", "1 where an engine answers a real query.", "engine")
	records := desc("projector_lag_records", "Records that a projector has not folded, whichever process it runs in.", "projector", "partition")
	seconds := desc("projector_lag_seconds", "Age of the oldest of them.", "projector", "partition")
	m.registry.MustRegister(asking{[]*prometheus.Desc{ready, engine, records, seconds}, func(to chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout) // a collector is given no context
		defer cancel()
		stands := look(ctx)
		to <- gauge(ready, truth(stands.Ready))
		for name, up := range stands.Engines {
			to <- gauge(engine, truth(up), name)
		}
		for _, lag := range stands.Lags {
			to <- gauge(records, float64(lag.Records), lag.Projector, number(lag.Partition))
			to <- gauge(seconds, lag.Age.Seconds(), lag.Projector, number(lag.Partition))
		}
	}})
}

// Erasures tells how much is to be forgotten that has not been. Every node says the same; one that cannot ask says nothing.
func (m *Metrics) Erasures(ask func(context.Context) (postgres.Backlog, error)) {
	open := desc("erasures_open", "Erasures that were asked for and are not done, wherever they are carried out.")
	oldest := desc("erasures_oldest_seconds", "How long ago the oldest of them was asked for; 0 where there is none.")
	m.registry.MustRegister(asking{[]*prometheus.Desc{open, oldest}, func(to chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout) // a collector is given no context
		defer cancel()
		backlog, err := ask(ctx)
		if err != nil {
			return // engine_up says why
		}
		to <- gauge(open, float64(backlog.Open))
		to <- gauge(oldest, backlog.Oldest.Seconds())
	}})
}

func number(partition int32) string { return strconv.Itoa(int(partition)) }
