package enginestest

// This file stands below the tests of the Postgres read models and of everything in the schema nido.

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Postgres creates an empty database and answers with its URL. It is dropped when the test ends, whoever is still
// connected to it.
func Postgres(t testing.TB) string {
	t.Helper()
	address, err := url.Parse(variable(t, postgresVariable))
	if err != nil {
		t.Fatalf("read %s: it is not a URL", postgresVariable) // the error would print the password
	}
	name := uniqueName(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// template0 takes no connections, so nobody can be in the way of the copy, as somebody may be with template1.
	if err := onPostgres(ctx, address.String(), `CREATE DATABASE `+pgx.Identifier{name}.Sanitize()+` TEMPLATE template0`); err != nil {
		t.Fatalf("create a database on the Postgres of %s: %v", postgresVariable, err)
	}
	t.Cleanup(func() {
		ctx, cancel := cleanUpContext(t)
		defer cancel()
		if err := onPostgres(ctx, address.String(), `DROP DATABASE IF EXISTS `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	own := *address
	own.Path = "/" + name
	return own.String()
}

// onPostgres runs one statement on a connection of its own: neither may run in a transaction.
func onPostgres(ctx context.Context, address, statement string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
