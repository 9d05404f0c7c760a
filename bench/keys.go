//go:build linux

package main

// This file is the keyring of the nodes under test, for rows that write sealed text themselves.

import (
	"context"
	"encoding/base64"
	"errors"
	"os"

	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
)

func openKeyring(ctx context.Context) (*keyring.Keyring, func(), error) {
	master, err := base64.StdEncoding.DecodeString(os.Getenv("NIDO_MASTER_KEY"))
	if err != nil {
		return nil, nil, errors.New("NIDO_MASTER_KEY is not base64")
	}
	pool, err := postgres.Open(ctx, postgres.Config{URL: os.Getenv("NIDO_POSTGRES_URL"), MaxConns: 8, ApplicationName: "bench"})
	if err != nil {
		return nil, nil, err
	}
	keys, err := keyring.New(ctx, pool, master)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return keys, pool.Close, nil
}
