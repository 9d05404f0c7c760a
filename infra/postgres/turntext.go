package postgres

// This file stands between a running turn and its readers: its text, where every node finds it.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// TurnTexts holds the text of running turns. It implements commands.TurnTexts.
type TurnTexts struct{ pool *pgxpool.Pool }

// NewTurnTexts gives the store its pool.
func NewTurnTexts(pool *pgxpool.Pool) *TurnTexts { return &TurnTexts{pool} }

// Keep writes pieces of any number of turns with one statement. A piece that begins where an earlier one began replaces
// it: it is the same text and what came after it, sent again because the first outcome was not known.
func (s *TurnTexts) Keep(ctx context.Context, pieces []commands.TurnPiece) error {
	const query = `
		INSERT INTO turn_text (turn, "offset", data_key, data)
		SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::bytea[])
		ON CONFLICT (turn, "offset") DO UPDATE SET data_key = excluded.data_key, data = excluded.data`
	turns, offsets := make([]string, len(pieces)), make([]int64, len(pieces))
	keys, texts := make([]string, len(pieces)), make([][]byte, len(pieces))
	for i, piece := range pieces {
		turns[i], offsets[i], keys[i], texts[i] = piece.Turn, int64(piece.Offset), piece.Text.Key, piece.Text.Data
	}
	if _, err := s.pool.Exec(ctx, query, turns, offsets, keys, texts); err != nil {
		return fmt.Errorf("keep the text of %d turns: %w", len(pieces), err)
	}
	return nil
}

// Read returns a turn's pieces in order, from the one that holds the offset on.
func (s *TurnTexts) Read(ctx context.Context, turn string, from int) ([]commands.TurnPiece, error) {
	const query = `
		SELECT "offset" AS at, data_key AS key, data FROM turn_text
		WHERE turn = $1 AND "offset" >= COALESCE((SELECT max("offset") FROM turn_text WHERE turn = $1 AND "offset" <= $2), 0)
		ORDER BY "offset"`
	rows, err := s.pool.Query(ctx, query, turn, int64(from))
	if err != nil {
		return nil, fmt.Errorf("read a turn's text: %w", err)
	}
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByName[storedPiece])
	if err != nil {
		return nil, fmt.Errorf("read a turn's text: %w", err)
	}
	pieces := make([]commands.TurnPiece, len(stored))
	for i, row := range stored {
		pieces[i] = commands.TurnPiece{Turn: turn, Offset: int(row.At), Text: domain.Sealed{Key: row.Key, Data: row.Data}}
	}
	return pieces, nil
}

// storedPiece is a row of turn_text.
type storedPiece struct {
	At   int64
	Key  string
	Data []byte
}

// Forget drops all pieces of turns.
func (s *TurnTexts) Forget(ctx context.Context, turns ...string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM turn_text WHERE turn = ANY($1)`, turns); err != nil {
		return fmt.Errorf("drop the text of ended turns: %w", err)
	}
	return nil
}

// Sweep drops what is older than any turn can be, and answers how many rows there were.
func (s *TurnTexts) Sweep(ctx context.Context, age time.Duration) (int64, error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM turn_text WHERE written_at < now() - $1::interval`, age)
	if err != nil {
		return 0, fmt.Errorf("sweep the text of turns: %w", err)
	}
	return tag.RowsAffected(), nil
}
