//go:build linux && amd64 && !noengines

// Below the story: what a kill may not cost.

package engines

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topic = "engines.test"

// write puts the numbers [from, to) into all three engines, and says after each which one all three have acknowledged.
func write(ctx context.Context, e *Engines, from, to int, acknowledged io.Writer) error {
	kafka, err := kgo.NewClient(kgo.SeedBrokers(e.KafkaBrokers()...))
	if err != nil {
		return err
	}
	defer kafka.Close()
	forever := "-1"
	created, err := kadm.NewClient(kafka).CreateTopic(ctx, -1, 1, map[string]*string{"retention.ms": &forever}, topic)
	if err != nil && !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
		return err
	}
	if err == nil && created.NumPartitions != 1 {
		return fmt.Errorf("a topic has %d partitions by default", created.NumPartitions)
	}
	postgres, err := pgx.Connect(ctx, e.PostgresURL())
	if err != nil {
		return err
	}
	defer postgres.Close(ctx)
	if _, err := postgres.Exec(ctx, `CREATE TABLE IF NOT EXISTS numbers (n bigint PRIMARY KEY)`); err != nil {
		return err
	}
	click, err := openClickHouse(e)
	if err != nil {
		return err
	}
	defer click.Close()
	if err := click.Exec(ctx, `CREATE TABLE IF NOT EXISTS numbers (n Int64) ENGINE = MergeTree ORDER BY n`); err != nil {
		return err
	}
	for n := from; n < to; n++ {
		record := &kgo.Record{Topic: topic, Value: []byte(strconv.Itoa(n))}
		if err := kafka.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
		if _, err := postgres.Exec(ctx, `INSERT INTO numbers VALUES ($1)`, n); err != nil {
			return err
		}
		batch, err := click.PrepareBatch(ctx, `INSERT INTO numbers`)
		if err != nil {
			return err
		}
		if err := errors.Join(batch.Append(int64(n)), batch.Send()); err != nil {
			return err
		}
		if acknowledged != nil {
			fmt.Fprintln(acknowledged, n)
		}
	}
	return nil
}

func openClickHouse(e *Engines) (clickhouse.Conn, error) {
	options, err := clickhouse.ParseDSN(e.ClickHouseURL())
	if err != nil {
		return nil, err
	}
	return clickhouse.Open(options)
}

func queryPostgres(ctx context.Context, address string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx), conn.Close(ctx))
}

// wantAll wants the numbers [0, want) in every engine, each once; what was written without being acknowledged may follow.
func wantAll(t *testing.T, e *Engines, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kafka, err := kgo.NewClient(kgo.SeedBrokers(e.KafkaBrokers()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	next := 0
	for next < want {
		fetches := kafka.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("the log ends before number %d of %d: %v", next, want, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Value) != strconv.Itoa(next) {
				t.Fatalf("the log has %s where %d belongs", r.Value, next)
			}
			next++
		})
	}
	postgres, err := pgx.Connect(ctx, e.PostgresURL())
	if err != nil {
		t.Fatal(err)
	}
	defer postgres.Close(context.WithoutCancel(ctx))
	var inPostgres int
	if err := postgres.QueryRow(ctx, `SELECT count(*) FROM numbers WHERE n < $1`, want).Scan(&inPostgres); err != nil {
		t.Fatal(err)
	}
	click, err := openClickHouse(e)
	if err != nil {
		t.Fatal(err)
	}
	defer click.Close()
	var inClickHouse, distinct uint64
	err = click.QueryRow(ctx, `SELECT count(), uniqExact(n) FROM numbers WHERE n < $1`, int64(want)).Scan(&inClickHouse, &distinct)
	if err != nil {
		t.Fatal(err)
	}
	if inPostgres != want || inClickHouse != uint64(want) || distinct != uint64(want) {
		t.Errorf("of %d, postgres has %d and clickhouse %d (%d distinct)", want, inPostgres, inClickHouse, distinct)
	}
}

// writeUntilKilled is the part of the process that is killed: it writes, and prints what was acknowledged.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	e, err := Start(ctx, testConfig(dir))
	if err != nil {
		return err
	}
	return errors.Join(write(ctx, e, 0, 1<<30, os.Stdout), e.Stop(ctx))
}

func TestNothingAcknowledgedIsLostAndNothingRunsAfterAKill(t *testing.T) {
	dir := oddDir(t)
	const wanted = 100
	writer := exec.Command("/proc/self/exe")
	writer.Env = append(os.Environ(), roleVariable+"=writer", "NIDO_ENGINES_TEST_DIR="+dir)
	writer.Stderr = t.Output()
	output, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if lines.Text() != strconv.Itoa(acknowledged) {
			t.Fatalf("the writer says %q instead of %d", lines.Text(), acknowledged)
		}
		if acknowledged++; acknowledged == wanted {
			if err := writer.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = writer.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer was not killed: %v", err)
	}
	eventually(t, "all children are gone", func() bool { return len(holders(t, dir)) == 0 })
	wantAll(t, startEngines(t, testConfig(dir)), acknowledged)
}

func TestAStartWaitsForTheChildrenOfAKilledOne(t *testing.T) {
	dir := oddDir(t)
	writer := exec.Command("/proc/self/exe")
	writer.Env = append(os.Environ(), roleVariable+"=writer", "NIDO_ENGINES_TEST_DIR="+dir)
	writer.Stderr = t.Output()
	output, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	if !bufio.NewScanner(output).Scan() {
		t.Fatal("the writer wrote nothing")
	}
	if err := writer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// At once, without looking whether the children have gone.
	if err := write(t.Context(), startEngines(t, testConfig(dir)), 1<<30, 1<<30+1, nil); err != nil {
		t.Error(err)
	}
	if err := writer.Wait(); err == nil {
		t.Error("the writer ended by itself")
	}
}
