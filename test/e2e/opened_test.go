package e2e

// This file opens everything sealed that Postgres holds, as whoever has the master key can.

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/keyring"
)

// openedText is a text and the table that it is in.
type openedText struct{ table, text string }

// openAll opens all sealed texts in Postgres. One whose key was destroyed is not among them.
func openAll(t *testing.T, engines []string) (opened []openedText) {
	t.Helper()
	config, err := pgxpool.ParseConfig(variable(t, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = "read, nido"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	master, err := base64.StdEncoding.DecodeString(variable(t, engines, "NIDO_MASTER_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), pool, master)
	if err != nil {
		t.Fatal(err)
	}
	const all = `
		SELECT 'messages', text_key, text_data FROM messages UNION ALL
		SELECT 'conversations', id_key, id_data FROM conversations UNION ALL
		SELECT 'conversations', metadata_key, metadata_data FROM conversations UNION ALL
		SELECT 'turn_text', data_key, data FROM turn_text UNION ALL
		SELECT 'idempotency', response_key, response FROM idempotency WHERE response <> ''`
	rows, err := pool.Query(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	var texts []domain.Sealed
	for rows.Next() {
		var table string
		var text domain.Sealed
		if err := rows.Scan(&table, &text.Key, &text.Data); err != nil {
			t.Fatal(err)
		}
		if text.Key != "" {
			tables, texts = append(tables, table), append(texts, text)
		}
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	plain, _, err := keys.Open(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range plain {
		var answer struct{ Body []byte }
		if tables[i] == "idempotency" && json.Unmarshal(text, &answer) == nil {
			text = answer.Body
		}
		opened = append(opened, openedText{tables[i], string(text)})
	}
	return opened
}
