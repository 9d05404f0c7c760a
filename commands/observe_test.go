package commands_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
)

// watcher counts what it is told.
type watcher struct {
	mu   sync.Mutex
	told map[string]int
}

func (w *watcher) hear(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told == nil {
		w.told = map[string]int{}
	}
	w.told[fmt.Sprintf(format, args...)]++
}

func (w *watcher) Commanded(command, outcome string, lost int, _ time.Duration) {
	w.hear("%s %s, %d lost", command, outcome, lost)
}
func (w *watcher) Appended(outcome string, _ time.Duration) { w.hear("append %s", outcome) }
func (w *watcher) Awaited(outcome string, _ time.Duration)  { w.hear("wait %s", outcome) }

func (w *watcher) was(t *testing.T, want map[string]int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !maps.Equal(w.told, want) {
		t.Errorf("told %v, not %v", w.told, want)
	}
	w.told = nil
}

func TestEveryOutcomeOfACommandIsToldOnce(t *testing.T) {
	m, heard := newMemory(), &watcher{}
	accounts := commands.Handler[account.Command, account.Event, account.State]{Store: m.store(), Aggregate: account.Aggregate}
	accounts.Observer = heard
	run := func(step string, seed byte, command account.Command, want map[string]int) {
		t.Helper()
		_, _ = accounts.Handle(t.Context(), "acc_1", step, metaAt(seed), command) // what it answers is other tests' business
		heard.was(t, want)
	}
	open := account.Open{Name: "Acme", Plan: account.Free}
	run("change plan", 1, account.ChangePlan{Plan: account.Pro}, map[string]int{"account.change_plan refused, 0 lost": 1})
	run("open", 2, open, map[string]int{"account.open accepted, 0 lost": 1, "append accepted": 1, "wait accepted": 1})
	run("open", 2, open, map[string]int{"account.open already_committed, 0 lost": 1})
	run("resume", 3, account.Resume{}, map[string]int{"account.resume nothing_new, 0 lost": 1})
	m.fates = func(domain.Commit) fate { return refused }
	run("suspend", 4, account.Suspend{}, map[string]int{"account.suspend unavailable, 0 lost": 1, "append unavailable": 1})
	m.fates = func(domain.Commit) fate { return lost }
	run("suspend", 5, account.Suspend{}, map[string]int{"account.suspend unknown, 0 lost": 1, "append unknown": 1})

	m.loadErr = context.Canceled // a client that has left is no store's fault
	run("suspend", 7, account.Suspend{}, map[string]int{"account.suspend cancelled, 0 lost": 1})
	m.loadErr = nil

	tallies := tallying(m)
	tallies.Observer, m.fates = heard, nil
	beat := rival(m)
	m.before = func(commit domain.Commit) {
		if commit.Base < 3 {
			beat(commit)
		}
	}
	if _, err := tallies.Handle(t.Context(), "s", "add", metaAt(6), add{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	heard.was(t, map[string]int{"tally.add accepted, 3 lost": 1, "append accepted": 4, "wait lost": 3, "wait accepted": 1})
}

func TestAnAgentsCreationIsToldWithItsName(t *testing.T) {
	m, heard := newMemory(), &watcher{}
	store := m.store()
	store.Observer = heard
	if _, err := commands.NewAgents(store).Create(t.Context(), freshAt(1), ana); err != nil {
		t.Fatal(err)
	}
	heard.was(t, map[string]int{
		"host.claim accepted, 0 lost": 1, "agent.create accepted, 0 lost": 1, "host.bind accepted, 0 lost": 1, "append accepted": 3, "wait accepted": 3,
	})
}

func TestACommitCarriesTheTraceOfItsAppend(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	m := newMemory()
	traced, request := provider.Tracer("test").Start(t.Context(), "request")
	for ctx, want := range map[context.Context]bool{traced: true, t.Context(): false} {
		before := len(m.commits())
		if _, err := tallying(m).Handle(ctx, fmt.Sprint("s", want), "add", metaAt(7), add{Name: "a"}); err != nil {
			t.Fatal(err)
		}
		trace := m.commits()[before].Trace
		if !want {
			if trace != "00-trace-01" {
				t.Errorf("a commit of an untraced request carries %q, not what its client said", trace)
			}
			continue
		}
		var append, command tracetest.SpanStub
		for _, span := range spans.GetSpans() {
			switch span.Name {
			case "append":
				append = span
			case "tally.add":
				command = span
			}
		}
		if trace != "00-"+request.SpanContext().TraceID().String()+"-"+append.SpanContext.SpanID().String()+"-01" ||
			append.Parent.SpanID() != command.SpanContext.SpanID() || command.Parent.SpanID() != request.SpanContext().SpanID() {
			t.Errorf("the commit carries %q, the append is %v below %v", trace, append.SpanContext.SpanID(), append.Parent.SpanID())
		}
	}
}
