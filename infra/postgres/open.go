package postgres

// This file stands at start: it opens the pool through which everything else speaks to Postgres.

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pingTimeout bounds the question whether a connection that lay idle is still alive; after it, another one is taken.
const pingTimeout = 300 * time.Millisecond

// userTimeout bounds how long what was sent may stay unacknowledged.
const userTimeout = 10 * time.Second

// Open opens a pool and makes sure that the server answers.
func Open(ctx context.Context, config Config) (*pgxpool.Pool, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	parsed, err := pgxpool.ParseConfig(config.URL)
	if err != nil {
		return nil, fmt.Errorf("read the postgres URL: %w", err)
	}
	config.apply(parsed)
	pool, err := pgxpool.NewWithConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("open the postgres pool: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, config.ConnectTimeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach postgres: %w", err)
	}
	if config.Guard != nil && !config.Exempt {
		config.Guard.serve(pool)
	}
	return pool, nil
}

// apply puts our settings over those of the URL.
func (c Config) apply(parsed *pgxpool.Config) {
	parsed.MaxConns = c.MaxConns
	parsed.PingTimeout = pingTimeout
	connection := parsed.ConnConfig
	connection.ConnectTimeout = c.ConnectTimeout
	// A server that vanished without a word is noticed on an open connection, too.
	connection.DialFunc = (&net.Dialer{
		Timeout: c.ConnectTimeout, Control: unacknowledged,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	}).DialContext
	connection.Tracer = acquireLimit{c.AcquireTimeout}
	for name, value := range map[string]string{
		"application_name": c.ApplicationName,
		"search_path":      searchPath(c.Schemas),
		"timezone":         "UTC",
		// A plan that was cached while its tables were small stays as long as the connection: with it a look at a stream
		// took 4.5 ms once 40,000 commits were there, with these two 0.1 ms. Every question of ours has its index.
		"enable_seqscan":                      "off",
		"jit":                                 "off",
		"statement_timeout":                   milliseconds(c.StatementTimeout),
		"lock_timeout":                        milliseconds(c.LockTimeout),
		"idle_in_transaction_session_timeout": milliseconds(c.IdleTransactionTimeout),
	} {
		connection.RuntimeParams[name] = value
	}
	if c.Guard != nil {
		c.Guard.guard(parsed, c.Exempt)
	}
	if c.Relaxed {
		connection.RuntimeParams["synchronous_commit"] = "off"
	}
	if c.ByKey {
		connection.RuntimeParams["enable_hashjoin"] = "off"
		connection.RuntimeParams["enable_mergejoin"] = "off"
		connection.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	}
}

func searchPath(schemas []string) string {
	quoted := make([]string, len(schemas))
	for i, name := range schemas {
		quoted[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(quoted, ",")
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// acquireLimit gives each wait for a connection a limit of its own. The pool has no setting for that, but it waits with
// the context that a tracer answers; the query behind it keeps the caller's.
type acquireLimit struct{ limit time.Duration }

type acquireCancel struct{}

// TraceAcquireStart begins the limit.
func (l acquireLimit) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	ctx, cancel := context.WithTimeout(ctx, l.limit)
	return context.WithValue(ctx, acquireCancel{}, cancel)
}

// TraceAcquireEnd ends it.
func (l acquireLimit) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	if cancel, ok := ctx.Value(acquireCancel{}).(context.CancelFunc); ok {
		cancel()
	}
}

// TraceQueryStart is there because a pool takes its tracer from the connection's; it does nothing.
func (acquireLimit) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (acquireLimit) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
