package admission

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain/quota"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/postgres"
)

// database gives the URL of a fresh database with our schema.
func database(t testing.TB) string {
	t.Helper()
	url := enginestest.Postgres(t)
	if err := postgres.Migrate(t.Context(), open(t, url)); err != nil {
		t.Fatal(err)
	}
	return url
}

// open gives a pool, as every node has one of its own.
func open(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// clock is a time that only the test moves, for Postgres and the nodes alike.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 14, 23, 57, 10, 250_000_000, time.UTC)} }

// node is an Admission that lives by the clock.
func (c *clock) node(pool *pgxpool.Pool) *Admission {
	node := New(pool)
	node.now = func() time.Time { return c.at }
	node.at = func() *time.Time { return &c.at }
	return node
}

var accounts atomic.Int64

// newAccount names an account that nobody has used.
func newAccount() string { return fmt.Sprintf("acc_%d", accounts.Add(1)) }

func perKey(account, key string, limit int64) quota.Request {
	return quota.Request{Account: account, Rules: []quota.Rule{{Policy: quota.Key, Subject: key, Limit: limit}}}
}

// tester is what tests and properties have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Context() context.Context
}

// ask is one request that must get an answer.
func ask(t tester, node *Admission, request quota.Request) quota.Verdict {
	t.Helper()
	verdict, err := node.Admit(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}
