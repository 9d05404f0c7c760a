package model

// These tests give a model several providers, all of them on one mock that tells them apart by what they call the model.
// Time is the bubble's.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/infra/model/modeltest"
)

// provided is a router from a providers file, and the mock behind it.
type provided struct {
	*Router
	mu      sync.Mutex
	replies map[string]modeltest.Reply // by what a provider calls the model
	asked   []string
	ended   []string // who, and how
	queued  []time.Duration
}

func (p *provided) CallBegan(string) {}

func (p *provided) CallQueued(_ string, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued = append(p.queued, waited)
}

func (p *provided) CallEnded(provider, outcome string, _, _ time.Duration, _, output int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, fmt.Sprintf("%s %s %d", provider, outcome, output))
}

func (p *provided) reply(asked modeltest.Request) modeltest.Reply {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, asked.Model)
	reply, ok := p.replies[asked.Model]
	if !ok {
		reply = modeltest.Words("from " + asked.Model)
	}
	return reply
}

// says scripts a provider from now on.
func (p *provided) says(model string, reply modeltest.Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replies[model] = reply
}

// took returns who has been asked since the last time.
func (p *provided) took() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := strings.Join(p.asked, " ")
	p.asked = nil
	return asked
}

// provide runs a test with a providers file in a bubble.
func provide(t *testing.T, file string, test func(t *testing.T, p *provided)) {
	t.Helper()
	path := writeFile(t, file)
	synctest.Test(t, func(t *testing.T) {
		p := &provided{replies: map[string]modeltest.Reply{}}
		listener := &pipes{dialed: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: modeltest.NewHandler(modeltest.Options{Reply: p.reply})}
		done := make(chan error)
		go func() { done <- server.Serve(listener) }()
		router, err := New(Config{ProvidersFile: path, Observer: p})
		if err != nil {
			t.Fatal(err)
		}
		for _, transport := range router.transports {
			transport.DialContext = listener.dial
		}
		p.Router = router
		defer func() {
			router.Close()
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			<-done
		}()
		test(t, p)
	})
}

const threeProviders = `{"providers": [
	{"name": "one", "kind": "openai", "baseUrl": "http://one/v1"},
	{"name": "two", "kind": "openai", "baseUrl": "http://two/v1"},
	{"name": "three", "kind": "openai", "baseUrl": "http://three/v1"}
], "models": {
	"m": [{"provider": "one", "model": "m1"}, {"provider": "two", "model": "m2"}],
	"long": [{"provider": "one", "model": "m1"}, {"provider": "two", "model": "m2"}, {"provider": "three", "model": "m3"}],
	"same-*": [{"provider": "three"}]
}}`

func TestTheNextProviderIsAskedWhereOneCannotAnswer(t *testing.T) {
	for sentence, test := range map[string]struct {
		one             modeltest.Reply
		asked           string
		code            string // "" where the second one answers
		text            string
		atLeast, atMost time.Duration
	}{
		"one is unavailable for good":  {modeltest.Reply{Status: 503}, "m1 m1 m1 m2", "", "from m2", 750 * time.Millisecond, 1200 * time.Millisecond},
		"one wants to be left alone":   {modeltest.Reply{Status: 429, RetryAfter: "3"}, "m1 m2", "", "from m2", 0, 0},
		"one has no credit":            {modeltest.Reply{Status: 429, ErrorType: "insufficient_quota"}, "m1 m2", "", "from m2", 0, 0},
		"one does not take the key":    {modeltest.Reply{Status: 401}, "m1 m2", "", "from m2", 0, 0},
		"one does not know the model":  {modeltest.Reply{Status: 404}, "m1 m2", "", "from m2", 0, 0},
		"one says nothing":             {modeltest.Reply{Hang: true}, "m1 m2", "", "from m2", time.Minute, time.Minute},
		"one speaks nonsense":          {modeltest.Reply{Raw: "data: {\n\n"}, "m1 m2", "", "from m2", 0, 0},
		"the request is refused":       {modeltest.Reply{Status: 400}, "m1", upstreamRejected, "", 0, 0},
		"the prompt is too long":       {modeltest.Reply{Status: 413}, "m1", upstreamRejected, "", 0, 0},
		"one breaks off behind a word": {modeltest.Reply{Tokens: []string{"half "}, DropAfter: 1}, "m1", upstreamError, "half ", 0, 0},
		"one falls silent":             {modeltest.Reply{Tokens: []string{"half "}, HangAfter: 1}, "m1", upstreamTimeout, "half ", 30 * time.Second, 30 * time.Second},
	} {
		t.Run(sentence, func(t *testing.T) {
			provide(t, threeProviders, func(t *testing.T, p *provided) {
				p.says("m1", test.one)
				start := time.Now()
				got := listen(t.Context(), p, ask("m", "hi"))
				waited := time.Since(start)
				if got.text != test.text || test.code == "" && (got.err != nil || got.model != "m2") || test.code != "" && got.fault(t).Code != test.code {
					t.Errorf("got %+v", got)
				}
				if asked := p.took(); asked != test.asked || waited < test.atLeast || waited > test.atMost {
					t.Errorf("asked %s in %v", asked, waited)
				}
			})
		})
	}
}

