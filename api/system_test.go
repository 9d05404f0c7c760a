package api

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowHealth counts the looks.
type slowHealth struct{ looks atomic.Int32 }

func (h *slowHealth) Check(ctx context.Context) (bool, map[string]string, map[string]Lag) {
	h.looks.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return ctx.Err() == nil, nil, nil
}

func TestHoweverManyAskHowTheNodeIsOneLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shared looks
		var health slowHealth
		var all sync.WaitGroup
		ctx, leave := context.WithCancel(t.Context())
		for i := range 100 {
			all.Go(func() {
				if ready, _, _ := shared.check(ctx, &health); !ready {
					t.Errorf("%d hears that it is not ready", i)
				}
			})
		}
		synctest.Wait()
		leave() // whoever asked first does not take the answer along
		all.Wait()
		if looks := health.looks.Load(); looks != 1 {
			t.Errorf("%d looks at once", looks)
		}
		if ready, _, _ := shared.check(t.Context(), &health); !ready || health.looks.Load() != 2 {
			t.Errorf("%v, and %d looks: what was found before is not found again", ready, health.looks.Load())
		}
	})
}
