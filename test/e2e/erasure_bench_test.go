package e2e

// This file measures what erasing a large account takes: a million messages, planted into the stores that hold them.

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
)

const (
	benchConversations = 50_000
	benchMessages      = 20 // of each
)

func BenchmarkErasingAMillionMessages(b *testing.B) {
	for range b.N {
		b.StopTimer()
		_, engines := startEngines(b, b.TempDir())
		key := bootstrap(b, engines)
		node := startNode(b, engines, "api,projector,sweeper")
		root := newClient(b, node.base, key)
		id, own := root.customer("scale")
		agent := own.createAgent("Grande")
		plantMillion(b, engines, id, agent.ID)

		b.StartTimer()
		begun := time.Now()
		var erasure erasureView
		root.must(http.StatusAccepted, "DELETE", "/api/accounts/"+id, nil).into(b, &erasure)
		db, err := pgx.Connect(b.Context(), variable(b, engines, "NIDO_POSTGRES_URL"))
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close(b.Context()) //nolint:errcheck // the measurement is over
		await(b, 15*time.Minute, "the keys to be destroyed", func() bool {
			var destroyed bool
			err := db.QueryRow(b.Context(), `SELECT count(*) = 1 FROM nido.erasures WHERE id = $1 AND keys_destroyed_at IS NOT NULL`, erasure.ID).Scan(&destroyed)
			return err == nil && destroyed
		})
		b.ReportMetric(time.Since(begun).Seconds(), "s/unreadable")
		await(b, 15*time.Minute, "the erasure", func() bool {
			got, err := root.do(b.Context(), "GET", "/api/erasures/"+erasure.ID, nil)
			return err == nil && json.Unmarshal(got.body, &erasure) == nil && erasure.Status == "done"
		})
		b.ReportMetric(time.Since(begun).Seconds(), "s/done")
		b.StopTimer()
		var left int
		if err := db.QueryRow(b.Context(), `SELECT count(*) FROM read.messages WHERE stream LIKE 'conversation-' || $1 || '%'`, agent.ID).Scan(&left); err != nil || left > 0 {
			b.Errorf("%d messages are left, %v", left, err)
		}
	}
}

// plantMillion puts conversations with messages into both stores, as their folds would have, and a line of the request log
// for each turn.
func plantMillion(b *testing.B, engines []string, account, agent string) {
	b.Helper()
	db, err := pgx.Connect(b.Context(), variable(b, engines, "NIDO_POSTGRES_URL"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close(b.Context()) //nolint:errcheck // everything has been committed
	const name = `'conversation-' || $2 || '.' || md5(c::text)`
	for _, sql := range []string{
		`INSERT INTO nido.data_keys (id, owner, wrapped) SELECT 'dk_' || md5(c::text || $1), ` + name + `, sha256(c::text::bytea) FROM generate_series(1, $3::int) c`,
		`INSERT INTO read.streams (stream, version, state) SELECT ` + name + `, 20,
			convert_to('{"account":"' || $1 || '","agent":"' || $2 || '","key":"dk_' || md5(c::text || $1) || '","status":"open","turns":10}', 'UTF8') FROM generate_series(1, $3::int) c`,
		`INSERT INTO read.conversations (stream, account, agent, id_mac, id_key, id_data, key, status, message_count, created_at, last_message_at, metadata_key, metadata_data)
			SELECT ` + name + `, $1, $2, md5(c::text), 'dk_' || md5(c::text || $1), sha256('x'), 'dk_' || md5(c::text || $1), 'open', 20, now() - c * interval '1 second', now(), '', '' FROM generate_series(1, $3::int) c`,
	} {
		if _, err := db.Exec(b.Context(), sql, account, agent, benchConversations); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
	const messages = `
		INSERT INTO read.messages (stream, version, idx, id, turn, role, outcome, code, text_key, text_data, model, input_tokens, output_tokens,
			estimated, finish, first_reply_ns, full_reply_ns, at)
		SELECT 'conversation-' || $2 || '.' || md5(c::text), m, 0, 'msg', 'turn', 'user', 'received', '', 'dk_' || md5(c::text || $1),
			decode(repeat(md5(c::text || m::text), 6), 'hex'), '', 0, 0, false, '', 0, 0, now()
		FROM generate_series(1, $3::int) c, generate_series(1, $4::int) m`
	if _, err := db.Exec(b.Context(), messages, account, agent, benchConversations, benchMessages); err != nil {
		b.Fatal(err)
	}
	options, err := clickhouse.ParseDSN(variable(b, engines, "NIDO_CLICKHOUSE_URL"))
	if err != nil {
		b.Fatal("the address of ClickHouse cannot be read")
	}
	options.ReadTimeout = 10 * time.Minute
	conn, err := clickhouse.Open(options)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	parameters := clickhouse.Context(b.Context(), clickhouse.WithParameters(clickhouse.Parameters{"account": account, "agent": agent}))
	for _, sql := range []string{
		`INSERT INTO nido_1.messages (account, agent_id, at, stream, version, idx, kind, said, turn_id, message_id, text, insert_by)
			SELECT {account:String}, {agent:String}, now() - intDiv(number, 20), concat('conversation-', {agent:String}, '.', lower(hex(MD5(toString(intDiv(number, 20) + 1))))),
			number % 20, 0, 'received', true, 't', 'm', concat('hola ', randomPrintableASCII(180)), now() + 3600 FROM numbers(1000000)`,
		`INSERT INTO nido_1.conversations (account, agent_id, at, stream, version, idx, kind, conversation_id, insert_by)
			SELECT {account:String}, {agent:String}, now() - number, concat('conversation-', {agent:String}, '.', lower(hex(MD5(toString(number + 1))))), 1, 0, 'started',
			concat('conv-', toString(number)), now() + 3600 FROM numbers(50000)`,
		`INSERT INTO nido.requests (account, at, request_id, agent_id, conversation_id, path, status, request_body, response_body, words, data_key, insert_by)
			SELECT {account:String}, now64() - intDiv(number, 20), concat('req_', toString(number)), {agent:String}, concat('conv-', toString(intDiv(number, 10))), '/api/v1/chat', 200,
			concat('{"message":"', randomPrintableASCII(180), '"}'), concat('{"response":"', randomPrintableASCII(400), '"}'),
			arrayStringConcat(arrayMap(x -> lower(hex(rand(x) % 20000)), range(40)), ' '), 'dk', now() + 3600 FROM numbers(500000)`,
	} {
		if err := conn.Exec(parameters, sql); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
}
