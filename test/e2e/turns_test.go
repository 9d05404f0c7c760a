package e2e

// This file counts turns and their ends, in the log and in the tables, past the API.

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// openTurns counts the turns without an end in Postgres.
func openTurns(t *testing.T, in *breakable) (count int) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), variable(t, in.behind, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM read.turns`).Scan(&count); err != nil {
		t.Fatal(err)
	}
	return count
}

// checkTurns wants exactly one end for every message of the log, and the log's messages, once each, in Postgres.
func checkTurns(t *testing.T, in *breakable) {
	t.Helper()
	turns := acceptedTurns(t, in.engines)
	inLog := map[string]int64{}
	for turn, events := range turns {
		if len(events) != 2 || events[0] != "message.received" || !strings.HasPrefix(events[1], "reply.") {
			t.Errorf("turn %s: %v", turn, events)
		}
		inLog[turn+" user"], inLog[turn+" assistant"] = 1, 1
	}
	db, err := pgx.Connect(t.Context(), variable(t, in.behind, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	rows, err := db.Query(t.Context(), `SELECT turn || ' ' || role, count(*) FROM read.messages GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	if inPostgres := counts(t, rows); !maps.Equal(inLog, inPostgres) {
		t.Errorf("%d messages in the log, %d in Postgres, or some of them doubled", len(inLog), len(inPostgres))
	}
}
