package backup_test

// This file copies real stores and puts them back, and takes things away in between.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/infra/backup"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

const (
	keysTable        = `SELECT id, owner, shared, wrapped, created_at, destroyed_at FROM nido.data_keys ORDER BY id`
	ownersTable      = `SELECT * FROM nido.destroyed_owners ORDER BY owner`
	usesTable        = `SELECT * FROM nido.key_uses ORDER BY 1`
	checkTable       = `SELECT * FROM nido.master_check`
	idempotencyTable = `SELECT * FROM nido.idempotency ORDER BY account, caller, key_hash`
)

var firstDay = time.Date(2026, 3, 14, 23, 58, 0, 0, time.UTC)

// fill gives the stores something of everything.
func fill(t *testing.T, s stores, keys *keyring.Keyring) {
	t.Helper()
	for i := range 40 {
		s.produce(t, &kgo.Record{
			Topic: s.topics()[1], Partition: int32(i % 2), Key: fmt.Appendf(nil, "account-acc_%d", i%7), Value: bytes.Repeat([]byte{byte(i)}, 300),
			Timestamp: firstDay.Add(time.Duration(i) * time.Second), Headers: []kgo.RecordHeader{{Key: "b", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "b", Value: []byte{}}},
		})
	}
	s.produce(t, &kgo.Record{Topic: s.topics()[1], Partition: 1, Key: nil, Value: []byte{}, Timestamp: firstDay.Add(-1000 * time.Hour)},
		&kgo.Record{Topic: s.topics()[1], Partition: 1, Key: []byte{}, Value: nil, Timestamp: firstDay})
	s.produce(t, &kgo.Record{Topic: s.topics()[0], Key: []byte("note"), Value: []byte("kept, too"), Timestamp: firstDay})
	for _, owner := range []string{"conversation-agt_1.x", "conversation-agt_1.gone"} {
		if _, err := keys.Create(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := keys.ForOwner(t.Context(), "acc_1"); err != nil {
		t.Fatal(err)
	}
	if err := keys.Destroy(t.Context(), "conversation-agt_1.gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO nido.key_uses VALUES ('a', now()), ('b"'',
', '2026-01-01 00:00:00.123456+00')`); err != nil {
		t.Fatal(err)
	}
	const answered = `INSERT INTO nido.idempotency (account, caller, key_hash, fingerprint, data_key, seed, now, expires) VALUES ('acc_1', '', '\x00ff', '', 'dk_x', '\x01', now(), now() + interval '1 day')`
	if _, err := s.pool.Exec(t.Context(), answered); err != nil {
		t.Fatal(err)
	}
	s.ask(t, firstDay, projections.Request{Account: "acc_1", AgentID: "agt_1", ConversationID: "c-1", RequestBody: said("a planted sentence"), Latency: time.Second},
		projections.Request{Account: "acc_1", ResponseBody: said("another"), RequestHeaders: []projections.Header{{Name: "A", Value: "b"}}},
		projections.Request{Account: "acc_2", Erased: true, InputTokens: -1})
}

func TestEverythingComesBackAsItWas(t *testing.T) {
	w := newWorld(t)
	s, cluster, keys := w.source(t)
	fill(t, s, keys)
	dir := filepath.Join(t.TempDir(), "new", "one")
	first := s.mustBackup(t, cluster, dir)
	if first.Events() != 42 || first.Requests.Behind != 0 {
		t.Errorf("%d events, %d bundles behind", first.Events(), first.Requests.Behind)
	}

	// What is new since is what a second run adds.
	for i := range 5 {
		w.produce(t, &kgo.Record{Topic: w.topics()[1], Partition: 2, Key: []byte("k"), Value: fmt.Appendf(nil, "later %d", i), Timestamp: firstDay})
	}
	s.ask(t, firstDay.AddDate(0, 0, 5), projections.Request{Account: "acc_1", RequestBody: said("five days later")})
	if err := keys.Destroy(t.Context(), "acc_1"); err != nil {
		t.Fatal(err)
	}
	second := s.mustBackup(t, cluster, dir)
	was, is := first.Log[1].Partitions, second.Log[1].Partitions
	for i := range 2 {
		if len(was[i].Segments) < 2 || !slices.EqualFunc(was[i].Segments, is[i].Segments, func(a, b backup.Segment) bool { return a == b }) {
			t.Errorf("partition %d: %d segments were copied again", i, len(is[i].Segments))
		}
	}
	if len(is[2].Segments) != 1 || second.Events() != 47 {
		t.Errorf("the second run copied %+v", is[2])
	}
	if days := second.Requests.Days; len(days) != 3 || days[0] != first.Requests.Days[0] || days[1] != first.Requests.Days[1] || days[2].Day != "2026-03-19" {
		t.Errorf("days %+v", days)
	}
	checkOnly(t, dir, second)
	backupKeys, err := keyring.ForBackup(w.master)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (backup.Check{Dir: dir, Keys: backupKeys}).Run(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}

	logs, tables := map[string]string{}, map[string]string{}
	for _, topic := range w.topics() {
		logs[topic] = w.printed(t, topic)
	}
	for _, query := range []string{keysTable, ownersTable, usesTable, checkTable, idempotencyTable} {
		tables[query] = s.table(t, query)
	}
	requests := s.requests(t)

	t.Run("a log that is there is not overwritten, nor are tables or rows", func(t *testing.T) {
		_, err := s.restore(t, dir, os.Stderr)
		if !errors.Is(err, backup.ErrNotEmpty) {
			t.Fatal(err)
		}
		for _, holds := range []string{
			"topic " + w.prefix + ".control has had 2 records", "topic " + w.prefix + ".events has had 47 records",
			"postgres has rows in nido.data_keys", "clickhouse has rows in " + s.clickhouse.Database + ".requests",
		} {
			if !strings.Contains(err.Error(), holds) {
				t.Errorf("it does not say that %s: %v", holds, err)
			}
		}
	})

	w.lose(t)
	to := w.stores(t)
	// A restore that was killed has left its mark and a part of the log.
	target := w.target(t)
	if err := postgres.Migrate(t.Context(), to.pool); err != nil {
		t.Fatal(err)
	}
	if _, err := to.pool.Exec(t.Context(), `INSERT INTO nido.restores (backup, taken_at) VALUES ($1, now())`, second.ID); err != nil {
		t.Fatal(err)
	}
	if err := target.Create(t.Context(), partitions); err != nil {
		t.Fatal(err)
	}
	part := kafka.Raw{Time: firstDay, Key: []byte("account-acc_0"), Value: bytes.Repeat([]byte{0}, 300)}
	if err := target.Append(t.Context(), w.topics()[1], 0, []kafka.Raw{part}); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Restored(t.Context(), to.pool); !errors.Is(err, postgres.ErrRestoring) {
		t.Errorf("a node would start: %v", err)
	}
	if _, err := to.backup(t, target.Cluster(), t.TempDir()); !errors.Is(err, postgres.ErrRestoring) {
		t.Errorf("a part of a log would be taken for a whole one: %v", err)
	}
	if _, err := to.restore(t, dir, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Restored(t.Context(), to.pool); err != nil {
		t.Errorf("a node would not start: %v", err)
	}
	var again bytes.Buffer
	if _, err := to.restore(t, dir, &again); err != nil || !strings.Contains(again.String(), "restored here already") || strings.Contains(again.String(), "restoring") {
		t.Errorf("given once more: %v, said %s", err, &again)
	}
	for topic, want := range logs {
		got := w.printed(t, topic)
		if topic == w.topics()[1] {
			// What the killed restore had appended has no headers; that is how one knows that it was not done again.
			got = strings.Replace(got, "\n", headersOf(want)+"\n", 1)
		}
		if got != want {
			t.Errorf("%s is\n%s\nand was\n%s", topic, got, want)
		}
	}
	for query, want := range tables {
		if got := to.table(t, query); got != want {
			t.Errorf("%s\nis\n%s\nand was\n%s", query, got, want)
		}
	}
	if got := to.requests(t); got != requests {
		t.Errorf("the request log is\n%s\nand was\n%s", got, requests)
	}
	if _, err := keyring.New(t.Context(), to.pool, w.master); err != nil {
		t.Errorf("the master key: %v", err)
	}
}

// headersOf is what the first line of a printed topic ends with.
func headersOf(printed string) string {
	line, _, _ := strings.Cut(printed, "\n")
	return line[strings.Index(line, ` "b"="1"`):]
}

// checkOnly wants no file in the directory that the manifest does not name.
func checkOnly(t *testing.T, dir string, m *backup.Manifest) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found++
			content, _ := os.ReadFile(path)
			for _, plain := range []string{"planted sentence", "five days later", "later 3", "conversation-agt_1"} {
				if bytes.Contains(content, []byte(plain)) {
					t.Errorf("%s says %q in plain", entry.Name(), plain)
				}
			}
		}
		return err
	})
	named := len(m.Tables) + len(m.Requests.Days) + 2 // the gaps, the manifest
	for _, topic := range m.Log {
		for _, partition := range topic.Partitions {
			named += len(partition.Segments)
		}
	}
	if err != nil || found != named {
		t.Errorf("%v, %d files, %d are named", err, found, named)
	}
}

