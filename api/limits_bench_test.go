package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nidohq/nido/domain/quota"
)

// What it costs to say no, from the request to the envelope, without what the stores take.
func BenchmarkRefusals(b *testing.B) {
	w := newWorld(&testing.T{})
	w.verdict = func(request quota.Request) quota.Verdict {
		rule := request.Rules[0]
		return quota.Verdict{Standings: []quota.Standing{{Rule: rule, Reset: time.Minute}}, Blocking: rule, RetryAfter: time.Minute}
	}
	key := w.key(accountScopes)
	for name, test := range map[string]struct {
		key    string
		status int
	}{
		"a key with a wrong checksum": {key[:len(key)-1] + "!", 401},
		"a counter that is used up":   {key, 429},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime(b)
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/api/v2/agent/agt_1/chat", strings.NewReader(`{"query":"hola"}`))
				r.Host = "nido.test"
				r.Header.Set("Authorization", "Bearer "+test.key)
				r.Header.Set("Content-Type", "application/json")
				recorder := httptest.NewRecorder()
				w.server.ServeHTTP(recorder, r)
				w.records, w.counted, w.used = w.records[:0], w.counted[:0], w.used[:0]
				if recorder.Code != test.status {
					b.Fatal(recorder.Body)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N)/1000, "cpu-µs/op")
		})
	}
}

// cpuTime is what this process has used of the processors: on a machine that is shared, the clock on the wall says little.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
