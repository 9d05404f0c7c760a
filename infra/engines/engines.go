// Package engines stands below the story: it starts the three engines that the log and the read models live in, for
// `nido dev` and for tests. Kafka is a broker inside this process, Postgres and ClickHouse are children of it, and one
// data directory holds all three. The rest of Nido reaches them by addresses, as it reaches production engines.
package engines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrInUse is matched by the error of a Start whose directory belongs to engines that still run.
var ErrInUse = errors.New("the data directory is in use")

// Engines are the three running engines of one data directory.
type Engines struct {
	kafkaBrokers  []string
	postgresURL   string
	clickHouseURL string
	masterKey     string

	// stop ends the engines in order; it is run once, by the first Stop.
	stop     func(context.Context) error
	stopOnce sync.Once
	stopErr  error

	done     chan struct{}
	doneOnce sync.Once
	mu       sync.Mutex
	err      error
}

// Start starts the engines of cfg.Dir and returns when all three answer. Whatever goes wrong, a cancelled ctx
// included, it leaves nothing running. The ctx bounds only the start; Stop ends the engines.
func Start(ctx context.Context, cfg Config) (*Engines, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e, err := start(ctx, cfg.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("start the engines: %w", err)
	}
	return e, nil
}

// RunChild must be the first line of main, and of TestMain in tests that call Start: ClickHouse runs in a second
// process of the same binary. In that process RunChild never returns; in any other it does nothing.
func RunChild() { runChild() }

// KafkaBrokers are the addresses of the log.
func (e *Engines) KafkaBrokers() []string { return slices.Clone(e.kafkaBrokers) }

// PostgresURL is the address of the database nido, with the name and password of its superuser.
func (e *Engines) PostgresURL() string { return e.postgresURL }

// ClickHouseURL is the address of the database nido on the native protocol, with name and password.
func (e *Engines) ClickHouseURL() string { return e.clickHouseURL }

// MasterKey is the key that wraps all data keys: 32 random bytes in base64, made at the first start of the directory.
func (e *Engines) MasterKey() string { return e.masterKey }

// Done is closed when the engines no longer run as a whole: after Stop, or when Postgres has ended by itself. It is not
// started again; the owner calls Stop and decides. ClickHouse is, at the same address, unless it keeps ending.
func (e *Engines) Done() <-chan struct{} { return e.done }

// Err says, once Done is closed, which child ended by itself and how its log ends; nil after an ordered Stop.
func (e *Engines) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Stop ends Postgres and ClickHouse in their own order, then the log, and lets go of the directory. Close the clients
// first: ClickHouse waits 5 s for connections that are still open. Stop may be called again; it answers the same.
func (e *Engines) Stop(ctx context.Context) error {
	e.stopOnce.Do(func() {
		e.stopErr = e.stop(ctx)
		e.finish(nil)
	})
	return e.stopErr
}

// finish closes Done with the first reason that is heard.
func (e *Engines) finish(err error) {
	e.doneOnce.Do(func() {
		e.mu.Lock()
		e.err = err
		e.mu.Unlock()
		close(e.done)
	})
}
