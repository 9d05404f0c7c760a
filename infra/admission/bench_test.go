package admission

import (
	"sync"
	"testing"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/quota"
)

func BenchmarkARefusalFromMemory(b *testing.B) {
	node := New(open(b, database(b)))
	request := quota.Of("acc_1", account.Limits{PerMinute: 1, PerDay: 1000}, "k", "agt_1", nil)
	for range 2 {
		ask(b, node, request)
	}
	for b.Loop() {
		ask(b, node, request)
	}
}

func BenchmarkACallAlone(b *testing.B) {
	node := New(open(b, database(b)))
	request := quota.Of("acc_1", account.Limits{PerMinute: 1 << 40, PerDay: 1 << 40}, "k", "agt_1", &agent.RateLimit{PerMinute: 1 << 39})
	for b.Loop() {
		ask(b, node, request)
	}
}

func Benchmark64AtOnceOnOneKey(b *testing.B) {
	node := New(open(b, database(b)))
	request := quota.Of("acc_1", account.Limits{PerMinute: 1 << 40, PerDay: 1 << 40}, "k", "agt_1", nil)
	work := make(chan struct{})
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range work {
				ask(b, node, request)
			}
		})
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	group.Wait()
	b.ReportMetric(float64(node.calls.Load())/float64(b.N), "round-trips/request")
}
