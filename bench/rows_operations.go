//go:build linux

package main

// This file is row 17: rebuilding and verifying read models over a long log, which it writes itself.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/infra/kafka"
)

const plantedTurns = 10 // of a conversation, two commits each

// plantLog appends conversations to the log, as if they had been held over the last hours: straight to the broker, since a
// million commits that wait for their folds take half an hour.
func (b *bench) plantLog(ctx context.Context, keys func(ctx context.Context, owner string) (commands.DataKey, error)) error {
	producer, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("NIDO_KAFKA_BROKERS")), kgo.DefaultProduceTopic(eventsTopic), kgo.MaxBufferedRecords(20_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return fmt.Errorf("reach the log: %w", err)
	}
	defer producer.Close()
	conversations := b.events / (2 * plantedTurns)
	began := time.Now().Add(-time.Hour)
	numbers := make(chan int)
	writers, within := errgroup.WithContext(ctx)
	writers.Go(func() error {
		defer close(numbers)
		for number := range conversations {
			select {
			case numbers <- number:
			case <-within.Done():
				return context.Cause(within)
			}
		}
		return nil
	})
	for range 64 { // who make keys together
		writers.Go(func() error {
			for number := range numbers {
				at := began.Add(time.Duration(number) * 50 * time.Minute / time.Duration(conversations))
				if err := plantConversation(within, producer, keys, number, at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		return err
	}
	return producer.Flush(ctx)
}

func plantConversation(ctx context.Context, producer *kgo.Client, keys func(ctx context.Context, owner string) (commands.DataKey, error), number int, at time.Time) error {
	agent := plantedAgent(number % plantedAgents)
	name := fmt.Sprintf("%s.%052d", agent, number)
	stream := conversation.Aggregate.Stream(name)
	key, err := keys(ctx, string(stream))
	if err != nil {
		return err
	}
	for version := range domain.Version(2 * plantedTurns) {
		turn := fmt.Sprintf("turn_%022d.%d", number, version/2)
		at = at.Add(2 * time.Second)
		var events []conversation.Event
		if version == 0 {
			events = append(events, conversation.Started{Account: "default", Agent: agent, Key: key.ID(), ID: key.Seal([]byte(name)), IDMAC: name})
		}
		if version%2 == 0 {
			events = append(events, conversation.MessageReceived{
				Turn: turn, Message: turn + ".in", Text: key.Seal([]byte(message)), Boot: "boot_bench", Received: at, Deadline: at.Add(time.Minute),
			})
		} else {
			events = append(events, conversation.ReplyCompleted{
				Turn: turn, Message: turn + ".out", Text: key.Seal([]byte(message[:160])), Model: "fast", FirstReply: time.Millisecond, FullReply: time.Second,
				Usage: conversation.Usage{InputTokens: 12, OutputTokens: 20}, At: at,
			})
		}
		stored, err := conversation.Aggregate.Codec.Encode(events)
		if err != nil {
			return err
		}
		msg, err := kafka.Encode(domain.Commit{
			Stream: stream, Base: version, Command: fmt.Sprintf("%s.%d", turn, version), Account: "default",
			Actor: domain.Actor{Kind: "key", ID: "key_bench"}, Time: at, Events: stored,
		})
		if err != nil {
			return err
		}
		record := &kgo.Record{Key: []byte(stream), Value: msg.Payload}
		for header, value := range msg.Metadata {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: header, Value: []byte(value)})
		}
		producer.Produce(ctx, record, nil)
	}
	return nil
}

// operations is row 17.
func operations(ctx context.Context, b *bench) error {
	b.say("row 17: a log of %d commits is rebuilt and verified", b.events)
	if _, err := b.nodes(ctx); err != nil {
		return err
	}
	keys, closeKeys, err := openKeyring(ctx)
	if err != nil {
		return err
	}
	defer closeKeys()
	began := time.Now()
	if err := b.plantLog(ctx, keys.Create); err != nil {
		return err
	}
	end, err := logEnd(ctx)
	if err != nil {
		return err
	}
	b.say("  %d commits appended in %v", b.events, time.Since(began).Round(time.Second))
	if err := b.awaitFolds(ctx, end); err != nil {
		return err
	}
	for _, operation := range [][]string{{"rebuild", "postgres"}, {"rebuild", "clickhouse", "--grace", "1s"}, {"verify"}} {
		if err := b.operate(ctx, end, operation); err != nil {
			return err
		}
	}
	return nil
}

// awaitFolds waits until both stores have the log.
func (b *bench) awaitFolds(ctx context.Context, end int64) error {
	conn, _, err := analytics()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	began := time.Now()
	err = until(ctx, 200*time.Millisecond, func() (bool, error) {
		var offset int64
		err := conn.QueryRow(ctx, `SELECT max(off) FROM nido_1.checkpoints`).Scan(&offset)
		return offset >= end-1, err
	})
	b.say("  folded in %v", time.Since(began).Round(time.Second))
	return err
}

// operate runs an operator's command and measures it: by the clock, and what it spends in each process.
func (b *bench) operate(ctx context.Context, end int64, arguments []string) error {
	name := strings.Join(arguments[:min(2, len(arguments))], " ")
	before, err := engineTimes()
	if err != nil {
		return err
	}
	began := time.Now()
	cmd := exec.CommandContext(ctx, b.nido, arguments...)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("nido %s: %w\n%s", name, err, output)
	}
	took := time.Since(began)
	after, err := engineTimes()
	if err != nil {
		return err
	}
	per := func(d time.Duration) float64 { return d.Seconds() / float64(end) * 10_000 }
	b.results.add(17, "nido "+name+": commits per second", "/s", float64(end)/took.Seconds())
	b.results.add(17, "nido "+name+": its CPU per 10,000 commits", "s", per(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()))
	for _, engine := range engineNames {
		b.results.add(17, "nido "+name+": "+engine+"'s CPU per 10,000 commits", "s", per(after[engine]-before[engine]))
	}
	return nil
}
