package projections_test

// This file tests who has come near the day's limit.

import (
	"testing"
	"time"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

func TestAccountsNearTheirLimitAreFound(t *testing.T) {
	db := newDatabase(t)
	var story log
	for id, opened := range map[string]account.Opened{
		"acc_free":   {Name: "A", Plan: account.Free},
		"acc_custom": {Name: "B", Plan: account.Free, Custom: account.Limits{PerDay: 10}},
		"acc_below":  {Name: "C", Plan: account.Free, Custom: account.Limits{PerDay: 10}},
		"acc_none":   {Name: "D", Plan: account.Enterprise},
		"acc_huge":   {Name: "E", Plan: account.Enterprise, Custom: account.Limits{PerDay: 1<<63 - 1}},
		"acc_before": {Name: "F", Plan: account.Free, Custom: account.Limits{PerDay: 10}},
	} {
		db.apply(t, story.add(commit(account.Aggregate, id, 0, "open "+id, noon, opened)))
	}
	count := func(id, counter string, day time.Time, used int64) {
		t.Helper()
		const insert = `INSERT INTO admission_counters (account, counter, seconds, counts, touched) VALUES ($1, $2, $3, $4, now())`
		if _, err := db.pool.Exec(t.Context(), insert, id, counter, []int64{day.Unix()}, []int64{used}); err != nil {
			t.Fatal(err)
		}
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	count("acc_free", "day:", today, 800)
	count("acc_free", "key:k", today, 999)
	count("acc_custom", "day:", today, 12)
	count("acc_below", "day:", today, 7)
	count("acc_none", "day:", today, 1_000_000)
	count("acc_huge", "day:", today, 1_000_000)
	count("acc_before", "day:", today.Add(-24*time.Hour), 10)
	found, err := projections.NewAccounts(db.pool).NearLimit(t.Context(), 80)
	for i, spent := range found {
		if since := spent.At.Sub(today); since < 0 || since > 48*time.Hour {
			t.Errorf("found at %v", spent.At)
		}
		found[i].At = time.Time{}
	}
	wantEqual(t, "near their limit", found, []projections.Spent{
		{Account: "acc_custom", Limit: 10, Used: 12}, {Account: "acc_free", Limit: 1000, Used: 800},
	}, err)
}
