package telemetry

// This file stands beside the work: what is looked up when somebody scrapes, because whoever holds it knows it anyway.

import (
	"slices"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/model"
)

// Gauge adds a number that goes up and down. Its name gets "nido_" in front.
func (m *Metrics) Gauge(name, help string, ask func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nido_" + name, Help: help}, ask))
}

// Counter adds a number that only grows.
func (m *Metrics) Counter(name, help string, ask func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "nido_" + name, Help: help}, ask))
}

// Build tells which binary this is, and what it does.
func (m *Metrics) Build(version, roles string) {
	factory{m.registry}.gauge("build_info", "Always 1: the version of the binary and the roles of the node.", "version", "roles").
		WithLabelValues(version, roles).Set(1)
}

// asking is a collector whose metrics are described once, and asked for at every scrape.
type asking struct {
	described []*prometheus.Desc
	collect   func(chan<- prometheus.Metric)
}

// Describe implements prometheus.Collector.
func (a asking) Describe(to chan<- *prometheus.Desc) {
	for _, one := range a.described {
		to <- one
	}
}

// Collect implements prometheus.Collector.
func (a asking) Collect(to chan<- prometheus.Metric) { a.collect(to) }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nido_"+name, help, labels, nil)
}

func gauge(of *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(of, prometheus.GaugeValue, value, labels...)
}

func counter(of *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(of, prometheus.CounterValue, value, labels...)
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Pools tells about the pools of Postgres connections, by name.
func (m *Metrics) Pools(pools map[string]*pgxpool.Pool) {
	connections := desc("postgres_pool_connections", "Connections of a pool, by what they do.", "pool", "state")
	most := desc("postgres_pool_max_connections", "How many connections a pool may have.", "pool")
	acquired := desc("postgres_pool_acquires_total", "Connections that were taken out of a pool.", "pool")
	waited := desc("postgres_pool_waits_total", "Takings that had to wait, because no connection was free.", "pool")
	waiting := desc("postgres_pool_wait_seconds_total", "How long they waited in all.", "pool")
	gaveUp := desc("postgres_pool_wait_failures_total", "Takings that were given up.", "pool")
	m.registry.MustRegister(asking{[]*prometheus.Desc{connections, most, acquired, waited, waiting, gaveUp}, func(to chan<- prometheus.Metric) {
		for name, pool := range pools {
			stat := pool.Stat()
			to <- gauge(connections, float64(stat.AcquiredConns()), name, "acquired")
			to <- gauge(connections, float64(stat.IdleConns()), name, "idle")
			to <- gauge(connections, float64(stat.ConstructingConns()), name, "constructing")
			to <- gauge(most, float64(stat.MaxConns()), name)
			to <- counter(acquired, float64(stat.AcquireCount()), name)
			to <- counter(waited, float64(stat.EmptyAcquireCount()), name)
			to <- counter(waiting, stat.EmptyAcquireWaitTime().Seconds(), name)
			to <- counter(gaveUp, float64(stat.CanceledAcquireCount()), name)
		}
	}})
}

// ClickHouse tells about the pool of ClickHouse connections.
func (m *Metrics) ClickHouse(conn driver.Conn) {
	connections := desc("clickhouse_pool_connections", "Connections to ClickHouse, by what they do.", "state")
	most := desc("clickhouse_pool_max_connections", "How many connections to ClickHouse there may be.")
	m.registry.MustRegister(asking{[]*prometheus.Desc{connections, most}, func(to chan<- prometheus.Metric) {
		stat := conn.Stats()
		to <- gauge(connections, float64(stat.Open), "open")
		to <- gauge(connections, float64(stat.Idle), "idle")
		to <- gauge(most, float64(stat.MaxOpenConns))
	}})
}

// Providers tells how the model's providers are.
func (m *Metrics) Providers(ask func() []model.Standing) {
	breaker := desc("upstream_breaker_state", "1 at the state of a provider's breaker: closed, half-open, or open, when it is left alone.", "provider", "state")
	waiting := desc("upstream_calls_waiting", "Calls that wait for one of a provider's slots.", "provider")
	m.registry.MustRegister(asking{[]*prometheus.Desc{breaker, waiting}, func(to chan<- prometheus.Metric) {
		for _, standing := range ask() {
			for _, state := range []string{"closed", "half-open", "open"} {
				to <- gauge(breaker, truth(standing.Breaker == state), standing.Provider, state)
			}
			to <- gauge(waiting, float64(standing.Waiting), standing.Provider)
		}
	}})
}

// Projectors tells about the projectors of this process, as they begin.
type Projectors struct {
	mu        sync.Mutex
	consumers []*kafka.Consumer
}

// Add has one more told about, or one that takes the place of another of its name.
func (p *Projectors) Add(consumer *kafka.Consumer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.consumers = slices.DeleteFunc(p.consumers, func(other *kafka.Consumer) bool { return other.Name == consumer.Name })
	p.consumers = append(p.consumers, consumer)
}

// Projectors makes the list, and tells about whoever is on it.
func (m *Metrics) Projectors() *Projectors {
	p := &Projectors{}
	assigned := desc("projector_partitions", "Partitions that this process' projector has been given.", "projector")
	stopped := desc("projector_stopped", "1 where a projector stands in front of a record that it cannot read.", "projector", "partition")
	waits := desc("projector_waiting", "1 where a projector's store does not take its batch.", "projector", "partition")
	cutOff := desc("projector_log_unreachable", "1 where a projector cannot read the log.", "projector")
	m.registry.MustRegister(asking{[]*prometheus.Desc{assigned, stopped, waits, cutOff}, func(to chan<- prometheus.Metric) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, consumer := range p.consumers {
			status := consumer.Status()
			to <- gauge(assigned, float64(len(status.Partitions)), consumer.Name)
			to <- gauge(cutOff, truth(status.Outage != nil), consumer.Name)
			for _, one := range status.Partitions {
				partition := number(one.Partition)
				to <- gauge(stopped, truth(one.Stopped != nil), consumer.Name, partition)
				to <- gauge(waits, truth(one.Waiting != nil), consumer.Name, partition)
			}
		}
	}})
	return p
}
