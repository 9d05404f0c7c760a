package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/postgres"
)

func piece(turn string, offset int, text string) commands.TurnPiece {
	return commands.TurnPiece{Turn: turn, Offset: offset, Text: domain.Sealed{Key: "dk_1", Data: []byte(text)}}
}

func TestTheTextOfRunningTurnsIsKeptReadAndForgotten(t *testing.T) {
	pool := migrated(t)
	texts := postgres.NewTurnTexts(pool)
	for _, pieces := range [][]commands.TurnPiece{
		{piece("turn_1", 0, "hola"), piece("turn_2", 0, "otra")},
		{piece("turn_1", 4, ", ")},
		{piece("turn_1", 4, ", Ana"), piece("turn_2", 4, "!")}, // the first outcome was not known
		{piece("turn_1", 9, "!")},
	} {
		if err := texts.Keep(t.Context(), pieces); err != nil {
			t.Fatal(err)
		}
	}
	whole := []commands.TurnPiece{piece("turn_1", 0, "hola"), piece("turn_1", 4, ", Ana"), piece("turn_1", 9, "!")}
	for from, want := range map[int][]commands.TurnPiece{0: whole, 3: whole, 4: whole[1:], 8: whole[1:], 9: whole[2:], 100: whole[2:]} {
		got, err := texts.Read(t.Context(), "turn_1", from)
		if difference := cmp.Diff(want, got); err != nil || difference != "" {
			t.Errorf("from %d: %v\n%s", from, err, difference)
		}
	}
	if err := texts.Forget(t.Context(), "turn_1", "turn_none"); err != nil {
		t.Fatal(err)
	}
	if got, err := texts.Read(t.Context(), "turn_1", 0); err != nil || len(got) != 0 {
		t.Errorf("forgotten: %v, %v", got, err)
	}
	run(t, pool, `UPDATE turn_text SET written_at = now() - interval '1 hour' WHERE "offset" = 0`)
	if swept, err := texts.Sweep(t.Context(), 30*time.Minute); err != nil || swept != 1 {
		t.Errorf("swept %d, %v", swept, err)
	}
	if left := one[int](t, pool, `SELECT count(*) FROM turn_text`); left != 1 {
		t.Errorf("%d rows left", left)
	}
}

// 20 rows are what a node with 200 streams of 100 tokens a second writes at once.
func BenchmarkKeep20Rows(b *testing.B) {
	pool := migrated(b)
	texts := postgres.NewTurnTexts(pool)
	pieces := make([]commands.TurnPiece, 20)
	for n := 0; b.Loop(); n++ {
		for i := range pieces {
			pieces[i] = piece(fmt.Sprintf("turn_%d", i), n*30, "thirty bytes of sealed text or so, with its nonce and tag")
		}
		if err := texts.Keep(b.Context(), pieces); err != nil {
			b.Fatal(err)
		}
	}
}
