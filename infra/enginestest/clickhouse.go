package enginestest

// This file stands below the tests of the ClickHouse read models and of the request log.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// ClickHouse creates a database and answers with its DSN. When the test ends it is dropped, and with it the databases
// of the same name and a generation's number behind it ("…_1").
func ClickHouse(t testing.TB) string {
	t.Helper()
	address, err := url.Parse(variable(t, clickHouseVariable))
	if err != nil {
		t.Fatalf("read %s: it is not a URL", clickHouseVariable) // the error would print the password
	}
	name := uniqueName(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = onClickHouse(ctx, address.String(), func(conn clickhouse.Conn) error {
		return conn.Exec(ctx, "CREATE DATABASE `"+name+"`")
	})
	if err != nil {
		t.Fatalf("create a database on the ClickHouse of %s: %v", clickHouseVariable, err)
	}
	t.Cleanup(func() {
		ctx, cancel := cleanUpContext(t)
		defer cancel()
		err := onClickHouse(ctx, address.String(), func(conn clickhouse.Conn) error { return dropClickHouse(ctx, conn, name) })
		if err != nil {
			t.Errorf("drop the test's ClickHouse databases: %v", err)
		}
	})
	own := *address
	own.Path = "/" + name
	return own.String()
}

func dropClickHouse(ctx context.Context, conn clickhouse.Conn, name string) error {
	var found []struct {
		Name string `ch:"name"`
	}
	err := conn.Select(ctx, &found, `SELECT name FROM system.databases WHERE name = ? OR match(name, ?)`, name, "^"+name+"_[0-9]+$")
	if err != nil {
		return fmt.Errorf("list them: %w", err)
	}
	for _, database := range found {
		// SYNC: without it the parts stay on disk for minutes.
		if err := conn.Exec(ctx, "DROP DATABASE IF EXISTS `"+database.Name+"` SYNC"); err != nil {
			return err
		}
	}
	return nil
}

// onClickHouse does one thing on a client of its own and closes it: a stopping ClickHouse waits for open connections.
func onClickHouse(ctx context.Context, address string, do func(clickhouse.Conn) error) error {
	options, err := clickhouse.ParseDSN(address)
	if err != nil {
		return errors.New("its URL is not a DSN of the native protocol")
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close())
}
