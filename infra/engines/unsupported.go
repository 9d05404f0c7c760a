//go:build !linux || !amd64 || noengines

// Below the story: builds that have no engines in them.

package engines

import (
	"context"
	"errors"
)

// start refuses: the packages that carry the engines exist for Linux on x86-64 with glibc only, and a binary built
// with the tag noengines, as in the container image, leaves them out to stay free of shared libraries.
func start(context.Context, Config) (*Engines, error) {
	return nil, errors.New("this build has no embedded engines (they exist on linux-x64 with glibc): " +
		"run `docker compose up`, or `nido serve` with NIDO_KAFKA_BROKERS, NIDO_POSTGRES_URL and NIDO_CLICKHOUSE_URL")
}

func runChild() {}
