package projections_test

// This file tests that the fold passes over a record only where every replay will do the same.

import (
	"errors"
	"testing"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

func TestOnlyWhatCannotBeReadIsSkippedAndOnlyInFrontOfTheFold(t *testing.T) {
	db := newDatabase(t)
	story := &log{}
	story.add(opened("acc_1", "cmd_1", 0))
	story.add(moved("acc_1", "cmd_2", 0, account.Pro)) // loses
	poison := story.add(domain.Commit{})
	unknown := story.add(opened("acc_2", "cmd_3", 0))
	unknown.Events[0].Type = "account.sold"
	readable := story.add(opened("acc_3", "cmd_4", 0))
	db.apply(t, story.records[:2]...)

	refused := func(record domain.Recorded, decoded bool, want error) {
		t.Helper()
		before := dump(t, db.pool, "read")
		if err := db.projector.Skip(t.Context(), record, decoded); !errors.Is(err, want) {
			t.Errorf("skip %d: %v, want %v", record.Offset, err, want)
		}
		if after := dump(t, db.pool, "read"); after != before {
			t.Errorf("a refused skip changed the tables from\n%s\nto\n%s", before, after)
		}
	}
	passed := func(record domain.Recorded, decoded bool) {
		t.Helper()
		if err := db.projector.Skip(t.Context(), record, decoded); err != nil {
			t.Errorf("skip %d: %v", record.Offset, err)
		}
	}
	refused(story.records[0], true, projections.ErrFolded)
	refused(readable, true, projections.ErrNotThere)
	passed(story.records[1], true) // lost before: nothing changes
	passed(poison, false)
	passed(poison, false) // a second time, where the log did not hear of the first
	passed(unknown, true)
	refused(readable, true, projections.ErrReadable)
	if stands := checkpoint(t, db.projector, 0); stands != unknown.Offset {
		t.Fatalf("the checkpoint is %d", stands)
	}
	db.apply(t, readable)

	// A replay hears of the skips from the log, and comes to the same tables.
	pool := db.open(t, "read_next")
	next := db.prepared(t, pool, "read_next")
	replayed := append([]domain.Recorded{}, story.records...)
	for _, skipped := range []domain.Recorded{poison, unknown} {
		replayed[skipped.Offset] = domain.Recorded{Position: skipped.Position, Hash: skipped.Hash, Skipped: true}
	}
	if err := next.Apply(t.Context(), 0, -1, replayed); err != nil {
		t.Fatal(err)
	}
	if served, again := dump(t, db.pool, "read"), dump(t, pool, "read_next"); served != again {
		t.Errorf("served:\n%s\nreplayed:\n%s", served, again)
	}
}
