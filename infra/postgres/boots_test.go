package postgres_test

import (
	"testing"

	"github.com/nidohq/nido/infra/postgres"
)

func TestBoots(t *testing.T) {
	boots, err := postgres.NewBoots(migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	beat := func(id string) {
		t.Helper()
		if err := boots.Beat(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	beats := func() map[string]int64 {
		t.Helper()
		all, err := boots.All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int64{}
		for _, boot := range all {
			found[boot.ID] = boot.Beat
			if boot.Host == "" || boot.Started.IsZero() {
				t.Errorf("%s has no host or start: %+v", boot.ID, boot)
			}
		}
		return found
	}
	t.Run("a boot counts up, each on its own", func(t *testing.T) {
		beat("one")
		beat("two")
		before := beats()
		beat("two")
		after := beats()
		if len(after) != 2 || after["one"] != before["one"] || after["two"] != before["two"]+1 {
			t.Errorf("%v became %v", before, after)
		}
	})
	t.Run("only removed boots are gone, until they beat again", func(t *testing.T) {
		if err := boots.Remove(t.Context(), "two", "never there"); err != nil {
			t.Fatal(err)
		}
		if left := beats(); len(left) != 1 || left["one"] == 0 {
			t.Errorf("left are %v", left)
		}
		beat("two")
		if left := beats(); len(left) != 2 {
			t.Errorf("left are %v", left)
		}
	})
}
