package projections_test

// This file tests holding the fold still, and that nobody does so for longer than they live.

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

func TestWhoHoldsTheFoldStillAndVanishesLetsItGo(t *testing.T) {
	db := newDatabase(t)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.url, IdleTransactionTimeout: 12 * 3600e9}) // an operator's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	frozen, err := projections.NewPostgres(pool, "read", quiet()).Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var limit string
	if err := frozen.Commit(t.Context(), func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&limit)
	}); err != nil {
		t.Fatal(err)
	}
	if limit != "15s" {
		t.Errorf("Postgres ends the session of one that has vanished after %s", limit)
	}
}
