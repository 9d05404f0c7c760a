package model

// These tests stand before the calls: how many there may be, and when a provider is left alone.

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

const oneOfTwo = `{"providers": [
	{"name": "one", "kind": "openai", "baseUrl": "http://one/v1", "models": ["m1"], "retries": 0, "maxConcurrent": 2, "maxQueue": 1, "queueTimeout": "5s",
	 "breaker": {"failures": 3, "openFor": "10s"}},
	{"name": "two", "kind": "openai", "baseUrl": "http://two/v1"}
], "models": {"m": [{"provider": "one", "model": "m1"}, {"provider": "two", "model": "m2"}]}}`

// standing is how the first provider is.
func (p *provided) standing(t *testing.T) Standing {
	t.Helper()
	for _, standing := range p.Standings() {
		if standing.Provider == "one" {
			return standing
		}
	}
	t.Fatalf("got %+v", p.Standings())
	return Standing{}
}

// hold keeps so many calls of a model under way until it is let go.
func (p *provided) hold(t *testing.T, model string, calls int) (let func()) {
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range calls {
		all.Go(func() { listen(ctx, p, ask(model, "hi")) })
	}
	synctest.Wait()
	return func() { leave(); all.Wait() }
}

func TestAProviderHasSoManyCallsUnderWayAndNotMore(t *testing.T) {
	provide(t, oneOfTwo, func(t *testing.T, p *provided) {
		p.says("m1", modeltest.Reply{Tokens: []string{"word "}, HangAfter: 1})
		let := p.hold(t, "m1", 2)
		var third sync.WaitGroup
		third.Go(func() {
			start := time.Now()
			if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamBusy || !fault.Retryable || time.Since(start) != 5*time.Second {
				t.Errorf("the third: %+v after %v", fault, time.Since(start))
			}
		})
		synctest.Wait()
		if standing := p.standing(t); standing.Active != 2 || standing.Waiting != 1 {
			t.Errorf("%+v", standing)
		}
		start := time.Now()
		if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamBusy || time.Since(start) != 0 {
			t.Errorf("the fourth: %+v after %v", fault, time.Since(start))
		}
		if got := listen(t.Context(), p, ask("m", "hi")); got.text != "from m2" {
			t.Errorf("another provider is not asked instead: %+v", got)
		}
		third.Wait()
		if asked := p.took(); asked != "m1 m1 m2" {
			t.Errorf("asked %s", asked)
		}

		// Whoever waits goes on when a call ends, however it ends; whoever leaves while it waits leaves nothing behind.
		waits, goAway := context.WithCancel(t.Context())
		var left sync.WaitGroup
		left.Go(func() { listen(waits, p, ask("m1", "hi")) })
		synctest.Wait()
		goAway()
		left.Wait()
		var next sync.WaitGroup
		p.says("m1", modeltest.Words("fine"))
		next.Go(func() {
			if got := listen(t.Context(), p, ask("m1", "hi")); got.text != "fine" {
				t.Errorf("got %+v", got)
			}
		})
		synctest.Wait()
		let()
		next.Wait()
		if standing := p.standing(t); standing.Active != 0 || standing.Waiting != 0 || standing.Breaker != "closed" {
			t.Errorf("left behind: %+v", standing)
		}
	})
}

