//go:build linux

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// listener serves a handler and answers with a job for it.
func listener(t *testing.T, handler http.HandlerFunc) job {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return job{
		Addr: strings.TrimPrefix(server.URL, "http://"), Method: http.MethodPost, Path: "/", Body: `{"n":"{n}"}`, Name: "a",
		Connections: 2, Span: 10 * time.Second, Want: http.StatusOK,
	}
}

func TestAClosedLoopSendsSoManyRequestsAndReadsWholeAnswers(t *testing.T) {
	for sentence, flush := range map[string]bool{"with a length": false, "in chunks": true} {
		t.Run(sentence, func(t *testing.T) {
			var mu sync.Mutex
			names := map[string]int{}
			job := listener(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				names[string(body)]++
				mu.Unlock()
				for range 3 {
					_, _ = io.WriteString(w, strings.Repeat("x", 3000))
					if flush {
						w.(http.Flusher).Flush()
					}
				}
			})
			job.Count, job.Every = 40, 5
			m := job.run()
			if m.Done != 40 || m.Failed != 0 {
				t.Fatalf("%+v", m)
			}
			for name, sent := range names {
				if sent > 5 {
					t.Errorf("%s was sent %d times", name, sent)
				}
			}
			if len(names) < 8 || len(names) > 9 {
				t.Errorf("%d names in 40 requests of 5 each", len(names))
			}
		})
	}
}

func TestAnOpenLoopCountsTheWaitForAConnection(t *testing.T) {
	var once sync.Once
	held := make(chan struct{})
	job := listener(t, func(http.ResponseWriter, *http.Request) {
		once.Do(func() { <-held })
	})
	job.Connections, job.Rate, job.Span = 1, 1000, 50*time.Millisecond
	time.AfterFunc(200*time.Millisecond, func() { close(held) })
	m := job.run()
	if m.Done != 50 {
		t.Fatalf("%+v", m)
	}
	if m.P50 < 100 { // milliseconds: all of them waited behind the first
		t.Errorf("p50 is %v ms although every request was late", m.P50)
	}
}

func TestAnotherStatusIsAFailure(t *testing.T) {
	job := listener(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) })
	job.Count = 3
	if m := job.run(); m.Done != 0 || m.Failed != 3 || !strings.HasPrefix(m.Fault, "status 418: no") {
		t.Errorf("%+v", m)
	}
}

func TestAFigureIsAMedianWithItsRange(t *testing.T) {
	var r results
	l := r.add(1, "what", "×", over([]float64{4, 9, 10, 2}, []float64{2, 3, 2, 2})...)
	if l.Median != 2.5 || l.Min != 1 || l.Max != 5 {
		t.Errorf("%+v", *l)
	}
	if l.atMost(2.5); !*l.Met {
		t.Error("2.5 is not at most 2.5")
	}
	if l.atLeast(3); *l.Met {
		t.Error("2.5 is at least 3")
	}
}
