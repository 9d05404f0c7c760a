package projections_test

// This file tests that a comparison of two folds finds what differs, and nothing else.

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/projections"
)

// differences compares read with read_verify, and says each difference in a line.
func differences(t *testing.T, db *database, limit int) []string {
	t.Helper()
	comparison, err := projections.Compare(t.Context(), db.pool, "read", "read_verify")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := comparison.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	var said []string
	err = comparison.Differences(t.Context(), limit, func(_ string, _ int64, found []projections.Difference) {
		for _, difference := range found {
			said = append(said, difference.String())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func TestAComparisonFindsEveryKindOfDifferenceAndNothingElse(t *testing.T) {
	db := newDatabase(t)
	pool := db.open(t, "read_verify")
	fresh := db.prepared(t, pool, "read_verify")
	story := &log{}
	story.add(opened("acc_1", "cmd_1", 0))
	story.add(moved("acc_1", "cmd_2", 1, account.Pro))
	story.add(moved("acc_1", "cmd_3", 1, account.Free)) // loses
	c := newChat("acc_1", "agt_1", "m1", noon.Add(time.Hour))
	story.add(c.receive("hola", "boot1"))
	story.add(c.complete("buenas"))
	late := newChat("acc_1", "agt_1", "m2", noon.Add(72*time.Hour)) // the commits before are too old by now
	story.add(late.receive("hola", "boot1"))
	db.apply(t, story.records...)
	for i, record := range story.records {
		if err := fresh.Apply(t.Context(), 0, int64(i)-1, story.records[i:i+1]); err != nil {
			t.Fatalf("record %d: %v", record.Offset, err)
		}
	}
	if found := differences(t, db, 10); len(found) > 0 {
		t.Fatalf("two folds of one log differ:\n%s", strings.Join(found, "\n"))
	}
	// Old commits are dropped in bites: they may be there or not.
	execute(t, db.pool, `INSERT INTO commits VALUES ('account-acc_1', 1, 'cmd_1', 0, 0, $1)`, noon)
	if found := differences(t, db, 10); len(found) > 0 {
		t.Errorf("an old commit counts:\n%s", strings.Join(found, "\n"))
	}

	for _, damage := range []struct{ sql, undo, want string }{
		{`UPDATE read.accounts SET plan = 'free', name = name || '!'`, `UPDATE read.accounts SET plan = 'pro', name = left(name, -1)`,
			`accounts account="acc_1": differs in name, plan`},
		{`UPDATE read.streams SET state = '' WHERE stream = 'account-acc_1'`, ``, `streams stream="account-acc_1": differs in state`},
		{`DELETE FROM read.rejections`, `INSERT INTO read.rejections VALUES (0, 2)`, `rejections part=0 off=2: the row is missing`},
		{`INSERT INTO read.rejections VALUES (0, 4)`, `DELETE FROM read.rejections WHERE off = 4`, `rejections part=0 off=4: the row should not be there`},
		{`UPDATE read.commits SET command = 'x' WHERE off = 5`, ``, `commits part=0 off=5: differs in command`},
		{`UPDATE read.checkpoints SET hash = 'x'`, ``, `checkpoints part=0: differs in hash`},
		{`UPDATE read.messages SET text_data = text_data || '\x00' WHERE idx = 0 AND version = 2`, ``,
			`messages stream="` + string(c.stream()) + `" version=2 idx=0: differs in text_data`},
		{`INSERT INTO read.turns VALUES ('x', 't', 'b', now(), now())`, ``, `turns stream="x": the row should not be there`},
	} {
		execute(t, db.pool, damage.sql)
		if found := differences(t, db, 10); !slices.Contains(found, damage.want) {
			t.Errorf("%s\nfound:\n%s\nwant %s", damage.sql, strings.Join(found, "\n"), damage.want)
		}
		if damage.undo != "" {
			execute(t, db.pool, damage.undo)
		}
	}
	execute(t, db.pool, `INSERT INTO read.rejections SELECT 1, generate_series(1, 50)`)
	if found := differences(t, db, 3); len(found) > 3*5 {
		t.Errorf("%d differences are listed, want at most 3 of a table", len(found))
	}
}
