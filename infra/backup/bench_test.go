package backup_test

// This file measures how fast a log and a request log are copied, checked and put back.

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/nidohq/nido/infra/backup"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/progress"
	"github.com/nidohq/nido/projections"
)

const (
	benchRecords  = 200_000
	benchRequests = 50_000
	benchKeys     = 20_000
)

// BenchmarkBackup copies a log of commits of about a kilobyte, checks the copy and restores it, once each.
func BenchmarkBackup(b *testing.B) {
	w := newWorld(b)
	s, cluster, keys := w.source(b)
	key, err := keys.ForOwner(b.Context(), "acc_1")
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(strings.Repeat("Los horarios de atención son de nueve a cinco. ", 6))
	bytes := 0
	var sending sync.WaitGroup
	for i := range benchRecords {
		sealed := key.Seal(text)
		value := fmt.Appendf(nil, `{"account":"acc_1","actor":{"kind":"key","id":"key_1"},"base":%d,"command":"cmd_%026d","events":[{"type":"reply.completed","schema":1,"data":{"text":{"key":%q,"data":%q}}}]}`, i, i, sealed.Key, sealed.Data)
		bytes += len(value)
		sending.Add(1)
		w.foreign.Produce(b.Context(), &kgo.Record{Topic: w.topics()[1], Partition: int32(i % partitions), Key: fmt.Appendf(nil, "conversation-agt_1.%d", i%5000), Value: value},
			func(_ *kgo.Record, err error) {
				if err != nil {
					b.Error(err)
				}
				sending.Done()
			})
	}
	sending.Wait()
	batch := make([]projections.Request, 1000)
	for part := range benchRequests / len(batch) { // of two days
		for i := range batch {
			batch[i] = projections.Request{Account: "acc_1", AgentID: "agt_1", ConversationID: fmt.Sprint(i % 50), Path: "/api/v1/chat",
				RequestBody: projections.Body{Text: text[:80]}, ResponseBody: projections.Body{Text: fmt.Appendf(nil, "%d %s", i, text)}}
		}
		s.ask(b, time.Date(2026, 1, 1+part%2, 0, 0, part, 0, time.UTC), batch...)
	}
	if _, err := s.pool.Exec(b.Context(), `INSERT INTO nido.data_keys (id, owner, wrapped) SELECT 'dk_' || i, 'conversation-' || i, sha256(i::text::bytea) || sha256('x') FROM generate_series(1, $1::int) i`, benchKeys); err != nil {
		b.Fatal(err)
	}
	measured := func(what string, began time.Time, err error) {
		b.Helper()
		if err != nil {
			b.Fatalf("%s: %v", what, err)
		}
		b.ReportMetric(time.Since(began).Seconds(), what+"-s")
	}
	backupKeys, err := keyring.ForBackup(w.master)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "backup")
		var said strings.Builder
		copying := backup.Backup{
			Dir: dir, Prefix: w.prefix, Cluster: cluster, Pool: s.pool, ClickHouse: s.clickhouse, Keys: backupKeys,
			Out: io.Discard, Progress: &progress.Progress{Out: &said}, Logger: quiet(),
		}
		began := time.Now()
		m, err := copying.Run(context.WithoutCancel(b.Context()))
		measured("backup", began, err)
		began = time.Now()
		_, err = copying.Run(b.Context())
		measured("nothing-new", began, err)
		began = time.Now()
		_, err = backup.Check{Dir: dir, Keys: backupKeys}.Run(b.Context())
		measured("check", began, err)
		w.lose(b)
		to := w.stores(b)
		began = time.Now()
		_, err = to.restore(b, dir, &said)
		measured("restore", began, err)
		for line := range strings.Lines(said.String()) {
			if !strings.Contains(line, "left") && !strings.Contains(line, " 0 rows") {
				b.Log(strings.TrimSpace(line))
			}
		}
		b.Logf("%d records, %d MB of values, %d MB in the directory", benchRecords, bytes>>20, m.Bytes()>>20)
	}
}
