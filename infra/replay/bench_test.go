package replay_test

// This file measures how fast a log of conversations is rebuilt and verified.

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/replay"
	"github.com/nidohq/nido/projections"
)

// The log that is folded: each turn is two commits.
const (
	benchConversations = 5000
	benchTurns         = 10
	benchWriters       = 500
)

// talk appends conversations, sealed by one key, and returns the count of commits.
func (w *world) talk(b *testing.B, key commands.DataKey) (commits int64) {
	b.Helper()
	text := []byte(strings.Repeat("Los horarios de atención son de nueve a cinco. ", 6))
	began := time.Now()
	var writing sync.WaitGroup
	for writer := range benchWriters {
		writing.Go(func() {
			for c := writer; c < benchConversations; c += benchWriters {
				if err := w.conversation(b, c, key, text); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	commits = 2 * benchConversations * benchTurns
	b.Logf("%d commits appended in %v", commits, time.Since(began))
	return commits
}

func (w *world) conversation(b *testing.B, number int, key commands.DataKey, text []byte) error {
	name := fmt.Sprintf("agt_%d.kq3v7m2p5w4c6t%012d", number%20, number)
	at := time.Date(2026, 3, 1+number%28, 12, 0, 0, 0, time.UTC)
	for version := range domain.Version(2 * benchTurns) {
		turn := fmt.Sprintf("%s.t%d", name, version/2)
		at = at.Add(time.Second)
		var events []conversation.Event
		if version == 0 {
			events = append(events, conversation.Started{Account: "acc_1", Agent: fmt.Sprintf("agt_%d", number%20), Key: key.ID(), ID: key.Seal([]byte(name)), IDMAC: name})
		}
		if version%2 == 0 {
			events = append(events, conversation.MessageReceived{Turn: turn, Message: turn + ".in", Text: key.Seal(text[:80]), Boot: "boot_1", Received: at, Deadline: at})
		} else {
			events = append(events, conversation.ReplyCompleted{Turn: turn, Message: turn + ".out", Text: key.Seal(text), Model: "m", FirstReply: 1, FullReply: 2, At: at})
		}
		stored, err := conversation.Aggregate.Codec.Encode(events)
		if err != nil {
			return err
		}
		_, err = w.log.Append(b.Context(), domain.Commit{
			Stream: conversation.Aggregate.Stream(name), Base: version, Command: turn + fmt.Sprint(version%2), Account: "acc_1",
			Actor: domain.Actor{Kind: "key", ID: "key_1"}, Time: at, Events: stored,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkOperations rebuilds both stores and verifies them, once each.
func BenchmarkOperations(b *testing.B) {
	w := newWorld(b, 1)
	client, err := clickhouse.Open(b.Context(), clickhouse.Config{DSN: enginestest.ClickHouse(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	keys, err := keyring.New(b.Context(), w.pool, enginestest.MasterKey(b))
	if err != nil {
		b.Fatal(err)
	}
	key, err := keys.Create(b.Context(), "acc_1")
	if err != nil {
		b.Fatal(err)
	}
	commits := w.talk(b, key)
	measured := func(what string, err error, began time.Time) {
		b.Helper()
		if err != nil {
			b.Fatalf("%s: %v", what, err)
		}
		b.ReportMetric(float64(commits)/time.Since(began).Seconds(), what+"-commits/s")
	}
	for b.Loop() {
		began := time.Now()
		ends, err := w.cluster.Ends(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		measured("fold", replay.Fold{Cluster: w.cluster, Target: w.served, BatchRecords: 2000}.To(b.Context(), ends), began)
		began = time.Now()
		measured("postgres", replay.Postgres{
			Cluster: w.cluster, Pool: w.pool, Next: w.open(b, replay.NextSchema), Served: "read", Out: io.Discard, Logger: quiet(),
		}.Run(b.Context()), began)
		began = time.Now()
		measured("clickhouse", replay.ClickHouse{
			Cluster: w.cluster, Pool: w.pool, Served: "read", Client: client, Opener: keys, ReadModel: "clickhouse", Out: io.Discard, Logger: quiet(),
		}.Run(b.Context()), began)
		client.Serve(2)
		began = time.Now()
		found, err := replay.Verify{
			Cluster: w.cluster, Pool: w.pool, Scratch: w.open(b, replay.VerifySchema), Served: "read",
			ClickHouse: projections.NewClickHouse(client, client.Folds(), keys, nil, quiet()), Opener: keys, Limit: 10, Out: io.Discard, Logger: quiet(),
		}.Run(b.Context())
		measured("verify", err, began)
		if len(found) > 0 {
			b.Fatalf("%d differences, the first: %s", len(found), found[0])
		}
	}
}
