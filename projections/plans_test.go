package projections_test

// This file tests that lists are read through the index that has their order, and no further than they are asked for.

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/projections"
)

func TestListsAreReadInTheOrderOfTheirIndexes(t *testing.T) {
	db := newDatabase(t)
	execute(t, db.pool, `
		INSERT INTO erasures (stream, erasure, account, id_mac, turn, with_account, part, off, at)
		SELECT 'conversation-agt_1.' || n, 'era_1', 'acc_1', n, '', true, 0, n, now() FROM generate_series(1, 3000) n`)
	execute(t, db.pool, `INSERT INTO erasures VALUES ('account-acc_1', 'era_1', 'acc_1', '', '', false, 0, 0, now())`)
	execute(t, db.pool, `ANALYZE erasures`)
	captured := &capture{}
	pool := db.tapped(t, captured)
	for sentence, question := range map[string]struct {
		ask   func() error
		index string
		sorts string // what little may be sorted
	}{
		"the conversations of a bound key": {func() error {
			filter := projections.ConversationFilter{Only: []string{"agt_1", "agt_2"}}
			_, _, err := projections.NewConversations(pool).List(t.Context(), "acc_1", filter, projections.Page{})
			return err
		}, "conversations_of_agent", "Sort Key: conversations.created_at DESC"},
		"an account's erasure, whose conversations share it": {func() error {
			_, err := projections.NewErasures(pool).Get(t.Context(), "acc_1", "era_1")
			return err
		}, "erasures_by_id", "nothing"},
		"all accounts": {func() error {
			_, _, err := projections.NewAccounts(pool).List(t.Context(), projections.Page{})
			return err
		}, "accounts_in_order", "nothing"},
		"an account's names": {func() error {
			_, err := projections.NewHosts(pool).Agents(t.Context(), "acc_1")
			return err
		}, "hosts_of_account", "Sort Key: agent"},
		"what is left of erased accounts": {func() error {
			_, err := projections.NewErasures(pool).Left(t.Context(), 10)
			return err
		}, "accounts_erased", "nothing"},
	} {
		t.Run(sentence, func(t *testing.T) {
			_ = question.ask() // what is not there is as well read through an index
			rows, err := db.pool.Query(t.Context(), `EXPLAIN `+captured.sql, captured.args...)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(plan, "\n")
			if !strings.Contains(text, question.index) || strings.Contains(text, "Seq Scan") || (strings.Contains(text, "Sort  (") && !strings.Contains(text, question.sorts)) {
				t.Errorf("it is read so:\n%s", text)
			}
		})
	}
}
