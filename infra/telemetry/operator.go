package telemetry

// This file stands beside the API, on a listener of its own: what operators and their machines ask a node. Nothing here
// asks for a key, so it belongs on an address that only they reach.

import (
	"io"
	"net/http"
	"net/http/pprof"
	"time"
)

// profileLimit bounds how long a profile or an execution trace may take.
const profileLimit = 2 * time.Minute

// OperatorServer serves /metrics, /healthz and Go's profiles.
func (m *Metrics) OperatorServer() *http.Server {
	routes := http.NewServeMux()
	routes.Handle("GET /metrics", m.Handler())
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n") // one that is gone by now has nobody to tell
	})
	routes.HandleFunc("GET /debug/pprof/", pprof.Index)
	routes.HandleFunc("GET /debug/pprof/cmdline", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the command line may hold secrets", http.StatusForbidden)
	})
	routes.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	routes.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: profileLimit, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
}
