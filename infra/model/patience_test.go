package model

// These tests run on the bubble's clock, with the provider at the other end of a pipe: waiting takes no time.

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

// pipes is a listener whose connections are pipes.
type pipes struct {
	dialed chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialed:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.dialed <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bubble runs a test against a mock of each kind, where time jumps.
func bubble(t *testing.T, options modeltest.Options, configure func(*Config), test func(t *testing.T, handler *modeltest.Handler, model string, router *Router)) {
	t.Helper()
	eachKind(t, func(t *testing.T, model string) {
		synctest.Test(t, func(t *testing.T) {
			handler := modeltest.NewHandler(options)
			listener := &pipes{dialed: make(chan net.Conn), closed: make(chan struct{})}
			server := &http.Server{Handler: handler}
			done := make(chan error)
			go func() { done <- server.Serve(listener) }()
			c := Config{BaseURL: "http://provider/v1", AnthropicAPIKey: "key", AnthropicBaseURL: "http://provider"}
			if configure != nil {
				configure(&c)
			}
			router, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, transport := range router.transports {
				transport.DialContext = listener.dial
			}
			defer func() {
				router.Close()
				if err := server.Close(); err != nil {
					t.Error(err)
				}
				if err := <-done; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			}()
			test(t, handler, model, router)
		})
	})
}

func TestTheFirstTokenIsWaitedForAMinute(t *testing.T) {
	bubble(t, scripted(modeltest.Reply{Hang: true}), nil, func(t *testing.T, handler *modeltest.Handler, model string, router *Router) {
		start := time.Now()
		fault := listen(t.Context(), router, ask(model, "hi")).fault(t)
		if waited := time.Since(start); fault.Code != upstreamTimeout || fault.Timeout != firstTimeout || !fault.Retryable || waited != time.Minute {
			t.Errorf("got %+v after %v", fault, waited)
		}
		synctest.Wait()
		if stats := handler.Stats(); stats.Cut != 1 || stats.Requests != 1 {
			t.Errorf("the provider saw %+v", stats)
		}
	})
}

func TestAnAnnouncementIsNoFirstToken(t *testing.T) {
	late := modeltest.Reply{Tokens: []string{"late"}, FirstToken: 59 * time.Second}
	bubble(t, scripted(late), nil, func(t *testing.T, _ *modeltest.Handler, model string, router *Router) {
		if got := listen(t.Context(), router, ask(model, "hi")); got.err != nil || got.text != "late" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestALaterTokenIsWaitedForHalfAMinute(t *testing.T) {
	reply := modeltest.Reply{Tokens: []string{"a ", "b ", "c "}, BetweenTokens: 29 * time.Second, HangAfter: 3}
	bubble(t, scripted(reply), nil, func(t *testing.T, _ *modeltest.Handler, model string, router *Router) {
		start := time.Now()
		got := listen(t.Context(), router, ask(model, "hi"))
		if waited := time.Since(start); got.text != "a b c " || got.fault(t).Timeout != idleTimeout || waited != (29+29+30)*time.Second {
			t.Errorf("got %+v after %v", got, waited)
		}
	})
}

func TestAReplyThatNeverEndsIsEndedByItsTotalTime(t *testing.T) {
	endless := modeltest.Options{Tokens: 1000, BetweenTokens: 20 * time.Second}
	configure := func(c *Config) { c.TotalTimeout = 50 * time.Second }
	bubble(t, endless, configure, func(t *testing.T, handler *modeltest.Handler, model string, router *Router) {
		start := time.Now()
		got := listen(t.Context(), router, ask(model, "hi"))
		fault := got.fault(t)
		if waited := time.Since(start); fault.Code != upstreamTimeout || fault.Timeout != totalTimeout || len(got.pieces) != 3 || waited != 50*time.Second {
			t.Errorf("got %+v after %v and %q", fault, waited, got.pieces)
		}
		synctest.Wait()
		if stats := handler.Stats(); stats.Cut != 1 || stats.Requests != 1 {
			t.Errorf("the provider saw %+v", stats)
		}
	})
}

func TestTheTimeThatTheCallerTakesIsNotTheProviders(t *testing.T) {
	bubble(t, scripted(modeltest.Words("a b c")), nil, func(t *testing.T, _ *modeltest.Handler, model string, router *Router) {
		text := ""
		for chunk, err := range router.Complete(t.Context(), ask(model, "hi")) {
			if err != nil {
				t.Fatal(err)
			}
			text += chunk.Text
			time.Sleep(10 * time.Minute) // the bubble's clock: the caller is busy
		}
		if text != "a b c" {
			t.Errorf("got %q", text)
		}
	})
}

func TestAFailureBeforeTheFirstTokenIsRepeatedTwice(t *testing.T) {
	var answers []modeltest.Reply
	options := modeltest.Options{Reply: func(modeltest.Request) modeltest.Reply {
		next := answers[0]
		answers = answers[1:]
		return next
	}}
	fine := modeltest.Words("fine")
	for name, test := range map[string]struct {
		answers         []modeltest.Reply
		code            string // of the error, if any
		calls           int
		atLeast, atMost time.Duration
	}{
		"twice unavailable, then fine": {[]modeltest.Reply{{Status: 503}, {Status: 500}, fine}, "", 3, 750 * time.Millisecond, 1200 * time.Millisecond},
		"unavailable for good":         {[]modeltest.Reply{{Status: 503}, {Status: 503}, {Status: 503}}, upstreamError, 3, 750 * time.Millisecond, 1200 * time.Millisecond},
		"rejected":                     {[]modeltest.Reply{{Status: 400}}, upstreamRejected, 1, 0, 0},
		"asked to wait":                {[]modeltest.Reply{{Status: 429, RetryAfter: "3"}, fine}, "", 2, 3 * time.Second, 4500 * time.Millisecond},
		"asked to wait too long":       {[]modeltest.Reply{{Status: 429, RetryAfter: "6"}}, upstreamRateLimited, 1, 0, 0},
		"a stream that says nothing":   {[]modeltest.Reply{{OmitEnd: true}, fine}, "", 2, 250 * time.Millisecond, 400 * time.Millisecond},
		"an overload, as an event":     {[]modeltest.Reply{{Raw: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n"}, fine}, "", 2, 250 * time.Millisecond, 400 * time.Millisecond},
		"first token late every time":  {[]modeltest.Reply{{Status: 503, FirstToken: 40 * time.Second}, {Hang: true}}, upstreamTimeout, 2, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, options, nil, func(t *testing.T, handler *modeltest.Handler, model string, router *Router) {
				answers = test.answers
				start := time.Now()
				got := listen(t.Context(), router, ask(model, "hi"))
				waited := time.Since(start)
				if test.code == "" && (got.err != nil || got.text != "fine") || test.code != "" && got.fault(t).Code != test.code {
					t.Errorf("got %+v", got)
				}
				if calls := handler.Stats().Requests; calls != test.calls || waited < test.atLeast || waited > test.atMost {
					t.Errorf("%d calls in %v", calls, waited)
				}
			})
		})
	}
}

func TestABodyThatStaysOpenDoesNotHoldTheEndUp(t *testing.T) {
	done := modeltest.Reply{Raw: "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := w.Write([]byte(done.Raw)); err != nil {
			t.Error(err)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-r.Context().Done()
	})
	address := serve(t, &http.Server{Handler: handler})
	_, router := setup(t, modeltest.Options{}, func(c *Config) { c.BaseURL = address })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if got := listen(ctx, router, ask("gpt-mock", "hi")); got.err != nil || got.text != "hi" {
		t.Errorf("got %+v", got)
	}
}