func TestAProviderThatKeepsFailingIsLeftAlone(t *testing.T) {
	provide(t, oneOfTwo, func(t *testing.T, p *provided) {
		p.says("m1", modeltest.Reply{Status: 500})
		for range 3 {
			if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamError {
				t.Errorf("got %+v", fault)
			}
		}
		p.took()
		<-time.After(4 * time.Second)
		fault := listen(t.Context(), p, ask("m1", "hi")).fault(t)
		if fault.Code != upstreamUnavailable || !fault.Retryable || fault.RetryAfter != 6*time.Second || p.took() != "" {
			t.Errorf("got %+v", fault)
		}
		if got := listen(t.Context(), p, ask("m", "hi")); got.text != "from m2" || p.took() != "m2" {
			t.Errorf("another provider is not asked instead: %+v", got)
		}
		if standing := p.standing(t); standing.Breaker != "open" {
			t.Errorf("%+v", standing)
		}

		// One call finds out whether it is back; it is not.
		<-time.After(6*time.Second + time.Millisecond)
		if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamError || p.took() != "m1" {
			t.Errorf("the probe: %+v", fault)
		}
		if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamUnavailable || p.took() != "" {
			t.Errorf("behind it: %+v", fault)
		}

		// It is; its first word is enough.
		<-time.After(10*time.Second + time.Millisecond)
		p.says("m1", modeltest.Reply{Tokens: []string{"word ", "word "}, FirstToken: 2 * time.Second, BetweenTokens: 20 * time.Second})
		let := p.hold(t, "m1", 1)
		if fault := listen(t.Context(), p, ask("m1", "hi")).fault(t); fault.Code != upstreamUnavailable || p.standing(t).Breaker != "half-open" {
			t.Errorf("beside the probe: %+v", fault)
		}
		<-time.After(3 * time.Second)
		p.says("m1", modeltest.Words("fine"))
		if got := listen(t.Context(), p, ask("m1", "hi")); got.text != "fine" || p.standing(t).Breaker != "closed" {
			t.Errorf("behind its first word: %+v", got)
		}
		let()
	})
}

func TestWhatIsNotTheProvidersFaultDoesNotCount(t *testing.T) {
	for sentence, reply := range map[string]modeltest.Reply{
		"bad requests": {Status: 400}, "a wrong key": {Status: 401}, "an unknown model": {Status: 404}, "prompts that are too long": {Status: 413},
		"too many requests": {Status: 429, RetryAfter: "60"},
	} {
		t.Run(sentence, func(t *testing.T) {
			provide(t, oneOfTwo, func(t *testing.T, p *provided) {
				p.says("m1", modeltest.Reply{Status: 500})
				for range 2 {
					listen(t.Context(), p, ask("m1", "hi"))
				}
				p.says("m1", reply)
				for range 9 {
					listen(t.Context(), p, ask("m1", "hi"))
				}
				p.says("m1", modeltest.Reply{Hang: true})
				p.hold(t, "m1", 2)() // they leave
				if standing := p.standing(t); standing.Breaker != "closed" {
					t.Errorf("%+v", standing)
				}
				p.says("m1", modeltest.Reply{Status: 500}) // the third of those that count
				listen(t.Context(), p, ask("m1", "hi"))
				if standing := p.standing(t); standing.Breaker != "open" {
					t.Errorf("%+v", standing)
				}
				// Whoever answers is back, whatever the answer.
				<-time.After(10*time.Second + time.Millisecond)
				p.says("m1", reply)
				listen(t.Context(), p, ask("m1", "hi"))
				if standing := p.standing(t); standing.Breaker != "closed" {
					t.Errorf("behind the probe: %+v", standing)
				}
			})
		})
	}
}

func TestEachCallIsCountedByItsOutcome(t *testing.T) {
	provide(t, threeProviders, func(t *testing.T, p *provided) {
		p.says("m1", modeltest.Reply{Status: 503})
		listen(t.Context(), p, ask("m", "hi"))
		p.says("m1", modeltest.Reply{Tokens: []string{"a "}, HangAfter: 1})
		p.hold(t, "m", 1)()
		want := []string{"one upstream_error 0", "one upstream_error 0", "one upstream_error 0", "two ok 2", "one cancelled 0"}
		if !slices.Equal(p.ended, want) {
			t.Errorf("got %q", p.ended)
		}
	})
	provide(t, oneOfTwo, func(t *testing.T, p *provided) {
		p.says("m1", modeltest.Reply{Tokens: []string{"word "}, HangAfter: 1})
		let := p.hold(t, "m1", 2)
		listen(t.Context(), p, ask("m1", "hi")) // waits in vain
		let()
		if want := []time.Duration{0, 0, 5 * time.Second}; !slices.Equal(p.queued, want) || !slices.Contains(p.ended, "one upstream_busy 0") {
			t.Errorf("waited %v, ended %q", p.queued, p.ended)
		}
	})
}
