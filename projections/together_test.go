package projections_test

// This file tests that questions which come at the same time go together, and that each gets its own answer all the same.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/projections"
)

// calls counts statements.
type calls struct{ made atomic.Int64 }

// TraceQueryStart implements pgx.QueryTracer.
func (c *calls) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.made.Add(1)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (c *calls) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// held is a table that nobody can read until it is let go of.
func (db *database) held(t *testing.T, table string) (letGo func()) {
	t.Helper()
	tx, err := db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE `+pgx.Identifier{table}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	letGo = func() { once.Do(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }) }
	t.Cleanup(letGo)
	return letGo
}

// waitFor waits until so many sessions wait for a lock of the test's database.
func (db *database) waitFor(t *testing.T, sessions int) {
	t.Helper()
	ctx := soon(t)
	for {
		var waiting int
		err := db.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		if waiting >= sessions {
			return
		}
	}
}

func (db *database) counted(t *testing.T, tracer *calls) *pgxpool.Pool {
	t.Helper()
	config := db.pool.Config()
	config.ConnConfig.Tracer = tracer
	config.MaxConns = 40
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestQuestionsThatComeTogetherAreAskedTogether holds one question up, lets 120 others come, and then lets them go: each is
// about a conversation of its own, and they are asked by few statements.
func TestQuestionsThatComeTogetherAreAskedTogether(t *testing.T) {
	db := newDatabase(t)
	story := tenant()
	const askers = 120
	for i := range askers {
		c := newChat("acc_1", "agt_1", fmt.Sprint("m", i), noon)
		story.add(c.receive("hola", "boot1"))
		story.add(c.complete(fmt.Sprint("reply ", i)))
	}
	db.apply(t, story.records...)
	tracer := &calls{}
	chat := projections.NewChat(db.counted(t, tracer))
	ask := func(ctx context.Context, i int) error {
		got, err := chat.Admit(ctx, projections.Admission{PublicID: "k1", AgentID: "agt_1", Mac: fmt.Sprint("m", i), Command: "new"})
		if err != nil {
			return err
		}
		key := newChat("acc_1", "agt_1", fmt.Sprint("m", i), noon).key()
		if got.Stream != projections.ConversationStream("agt_1", fmt.Sprint("m", i)) || got.Snapshot.Version != 2 || len(got.History) != 2 || got.Key == nil || got.Key.ID != key {
			return fmt.Errorf("question %d was answered with %+v", i, got)
		}
		return nil
	}
	for range 3 { // statements are prepared once per connection, in a call of its own
		if err := ask(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}

	letGo := db.held(t, "streams")
	tracer.made.Store(0)
	leaving, leave := context.WithCancelCause(t.Context())
	errGone := errors.New("the client has gone")
	gone := make(chan error, 1)
	go func() { gone <- ask(leaving, 0) }()
	db.waitFor(t, 1)
	answers := make(chan error, askers)
	for i := range askers {
		go func() { answers <- ask(t.Context(), i) }()
	}
	db.waitFor(t, 2) // the first has outlasted its patience: others have gone before its end
	leave(errGone)
	if err := <-gone; !errors.Is(err, errGone) && !errors.Is(err, context.Canceled) {
		t.Errorf("a question whose client has gone: %v", err)
	}
	letGo()
	for range askers {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d questions in %d statements", askers, tracer.made.Load())
	if made := tracer.made.Load(); made > askers/4 {
		t.Errorf("%d questions took %d statements", askers, made)
	}
}
