package postgres_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

func TestUsesOfWhatIsDeprecatedAreCountedOnAllNodesTogether(t *testing.T) {
	pool := migrated(t)
	at := time.Now().UTC().Truncate(time.Microsecond)
	silent := slog.New(slog.DiscardHandler)
	here, there := postgres.NewDeprecatedUses(pool, silent), postgres.NewDeprecatedUses(pool, silent)
	for i := range 5 {
		here.Used("acc_1", "k1", "GET /old", at.Add(time.Duration(i)*time.Second))
	}
	there.Used("acc_1", "k2", "GET /old", at.Add(time.Minute))
	there.Used("acc_1", "k1", "GET /old", at.Add(-time.Hour)) // late news
	there.Used("acc_1", "k2", "POST /new field", at)
	there.Used("acc_2", "k3", "GET /old", at)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := here.Flush(gone); err == nil {
		t.Fatal("written without a connection")
	}
	here.Used("acc_1", "k1", "GET /old", at)
	if err := here.Run(gone); err != nil { // a node that stops writes once more
		t.Fatal(err)
	}
	for range 2 { // the second has nothing more to say
		if err := there.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	found, err := projections.NewDeprecations(pool).Of(t.Context(), "acc_1", "k1")
	if err != nil || len(found) != 2 {
		t.Fatalf("%+v %v", found, err)
	}
	old, fresh := found[0], found[1]
	if old.Item != "GET /old" || old.Uses != 8 || !old.LastUsedAt.Equal(at.Add(time.Minute)) || old.UsesOfKey != 7 || !old.KeyLastUsedAt.Equal(at.Add(4*time.Second)) {
		t.Errorf("%+v", old)
	}
	if fresh.Item != "POST /new field" || fresh.Uses != 1 || fresh.UsesOfKey != 0 || fresh.KeyLastUsedAt != nil {
		t.Errorf("%+v", fresh)
	}
	run(t, pool, `UPDATE deprecated_uses SET used_at = now() - interval '13 months' WHERE account = 'acc_2'`)
	if dropped, err := here.Sweep(t.Context()); err != nil || dropped != 1 {
		t.Errorf("%d were dropped: %v", dropped, err)
	}
}
