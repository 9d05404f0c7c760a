package projections_test

// This file tests the fold of batches whose streams are remembered, and of those whose are not.

import (
	"slices"
	"testing"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

func TestAProjectorAsksForStreamsThatItDoesNotRemember(t *testing.T) {
	db := newDatabase(t)
	var story log
	db.apply(t, story.add(opened("a", "c1", 0)), story.add(opened("b", "c2", 0)))
	for name, next := range map[string]struct {
		commit domain.Commit
		lost   int
	}{
		"one that says it is new, and is not": {opened("a", "c3", 0), 1},
		"one that goes on":                    {moved("b", "c4", 1, account.Pro), 0},
	} {
		t.Run(name, func(t *testing.T) {
			// It took the partition over a moment ago, and remembers what its one batch was about.
			other := projections.NewPostgres(db.open(t, "read"), "read", quiet())
			lost := len(query[int64](t, db.pool, `SELECT off FROM rejections`))
			for _, commit := range []domain.Commit{opened("of "+name, "c5", 0), next.commit} {
				record := story.add(commit)
				if err := other.Apply(t.Context(), 0, record.Offset-1, []domain.Recorded{record}); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(query[int64](t, db.pool, `SELECT off FROM rejections`)); got != lost+next.lost {
				t.Errorf("%d commits lost, want %d", got-lost, next.lost)
			}
		})
	}
	if versions := query[int64](t, db.pool, `SELECT version FROM streams WHERE stream IN ('account-a', 'account-b') ORDER BY stream`); !slices.Equal(versions, []int64{1, 2}) {
		t.Errorf("versions %v", versions)
	}
}

func TestAStreamThatIsNotWhereItIsRememberedFailsTheBatch(t *testing.T) {
	db := newDatabase(t)
	var story log
	db.apply(t, story.add(opened("a", "c1", 0)))
	execute(t, db.pool, `UPDATE streams SET version = 2`) // what no fold does
	record := story.add(moved("a", "c2", 1, account.Pro))
	if err := db.projector.Apply(t.Context(), 0, 0, []domain.Recorded{record}); err != nil {
		t.Fatal(err)
	}
	if lost := query[int64](t, db.pool, `SELECT off FROM rejections`); !slices.Equal(lost, []int64{1}) {
		t.Errorf("rejected %v: the batch was folded onto what was remembered", lost)
	}
}
