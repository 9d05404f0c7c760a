package commands_test

// This file stands where a request becomes a command: ids and secrets come from one seed.

import (
	"bytes"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/commands"
)

var idForm = regexp.MustCompile(`^[a-z]+_[a-z2-7]{26}$`)

func TestTheSameSeedMakesTheSameIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var inputs, other commands.Inputs
		copy(inputs.Seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
		copy(other.Seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "other seed"))
		stored, err := json.Marshal(inputs)
		if err != nil {
			t.Fatal(err)
		}
		var again commands.Inputs
		if err := json.Unmarshal(stored, &again); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, derive := range []func(commands.Inputs) string{
			func(in commands.Inputs) string { return in.ID("agt") },
			func(in commands.Inputs) string { return in.ID("acc") },
			func(in commands.Inputs) string { return in.ID("msg") },
			func(in commands.Inputs) string { return in.ID("msg", " reply") },
			func(in commands.Inputs) string { return in.Command("create") },
			func(in commands.Inputs) string { return in.Command("bind") },
		} {
			id := derive(inputs)
			if !idForm.MatchString(id) {
				t.Fatalf("%q has another form", id)
			}
			if derive(again) != id {
				t.Fatalf("%q became %q in a retry", id, derive(again))
			}
			if inputs.Seed != other.Seed && derive(other) == id {
				t.Fatalf("two seeds made %q", id)
			}
			if random := id[len(id)-26:]; seen[random] {
				t.Fatalf("%q was made for two purposes", id)
			} else {
				seen[random] = true
			}
		}
		if bytes.Equal(inputs.Bytes("key, first half"), inputs.Bytes("key, second half")) || len(inputs.Bytes("key")) != 32 {
			t.Fatal("two secrets are one")
		}
	})
}

func TestNewInputsAreNew(t *testing.T) {
	local := time.Date(2026, 3, 1, 9, 0, 0, 123456789, time.FixedZone("Buenos Aires", -3*3600))
	first, second := commands.NewInputs(local), commands.NewInputs(local)
	if first.Seed == second.Seed || first.Seed == [32]byte{} {
		t.Error("a seed was drawn twice")
	}
	if want := noon.Add(123456 * time.Microsecond); first.Now != want {
		t.Errorf("now is %v, and not %v, which is what Postgres can keep", first.Now, want)
	}
}
