package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
)

// guarded is a guard over a log that ends where the test says, and a fold that is as far as it says.
type guarded struct {
	*postgres.Guard
	requests, fold *pgxpool.Pool
	end, folded    atomic.Int64
	noLog          atomic.Bool
}

func startGuard(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{}
	g.Guard = postgres.NewGuard(postgres.GuardConfig{
		Ends: func(context.Context) (map[int32]int64, error) {
			if g.noLog.Load() {
				return nil, errors.New("the log is away")
			}
			return map[int32]int64{0: g.end.Load(), 1: 0}, nil
		},
		Passed: func(context.Context, *pgx.Conn) (map[int32]int64, error) {
			return map[int32]int64{0: g.folded.Load()}, nil
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	config := postgres.Config{URL: enginestest.Postgres(t), MaxConns: 4, Guard: g.Guard}
	g.requests = open(t, config)
	config.Exempt = true
	g.fold = open(t, config)
	if err := postgres.Migrate(t.Context(), g.fold); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestAServerIsAskedNothingBeforeItHasFoldedTheLog(t *testing.T) {
	g := startGuard(t)
	g.end.Store(10)
	g.folded.Store(8)
	if err := g.requests.Ping(t.Context()); err != nil {
		t.Fatalf("before the node serves, everything may ask: %v", err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := g.Establish(impatient); !errors.Is(err, context.DeadlineExceeded) || g.Proven() {
		t.Fatalf("established while a record was missing: %v", err)
	}
	g.requests.Reset() // what was open before is for the start alone
	err := g.requests.Ping(t.Context())
	var unsent interface{ SafeToRetry() bool }
	if !errors.Is(err, postgres.ErrUnproven) || !errors.As(err, &unsent) || !unsent.SafeToRetry() {
		t.Errorf("a request got through, or was refused otherwise: %v", err)
	}
	if err := g.fold.Ping(t.Context()); err != nil {
		t.Errorf("the fold is kept out: %v", err)
	}

	g.folded.Store(9)
	if err := g.Establish(t.Context()); err != nil || !g.Proven() {
		t.Fatalf("the last record has been folded: %v", err)
	}
	if err := g.requests.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	g.end.Store(1000) // goes on; the server is the same
	g.requests.Reset()
	if err := g.requests.Ping(t.Context()); err != nil {
		t.Errorf("another connection to the same server: %v", err)
	}
}

func TestAServerThatRecoveredFromACrashIsProvenAnew(t *testing.T) {
	g := startGuard(t)
	g.end.Store(10)
	g.folded.Store(9)
	if err := g.Establish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, meet := range map[string]*pgxpool.Pool{"met by a request": g.requests, "met by the fold": g.fold} {
		t.Run(name, func(t *testing.T) {
			began := one[string](t, g.fold, `SELECT name::text FROM life`)
			g.folded.Store(7)                  // commits that were not on disk are gone …
			run(t, g.fold, `DELETE FROM life`) // … which recovery tells by this
			meet.Reset()                       // no connection outlives it
			_ = meet.Ping(t.Context())         // what becomes of it is looked at below
			if err := g.requests.Ping(t.Context()); !errors.Is(err, postgres.ErrUnproven) || g.Proven() {
				t.Fatalf("a request got through: %v", err)
			}
			g.folded.Store(9)
			if err := g.Establish(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := g.requests.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			if now := one[string](t, g.fold, `SELECT name::text FROM life`); now == began {
				t.Error("its new life has the name of the old one")
			}
		})
	}
}

func TestWithoutTheLogsEndsNothingIsProven(t *testing.T) {
	g := startGuard(t)
	g.noLog.Store(true)
	impatient, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := g.Establish(impatient); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	g.noLog.Store(false)
	g.folded.Store(-1)
	if err := g.Establish(t.Context()); err != nil {
		t.Errorf("an empty log, and an empty read model: %v", err)
	}
}
