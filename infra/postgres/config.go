package postgres

// This file stands at start: what a node must know to reach Postgres.

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says where Postgres is and how long anybody waits for it. Zero fields take the defaults.
type Config struct {
	// URL is the address of the primary, "postgres://user:password@host:port/database". Required.
	URL string
	// MaxConns bounds the pool. Default: 16.
	MaxConns int32
	// Schemas is the search path: the read models' schema, then ours. A rebuild fills another first one.
	// Default: read, nido.
	Schemas []string
	// ApplicationName is what pg_stat_activity shows. Default: nido.
	ApplicationName string
	// ConnectTimeout bounds one new connection, its log-in included. Default: 2 s.
	ConnectTimeout time.Duration
	// AcquireTimeout bounds the wait for a connection, a free one or a new one, whatever time the caller has: a request
	// must hear within a second that Postgres is down or overrun. Default: 900 ms.
	AcquireTimeout time.Duration
	// StatementTimeout is after how long the server cancels a statement. Default: 30 s.
	StatementTimeout time.Duration
	// LockTimeout is how long a statement may wait for a lock. Default: 5 s.
	LockTimeout time.Duration
	// IdleTransactionTimeout is after how long the server ends the session of a transaction in which nothing happens,
	// and with it the locks of a node that hangs. Default: 30 s.
	IdleTransactionTimeout time.Duration
	// Relaxed lets commits answer before they are on disk: for the fold, which the log has do all of it again that a crash
	// takes. Where requests read what it wrote, they need a Guard.
	Relaxed bool
	// ByKey plans every statement once, as a look-up by key for each of its rows: for the fold, whose plans are made while
	// its tables are small.
	ByKey bool
	// Guard keeps requests away from a server that may have lost commits. Default: nobody does.
	Guard *Guard
	// Exempt lets the pool through while the guard proves a server: for the fold.
	Exempt bool
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.URL == "" {
		faults = append(faults, errors.New("postgres: URL is empty"))
	} else if _, err := pgxpool.ParseConfig(c.URL); err != nil {
		// pgx hides the password in this error.
		faults = append(faults, fmt.Errorf("postgres: URL: %w", err))
	}
	if c.MaxConns < 0 {
		faults = append(faults, fmt.Errorf("postgres: MaxConns %d is negative", c.MaxConns))
	}
	for _, schema := range c.Schemas {
		if schema == "" {
			faults = append(faults, errors.New("postgres: Schemas holds an empty name"))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout}, {"AcquireTimeout", c.AcquireTimeout}, {"StatementTimeout", c.StatementTimeout},
		{"LockTimeout", c.LockTimeout}, {"IdleTransactionTimeout", c.IdleTransactionTimeout},
	} {
		if d.value < 0 {
			faults = append(faults, fmt.Errorf("postgres: %s is negative", d.name))
		}
		// The server counts in milliseconds, and takes 0 for "for ever".
		if d.value > 0 && d.value < time.Millisecond {
			faults = append(faults, fmt.Errorf("postgres: %s is less than a millisecond", d.name))
		}
	}
	return errors.Join(faults...)
}

// withDefaults fills in what Validate allows to be left out.
func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 16
	}
	if len(c.Schemas) == 0 {
		c.Schemas = []string{"read", schema}
	}
	if c.ApplicationName == "" {
		c.ApplicationName = "nido"
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{
		{&c.ConnectTimeout, 2 * time.Second}, {&c.AcquireTimeout, 900 * time.Millisecond}, {&c.StatementTimeout, 30 * time.Second},
		{&c.LockTimeout, 5 * time.Second}, {&c.IdleTransactionTimeout, 30 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	return c
}