func TestABackupGoesOnOnlyBehindItsOwnLog(t *testing.T) {
	w := newWorld(t)
	s, cluster, keys := w.source(t)
	fill(t, s, keys)
	dir := t.TempDir()
	first := s.mustBackup(t, cluster, dir)

	t.Run("a file that is gone is noticed before anything is added", func(t *testing.T) {
		path := filepath.Join(dir, filepath.FromSlash(first.Log[1].Partitions[0].Segments[0].Name))
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.backup(t, cluster, dir); !errors.Is(err, backup.ErrDamaged) {
			t.Error(err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("two at a time are refused", func(t *testing.T) {
		conn, err := s.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock(1852400751, 4)`); err != nil {
			t.Fatal(err)
		}
		if _, err := s.backup(t, cluster, dir); !errors.Is(err, backup.ErrBusy) {
			t.Error(err)
		}
		if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_unlock_all()`); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a log that has lost its beginning is refused", func(t *testing.T) {
		var offsets kadm.Offsets
		offsets.Add(kadm.Offset{Topic: w.topics()[1], Partition: 0, At: 5})
		answers, err := kadm.NewClient(w.foreign).DeleteRecords(t.Context(), offsets)
		if err := errors.Join(err, answers.Error()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.backup(t, cluster, t.TempDir()); !errors.Is(err, kafka.ErrHoles) {
			t.Error(err)
		}
		if _, err := s.backup(t, cluster, dir); err != nil {
			t.Errorf("the copy has the beginning: %v", err)
		}
	})
	t.Run("another log under the same name is refused", func(t *testing.T) {
		w.lose(t)
		another, err := kafka.Open(t.Context(), kafka.Config{Brokers: w.brokers, Prefix: w.prefix, Partitions: partitions, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		defer another.Close()
		if _, err := s.backup(t, another, dir); !errors.Is(err, backup.ErrOtherLog) {
			t.Errorf("a shorter one: %v", err)
		}
	})
}

func TestAnInterruptedBackupIsNoneAndIsGoneOnWith(t *testing.T) {
	w := newWorld(t)
	s, cluster, keys := w.source(t)
	fill(t, s, keys)
	dir := t.TempDir()
	// Somebody holds the keyring, so that the backup comes behind the log and not to its end.
	lock, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := lock.Exec(t.Context(), `LOCK TABLE nido.data_keys IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	backupKeys, err := keyring.ForBackup(w.master)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	b := backup.Backup{
		Dir: dir, Prefix: w.prefix, Cluster: cluster, Pool: s.pool, ClickHouse: s.clickhouse, Keys: backupKeys,
		SegmentBytes: 3000, Patience: 4 * time.Second, Out: &said, Progress: &progress.Progress{Out: &said}, Logger: quiet(),
	}
	if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "data_keys") {
		t.Fatalf("nothing could move: %v", err)
	}
	if _, err := backup.Load(dir, backupKeys); !errors.Is(err, backup.ErrNoBackup) {
		t.Errorf("an interrupted backup: %v", err)
	}
	if _, err := s.restore(t, dir, &said); !errors.Is(err, backup.ErrNoBackup) {
		t.Errorf("the restore of an interrupted backup: %v", err)
	}
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	said.Reset()
	m, err := b.Run(t.Context())
	if err != nil || m.Events() != 42 || !strings.Contains(said.String(), "going on behind the") {
		t.Errorf("%v, said %s", err, &said)
	}
	checkOnly(t, dir, m)
}

func TestEveryTableIsCopiedOrThereIsAReason(t *testing.T) {
	w := newWorld(t)
	s, cluster, _ := w.source(t)
	m := s.mustBackup(t, cluster, t.TempDir())
	rows, err := s.pool.Query(t.Context(), `SELECT tablename::text FROM pg_tables WHERE schemaname = 'nido'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		copied := slices.ContainsFunc(m.Tables, func(c backup.Table) bool { return c.Name == table })
		if _, left := backup.Left[table]; copied == left {
			t.Errorf("nido.%s: copied is %v, and there is a reason against it: %v", table, copied, left)
		}
	}
	for table := range backup.Left {
		if !slices.Contains(tables, table) {
			t.Errorf("there is no nido.%s", table)
		}
	}
}