func TestAModelKeepsItsNameWhereNoOtherIsGiven(t *testing.T) {
	provide(t, threeProviders, func(t *testing.T, p *provided) {
		if got := listen(t.Context(), p, ask("same-9b", "hi")); got.text != "from same-9b" || got.model != "same-9b" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestWhereNobodyAnswersTheCallerHearsWhenToComeBack(t *testing.T) {
	for sentence, test := range map[string]struct {
		one, two  modeltest.Reply
		code      string
		retryable bool
		after     time.Duration
	}{
		"both say when":               {modeltest.Reply{Status: 429, RetryAfter: "20"}, modeltest.Reply{Status: 429, RetryAfter: "7"}, upstreamRateLimited, true, 7 * time.Second},
		"one says when, one is down":  {modeltest.Reply{Status: 429, RetryAfter: "20"}, modeltest.Reply{Status: 500}, upstreamError, true, 0},
		"one says when, one says no":  {modeltest.Reply{Status: 429, RetryAfter: "20"}, modeltest.Reply{Status: 400}, upstreamRateLimited, true, 20 * time.Second},
		"both say no":                 {modeltest.Reply{Status: 401}, modeltest.Reply{Status: 404}, modelNotFound, false, 0},
		"one says in a hundred hours": {modeltest.Reply{Status: 401}, modeltest.Reply{Status: 429, RetryAfter: "360000"}, upstreamRateLimited, true, 24 * time.Hour},
	} {
		t.Run(sentence, func(t *testing.T) {
			provide(t, threeProviders, func(t *testing.T, p *provided) {
				p.says("m1", test.one)
				p.says("m2", test.two)
				fault := listen(t.Context(), p, ask("m", "hi")).fault(t)
				if fault.Code != test.code || fault.Retryable != test.retryable || fault.RetryAfter != test.after {
					t.Errorf("got %+v", fault)
				}
				if text := fault.Error(); !strings.Contains(text, "provider one: ") || !strings.Contains(text, "provider two: ") {
					t.Errorf("the log reads %q", text)
				}
			})
		})
	}
}

func TestTheFirstTokenIsWaitedForNinetySecondsFromAllProvidersTogether(t *testing.T) {
	provide(t, threeProviders, func(t *testing.T, p *provided) {
		for _, model := range []string{"m1", "m2", "m3"} {
			p.says(model, modeltest.Reply{Hang: true})
		}
		start := time.Now()
		fault := listen(t.Context(), p, ask("long", "hi")).fault(t)
		if waited := time.Since(start); fault.Timeout != firstTimeout || waited != 90*time.Second {
			t.Errorf("got %+v after %v", fault, waited)
		}
		if asked := p.took(); asked != "m1 m2" {
			t.Errorf("asked %s", asked)
		}
	})
}

func TestACallerThatLeavesIsNotAskedForAgain(t *testing.T) {
	provide(t, threeProviders, func(t *testing.T, p *provided) {
		p.says("m1", modeltest.Reply{Status: 503})
		gone := errors.New("gone")
		ctx, leave := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { leave(gone) }) // while it waits for the first repetition
		start := time.Now()
		got := listen(ctx, p, ask("m", "hi"))
		if waited := time.Since(start); waited != 100*time.Millisecond || !errors.Is(got.err, gone) {
			t.Errorf("%v after %v", got.err, waited)
		}
		if asked := p.took(); asked != "m1" {
			t.Errorf("asked %s", asked)
		}
	})
}

func TestAProviderHasItsOwnLimits(t *testing.T) {
	file := `{"providers": [
		{"name": "fast", "kind": "openai", "baseUrl": "http://fast/v1", "models": ["fast"], "firstTokenTimeout": "5s", "idleTimeout": "2s",
		 "totalTimeout": "20s", "retries": 0, "maxRetryWait": "1s"},
		{"name": "slow", "kind": "openai", "baseUrl": "http://slow/v1", "models": ["slow"], "firstTokenTimeout": "10m", "idleTimeout": "5m", "retries": 1}
	]}`
	for sentence, test := range map[string]struct {
		model   string
		reply   modeltest.Reply
		timeout string
		took    time.Duration
		asked   string
	}{
		"no first token from the fast one": {"fast", modeltest.Reply{Hang: true}, firstTimeout, 5 * time.Second, "fast"},
		"a pause of the fast one":          {"fast", modeltest.Reply{Tokens: []string{"a"}, HangAfter: 1}, idleTimeout, 2 * time.Second, "fast"},
		"an endless reply of the fast one": {"fast", modeltest.Reply{Tokens: make([]string, 99), BetweenTokens: 1900 * time.Millisecond}, totalTimeout, 20 * time.Second, "fast"},
		"a failure of the fast one":        {"fast", modeltest.Reply{Status: 503}, "", 0, "fast"},
		"no first token from the slow one": {"slow", modeltest.Reply{Hang: true}, firstTimeout, 90 * time.Second, "slow"},
		"a pause of the slow one":          {"slow", modeltest.Reply{Tokens: []string{"a"}, HangAfter: 1}, idleTimeout, 5 * time.Minute, "slow"},
	} {
		t.Run(sentence, func(t *testing.T) {
			provide(t, file, func(t *testing.T, p *provided) {
				for i := range test.reply.Tokens {
					test.reply.Tokens[i] = "word "
				}
				p.says(test.model, test.reply)
				start := time.Now()
				fault := listen(t.Context(), p, ask(test.model, "hi")).fault(t)
				if waited := time.Since(start); fault.Timeout != test.timeout || waited != test.took || p.took() != test.asked {
					t.Errorf("got %+v after %v", fault, waited)
				}
			})
		})
	}
}

var _ commands.Model = (*provided)(nil)
