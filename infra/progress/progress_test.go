package progress_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/infra/progress"
)

func TestALineEverySecondSaysHowFarItIsAndHowLongItWillTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		p := &progress.Progress{Out: &said}
		p.Begin("copying events", "records", 4000)
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			p.Add(100, 50_000)
		}
		p.Begin("rebuilding", "events", 0)
		time.Sleep(2 * time.Second)
		p.Add(10, 0)
		p.End()
		want := `copying events: 1000 of 4000 records (25 %), 1000 records/s, 0.5 MB, 0.5 MB/s, 3s left
copying events: 2000 of 4000 records (50 %), 1000 records/s, 1.0 MB, 0.5 MB/s, 2s left
copying events: 3000 of 4000 records (75 %), 1000 records/s, 1.5 MB, 0.5 MB/s, 1s left
rebuilding: 10 events, 5 events/s
rebuilding: 10 events, 5 events/s
`
		if said.String() != want {
			t.Errorf("said\n%s, want\n%s", &said, want)
		}
	})
}

func TestWhatDoesNotMoveIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &progress.Progress{Out: &bytes.Buffer{}}
		ctx, stop := p.Watch(t.Context(), 10*time.Second)
		defer stop()
		p.Begin("copying events", "records", 4000)
		for range 5 {
			time.Sleep(9 * time.Second)
			p.Add(1, 0)
		}
		if ctx.Err() != nil {
			t.Fatal("what moves slowly is given up")
		}
		time.Sleep(12 * time.Second)
		if cause := context.Cause(ctx); cause == nil || !strings.Contains(cause.Error(), "copying events: nothing has moved for 10s") {
			t.Errorf("got %v", cause)
		}
	})
}

func TestNobodyNeedsToListen(t *testing.T) {
	var p *progress.Progress
	ctx, stop := p.Watch(t.Context(), time.Nanosecond)
	p.Begin("x", "y", 1)
	p.Add(1, 1)
	p.End()
	if ctx.Err() != nil {
		t.Error("it was given up")
	}
	if stop(); ctx.Err() == nil {
		t.Error("it goes on")
	}
}
