package model

// These tests end calls early and look at the other side of the connection.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

// serve runs a server of the test's own and returns its URL.
func serve(t *testing.T, server *http.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

// sees waits until the provider's side has seen so many calls cut off, for at most a second.
func sees(t *testing.T, server *modeltest.Server, cut int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := server.Await(ctx, func(s modeltest.Stats) bool { return s.Cut == cut && s.Active == 0 }); err != nil {
		t.Error(err)
	}
}

func TestEndingTheLoopClosesTheConnectionAtOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		server, router := setup(t, modeltest.Options{Tokens: 1000, BetweenTokens: 5 * time.Millisecond})
		text := ""
		for chunk, err := range router.Complete(t.Context(), ask(model, "hi")) {
			if err != nil {
				t.Fatal(err)
			}
			if text += chunk.Text; len(text) > 20 {
				break
			}
		}
		sees(t, server, 1)
	})
}

func TestEndingTheContextClosesTheConnectionAtOnce(t *testing.T) {
	because := errors.New("the client went away")
	for name, reply := range map[string]modeltest.Reply{
		"before anything is said": {Hang: true},
		"between two tokens":      {Tokens: []string{"one"}, HangAfter: 1},
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, model string) {
				server, router := setup(t, scripted(reply))
				ctx, cancel := context.WithCancelCause(t.Context())
				asked := make(chan heard)
				go func() { asked <- listen(ctx, router, ask(model, "hi")) }()
				if err := server.Await(t.Context(), func(s modeltest.Stats) bool { return s.Active == 1 }); err != nil {
					t.Fatal(err)
				}
				cancel(because)
				got := <-asked
				if !errors.Is(got.err, context.Canceled) || !errors.Is(got.err, because) {
					t.Errorf("got %v", got.err)
				}
				if _, ok := errors.AsType[*commands.ModelError](got.err); ok {
					t.Error("the caller's own end is not the provider's failure")
				}
				sees(t, server, 1)
			})
		})
	}
}

func TestTheCallersDeadlineIsATimeout(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		server, router := setup(t, scripted(modeltest.Reply{Tokens: []string{"one"}, HangAfter: 1}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		got := listen(ctx, router, ask(model, "hi"))
		if fault := got.fault(t); fault.Code != upstreamTimeout || !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("got %+v", fault)
		}
		sees(t, server, 1)
	})
}

func TestManyCallsAtOnceLeaveNothingBehind(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		const calls, tokens = 100, 200
		server, router := setup(t, modeltest.Options{Tokens: tokens, BetweenTokens: time.Millisecond})
		results := make(chan int, calls)
		for i := range calls {
			go func() {
				pieces := 0
				for chunk, err := range router.Complete(t.Context(), ask(model, "hi")) {
					if err != nil {
						t.Error(err)
					}
					if chunk.Text != "" {
						pieces++
					}
					if i%2 == 0 && pieces == 2 {
						break
					}
				}
				results <- pieces
			}()
		}
		total := 0
		for range calls {
			total += <-results
		}
		if total != calls/2*2+calls/2*tokens {
			t.Errorf("heard %d pieces", total)
		}
		sees(t, server, calls/2)
	})
}

func TestHTTP2IsSpokenWhereItIsOfferedAndACallCanBeEndedThereToo(t *testing.T) {
	eachKind(t, func(t *testing.T, model string) {
		handler := modeltest.NewHandler(modeltest.Options{Tokens: 1000, BetweenTokens: 5 * time.Millisecond})
		protocol := make(chan int, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			protocol <- r.ProtoMajor
			handler.ServeHTTP(w, r)
		}))
		server.EnableHTTP2 = true
		server.StartTLS()
		t.Cleanup(server.Close)
		_, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL, c.AnthropicBaseURL = server.URL+"/v1", server.URL })
		authorities := x509.NewCertPool()
		authorities.AddCert(server.Certificate())
		for _, transport := range router.transports {
			transport.TLSClientConfig = &tls.Config{RootCAs: authorities, ServerName: "example.com"}
		}
		for chunk, err := range router.Complete(t.Context(), ask(model, "hi")) {
			if err != nil {
				t.Fatal(err)
			}
			if chunk.Text != "" {
				break
			}
		}
		if got := <-protocol; got != 2 {
			t.Errorf("HTTP/%d was spoken", got)
		}
		sees(t, &modeltest.Server{Handler: handler}, 1)
	})
}

func TestACertificateThatNobodyTrustsIsNotRetryable(t *testing.T) {
	server := httptest.NewTLSServer(modeltest.NewHandler(modeltest.Options{}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about the handshake, as it should
	t.Cleanup(server.Close)
	eachKind(t, func(t *testing.T, model string) {
		_, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL, c.AnthropicBaseURL = server.URL+"/v1", server.URL })
		fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
		if fault.Code != upstreamError || fault.Retryable || !strings.Contains(fault.Error(), "certificate") {
			t.Errorf("got %+v", fault)
		}
	})
}
