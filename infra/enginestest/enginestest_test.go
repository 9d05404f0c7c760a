package enginestest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestPostgres(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	t.Run("a test gets an empty database of its own, which is gone afterwards", func(t *testing.T) {
		var first, second string
		t.Run("two databases", func(t *testing.T) {
			first, second = Postgres(t), Postgres(t)
			if first == second {
				t.Fatal("two calls gave the same database")
			}
			conn, err := pgx.Connect(ctx, first)
			if err != nil {
				t.Fatal(err)
			}
			// Left open on purpose: a forgotten pool must not keep the database.
			t.Cleanup(func() { _ = conn.Close(ctx) })
			var tables int
			err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`).Scan(&tables)
			if err != nil || tables != 0 {
				t.Errorf("the database has %d tables, %v", tables, err)
			}
		})
		_, err := pgx.Connect(ctx, first)
		if err == nil || !strings.Contains(err.Error(), "does not exist") {
			t.Errorf("the database outlived its test: %v", err)
		}
	})
}

func TestClickHouse(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	var dsn string
	t.Run("a test gets a database of its own", func(t *testing.T) {
		dsn = ClickHouse(t)
		err := onClickHouse(ctx, dsn, func(conn clickhouse.Conn) error {
			var current string
			if err := conn.QueryRow(ctx, `SELECT currentDatabase()`).Scan(&current); err != nil {
				return err
			}
			if !strings.HasSuffix(dsn, "/"+current) {
				t.Errorf("connected to %q, not to the test's database", current)
			}
			return errors.Join(
				conn.Exec(ctx, "CREATE DATABASE `"+current+"_1`"),
				conn.Exec(ctx, "CREATE TABLE `"+current+"_1`.folded (x Int64) ENGINE = MergeTree ORDER BY x"))
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("it is gone afterwards with its generations", func(t *testing.T) {
		name := dsn[strings.LastIndex(dsn, "/")+1:]
		err := onClickHouse(ctx, variable(t, clickHouseVariable), func(conn clickhouse.Conn) error {
			var left uint64
			err := conn.QueryRow(ctx, `SELECT count() FROM system.databases WHERE startsWith(name, ?)`, name).Scan(&left)
			if err == nil && left != 0 {
				t.Errorf("%d databases are left", left)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestKafka(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	var brokers []string
	var prefix string
	t.Run("a test gets a prefix of its own", func(t *testing.T) {
		brokers, prefix = Kafka(t)
		if _, other := Kafka(t); other == prefix {
			t.Fatal("two calls gave the same prefix")
		}
		topics(t, brokers, func(admin *kadm.Client) {
			if _, err := admin.CreateTopic(ctx, 1, 1, nil, prefix+".events"); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("its topics are gone afterwards", func(t *testing.T) {
		topics(t, brokers, func(admin *kadm.Client) {
			left, err := admin.ListTopics(ctx)
			if err != nil || left.Has(prefix+".events") {
				t.Errorf("the topic outlived its test: %v", err)
			}
		})
	})
}

func topics(t *testing.T, brokers []string, do func(*kadm.Client)) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	do(kadm.NewClient(client))
}

func TestVariable(t *testing.T) {
	t.Run("a missing engine fails the test and says what to do", func(t *testing.T) {
		for name, ask := range map[string]func(testing.TB){
			postgresVariable:   func(t testing.TB) { Postgres(t) },
			clickHouseVariable: func(t testing.TB) { ClickHouse(t) },
			kafkaVariable:      func(t testing.TB) { Kafka(t) },
		} {
			t.Setenv(name, "")
			said := failure(t, ask)
			if !strings.Contains(said, name) || !strings.Contains(said, "nido engines") {
				t.Errorf("without %s it said %q", name, said)
			}
		}
	})
}

func TestUniqueName(t *testing.T) {
	t.Run("A name (with signs, ñ and a long tail that no engine would take as it is, at all)", func(t *testing.T) {
		if name := uniqueName(t); !regexp.MustCompile(`^t_testuniquename_a_name[a-z0-9_]{6,36}$`).MatchString(name) {
			t.Errorf("got %q", name)
		}
	})
}

// failure runs something that must end its test, and answers with what it said.
func failure(t *testing.T, ask func(testing.TB)) string {
	t.Helper()
	inner := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(inner)
	}()
	<-done
	return inner.said
}

// failing is a test that may fail without failing the test around it.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
