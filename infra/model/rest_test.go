package model

// These tests are about when a provider's reply is not read for a while, since nobody could see more of it yet.

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

func TestARestIsTakenBetweenTheFirstWordAndTheEndAndIsNotTheProvidersTime(t *testing.T) {
	reply := modeltest.Reply{Tokens: []string{"a ", "b ", "c "}, FirstToken: time.Second, BetweenTokens: time.Second}
	bubble(t, scripted(reply), nil, func(t *testing.T, _ *modeltest.Handler, model string, router *Router) {
		if model != kinds[kindOpenAI] {
			return // the SDK reads by itself
		}
		prompt, began, rests := ask(model, "hi"), time.Now(), 0
		prompt.Rest = func(context.Context) {
			if rests == 0 && time.Since(began) != time.Second {
				t.Errorf("the first rest is taken after %v", time.Since(began))
			}
			rests++
			time.Sleep(10 * time.Minute) // of the bubble's clock; no token may take that long
		}
		if got := listen(t.Context(), router, prompt); got.err != nil || got.text != "a b c " || rests != 3 {
			t.Errorf("got %+v and %d rests", got, rests)
		}
	})
}

// arriving is a body of which a read brings one piece, the ones behind a wait when that is over.
type arriving struct {
	pieces []string
	waits  time.Duration
}

func (a *arriving) Read(p []byte) (int, error) {
	if len(a.pieces) == 0 {
		return 0, io.EOF
	}
	time.Sleep(a.waits)
	n := copy(p, a.pieces[0])
	if a.pieces[0] = a.pieces[0][n:]; a.pieces[0] == "" {
		a.pieces = a.pieces[1:]
	}
	return n, nil
}

func TestAReaderKnowsWhetherMoreHasCome(t *testing.T) {
	event := "data: " + strings.Repeat("x", 242) + "\n\n"
	for name, test := range map[string]struct {
		pieces    []string
		encrypted bool
		waits     time.Duration
		want      string // of each event: whether the reader is drained behind it
	}{
		"events that come one by one":               {[]string{event, event}, false, time.Second, "yy"},
		"events that came together":                 {[]string{event + event + event}, false, 0, "nny"},
		"an event that is not whole yet":            {[]string{event + event[:9], event[9:]}, false, 0, "ny"},
		"more than a look brings":                   {[]string{strings.Repeat(event, 6)}, false, 0, "nnnnny"},
		"encrypted events that came together":       {[]string{event, event}, true, 0, "nn"},
		"encrypted events that were waited for":     {[]string{event, event}, true, time.Second, "yy"},
		"encrypted events in one piece, waited for": {[]string{event + event}, true, time.Second, "ny"},
	} {
		synctest.Test(t, func(t *testing.T) {
			events := newEventReader(&arriving{test.pieces, test.waits}, 1<<20)
			defer events.free()
			events.pieces = test.encrypted
			got := ""
			for {
				if _, err := events.next(); err != nil {
					break
				}
				got += map[bool]string{true: "y", false: "n"}[events.drained()]
			}
			if got != test.want {
				t.Errorf("%s: drained is %s, want %s", name, got, test.want)
			}
		})
	}
}
