package clickhouse_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/enginestest"
)

func TestOpen(t *testing.T) {
	t.Run("creates the database of the request log and that of the folds", func(t *testing.T) {
		dsn := enginestest.ClickHouse(t)
		for range 2 { // every start does it
			client, err := clickhouse.Open(t.Context(), clickhouse.Config{DSN: dsn, Generation: 3})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(dsn, "/"+client.Database) || client.Folds() != client.Database+"_3" {
				t.Errorf("databases %s and %s", client.Database, client.Folds())
			}
			var found uint64
			err = client.QueryRow(t.Context(), `SELECT count() FROM system.databases WHERE name IN ({a:String}, {b:String})`,
				ch.Named("a", client.Database), ch.Named("b", client.Folds())).Scan(&found)
			if err != nil || found != 2 {
				t.Errorf("%d of 2 databases exist, %v", found, err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("inserts synchronously, whatever the server's default", func(t *testing.T) {
		client, err := clickhouse.Open(t.Context(), clickhouse.Config{DSN: enginestest.ClickHouse(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := client.Close(); err != nil {
				t.Error(err)
			}
		}()
		var value string
		if err := client.QueryRow(t.Context(), `SELECT toString(getSetting('async_insert'))`).Scan(&value); err != nil || value != "false" && value != "0" {
			t.Errorf("async_insert is %q, %v", value, err)
		}
		if err := client.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("says in time that nobody answers", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := listener.Close(); err != nil {
				t.Error(err)
			}
		}()
		config := clickhouse.Config{
			DSN: "clickhouse://u:hidden@" + listener.Addr().String() + "/nido", DialTimeout: 200 * time.Millisecond, ReadTimeout: 200 * time.Millisecond,
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		client, err := clickhouse.Open(ctx, config)
		if err == nil || client != nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error tells the password: %v", err)
		}
		lazy, err := clickhouse.New(config)
		if err != nil {
			t.Fatalf("a node starts without ClickHouse: %v", err)
		}
		if err := lazy.Ping(ctx); err == nil {
			t.Error("ping: nobody is there")
		}
		if err := lazy.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	for dsn, fault := range map[string]string{
		"":                                    "cannot be read",
		"http://u:hidden@localhost:8123/db":   "not of the native protocol",
		"clickhouse://u:hidden@localhost":     "names no database",
		"clickhouse://u:hidden@localhost/a-b": "names no database",
	} {
		_, err := clickhouse.New(clickhouse.Config{DSN: dsn, DialTimeout: -1, MaxOpenConns: -1})
		if err == nil {
			t.Errorf("%s was taken", dsn)
			continue
		}
		for _, want := range []string{fault, "time-out is negative", "number is negative"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v does not say: %s", dsn, err, want)
			}
		}
		if strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}
