package postgres

// This file stands before every question of a request. A server that this node has not met before may be one that lost
// commits when it took over or crashed, or one that was restored: keys that were revoked would be valid on it. So it is
// asked nothing until it is seen to have folded everything that was in the log when the node met it.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// provePoll is how often a server is asked how far it is.
	provePoll = 20 * time.Millisecond
	// provePause lies between two attempts that failed.
	provePause = 100 * time.Millisecond
	// provePatience bounds each step of one.
	provePatience = 3 * time.Second
)

// unproven is an error that says of itself that nothing has reached the server.
type unproven struct{}

func (unproven) Error() string {
	return "postgres is another server than before, or has started again or crashed, and has not been seen to have folded the log"
}

// SafeToRetry is how Postgres' client marks such errors.
func (unproven) SafeToRetry() bool { return true }

// ErrUnproven: the server may not have folded everything that was acknowledged.
var ErrUnproven error = unproven{}

// GuardConfig says how a server is proven. All fields are required.
type GuardConfig struct {
	// Ends returns the next offset of every partition of the log.
	Ends func(context.Context) (map[int32]int64, error)
	// Passed returns the last offset of every partition that the server has folded.
	Passed func(context.Context, *pgx.Conn) (map[int32]int64, error)
	Logger *slog.Logger
}

// Guard keeps requests away from a server that is not proven. It lets everything through until Establish is called, and
// then looks at every new connection: a failover, a restart and a crash end the old ones.
type Guard struct {
	config GuardConfig

	mu      sync.Mutex
	pool    *pgxpool.Pool // of requests
	armed   bool
	trusted string        // the server that is proven, or ""
	changed chan struct{} // closed when trusted changes
	doubt   chan struct{} // wakes Run
}

// NewGuard returns a guard for Config.Guard.
func NewGuard(config GuardConfig) *Guard {
	return &Guard{config: config, changed: make(chan struct{}), doubt: make(chan struct{}, 1)}
}

// Establish closes the pool to requests until the server that is there is proven. Run must be running.
func (g *Guard) Establish(ctx context.Context) error {
	g.mu.Lock()
	g.armed, g.trusted = true, ""
	g.mu.Unlock()
	g.wake()
	for {
		g.mu.Lock()
		proven, changed := g.trusted != "", g.changed
		g.mu.Unlock()
		if proven {
			g.pool.Reset() // connections from before may lead to another one
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the fold: %w", context.Cause(ctx))
		}
	}
}

// Proven reports whether requests may ask.
func (g *Guard) Proven() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.armed || g.trusted != ""
}

func (g *Guard) isArmed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.armed
}

// Run proves servers until the context ends.
func (g *Guard) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.doubt:
		}
		began, told := time.Now(), false
		for !g.Proven() {
			server, err := g.prove(ctx)
			switch {
			case ctx.Err() != nil:
				return nil //nolint:nilerr // it was told to end
			case err == nil:
				g.trust(server)
				g.config.Logger.InfoContext(ctx, "postgres has folded the log; requests are served from it", "after", time.Since(began))
			case !told:
				told = true
				g.config.Logger.WarnContext(ctx, "postgres is not proven yet", "error", err)
			}
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(provePause):
				}
			}
		}
	}
}

// prove waits until one server has passed the ends that the log had after the connection to it stood.
func (g *Guard) prove(ctx context.Context) (server string, err error) {
	bounded := func(step func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, provePatience)
		defer cancel()
		return step(ctx)
	}
	var conn *pgx.Conn
	err = bounded(func(ctx context.Context) (err error) {
		if conn, err = pgx.ConnectConfig(ctx, g.pool.Config().ConnConfig); err != nil {
			return err
		}
		if server, err = identify(ctx, conn); err != nil || server != "" {
			return err
		}
		if err = name(ctx, conn); err == nil {
			server, err = identify(ctx, conn)
		}
		if err == nil && server == "" {
			err = errNameless
		}
		return err
	})
	if conn != nil {
		defer func() {
			closing := bounded(func(ctx context.Context) error { return conn.Close(context.WithoutCancel(ctx)) })
			_ = closing // it has said what it was asked
		}()
	}
	var ends, passed map[int32]int64
	if err == nil {
		err = bounded(func(ctx context.Context) (err error) { ends, err = g.config.Ends(ctx); return err })
	}
	for err == nil {
		err = bounded(func(ctx context.Context) (err error) { passed, err = g.config.Passed(ctx, conn); return err })
		if err == nil && reached(ends, passed) {
			return server, nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(provePoll):
		}
	}
	return "", fmt.Errorf("prove postgres: %w", err)
}

// reached reports whether all that lies before the ends has been folded.
func reached(ends, passed map[int32]int64) bool {
	for partition, end := range ends {
		if folded, begun := passed[partition]; end > 0 && (!begun || folded < end-1) {
			return false
		}
	}
	return true
}

// guard makes a pool's new connections pass by here. An exempt pool is not kept waiting: the fold needs it, to get as far
// as requests wait for; but what it meets is also looked at.
func (g *Guard) guard(parsed *pgxpool.Config, exempt bool) {
	if !exempt {
		parsed.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if !g.Proven() {
				return ErrUnproven // without troubling a server with it that has enough to do
			}
			return nil
		}
	}
	parsed.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if !g.isArmed() {
			return nil // a node that starts has yet to make the table
		}
		server, err := identify(ctx, conn)
		if errors.Is(err, errStandby) {
			server, err = "standby", nil
		}
		if err != nil {
			return err
		}
		if !g.meet(server) && !exempt {
			return ErrUnproven
		}
		return nil
	}
}

// serve names the pool that requests use.
func (g *Guard) serve(pool *pgxpool.Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pool = pool
}

// meet reports whether a server may be asked. One that is met anew ends the trust in the one before.
func (g *Guard) meet(server string) bool {
	g.mu.Lock()
	if !g.armed || server != "" && server == g.trusted {
		g.mu.Unlock()
		return true
	}
	fell := g.trusted != ""
	g.change("")
	g.mu.Unlock()
	if fell {
		g.pool.Reset()
	}
	g.wake()
	return false
}

func (g *Guard) trust(server string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(server)
}

// change is called with the mutex held.
func (g *Guard) change(server string) {
	g.trusted = server
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Guard) wake() {
	select {
	case g.doubt <- struct{}{}:
	default: // it is awake
	}
}
