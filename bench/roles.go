//go:build linux

package main

// This file is the references that are processes: a mock provider (direct), a reverse proxy before it, a route that
// says hello, and the load generator.

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/gorilla/mux"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// roleFlag makes a second process of this binary be one of the roles.
const roleFlag = "-role"

func playRole(name string, args []string) {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	listen := flags.String("listen", "", "")
	upstream := flags.String("upstream", "", "")
	delay := flags.Duration("delay", 0, "")
	tokens := flags.Int("tokens", 0, "")
	between := flags.Duration("between", 0, "")
	_ = flags.Parse(args) // ExitOnError
	var handler http.Handler
	switch name {
	case "load":
		var job job
		if err := json.NewDecoder(os.Stdin).Decode(&job); err != nil {
			log.Fatal("read the job: ", err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(job.run()); err != nil {
			log.Fatal("write the measurement: ", err)
		}
		return
	case "hold":
		if err := hold(os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	case "direct":
		handler = modeltest.NewHandler(modeltest.Options{FirstToken: *delay, BetweenTokens: *between, Tokens: *tokens, Kept: -1})
	case "proxy":
		target, err := url.Parse("http://" + *upstream)
		if err != nil {
			log.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(target)
		// The default keeps two connections to a host, and so would measure connecting.
		proxy.Transport = &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true}
		proxy.ErrorLog = log.New(io.Discard, "", 0) // streams that are let go of are no errors
		handler = proxy
	case "hello":
		router := mux.NewRouter()
		router.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }).Methods(http.MethodPost)
		handler = router
	default:
		log.Fatalf("there is no role %q", name)
	}
	live := http.NewServeMux()
	live.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	live.Handle("/", handler)
	server := &http.Server{Addr: *listen, Handler: live, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
