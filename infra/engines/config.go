// Below the story: what can be said about the embedded engines before they start.

package engines

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config says where the embedded engines keep their data and how they are reached.
type Config struct {
	// Dir holds everything the engines keep: log, tables, passwords, the master key. It is created when missing. Required.
	Dir string
	// Logger hears about starts, stops and trouble of the engines. Default: silence.
	Logger *slog.Logger
	// Packages is the node_modules folder that holds the engines' npm packages. Default: beside the binary or the module.
	Packages string
	// KafkaPort, PostgresPort and ClickHousePort are the ports on 127.0.0.1; a taken one fails the start.
	// Default 0: the port of the last start where it is still free, else any free one.
	KafkaPort, PostgresPort, ClickHousePort int
	// LockWait is how long Start waits for another process to let go of Dir. Default: 10 s. The dying children of one
	// that was killed have a minute.
	LockWait time.Duration
	// StartTimeout bounds everything that comes after the lock, a crash recovery included. Default: 2 min.
	StartTimeout time.Duration
	// StopTimeout bounds the orderly end of the children; what still runs after it is killed. Default: 20 s.
	StopTimeout time.Duration
	// ClickHouseMemoryBytes is the most that ClickHouse may use, at least 512 MiB. Default: 1.5 GiB.
	ClickHouseMemoryBytes int64

	// refuseNamespaces lets tests see a machine on which root gets no user namespaces.
	refuseNamespaces bool
}

const minClickHouseMemory = 512 << 20

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, errors.New("engines: Dir is empty"))
	}
	seen := map[int]string{}
	for _, p := range []struct {
		name string
		port int
	}{{"KafkaPort", c.KafkaPort}, {"PostgresPort", c.PostgresPort}, {"ClickHousePort", c.ClickHousePort}} {
		if p.port < 0 || p.port > 65535 {
			faults = append(faults, fmt.Errorf("engines: %s %d is not a port", p.name, p.port))
		}
		if other, taken := seen[p.port]; taken && p.port != 0 {
			faults = append(faults, fmt.Errorf("engines: %s and %s are both %d", other, p.name, p.port))
		}
		seen[p.port] = p.name
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"LockWait", c.LockWait}, {"StartTimeout", c.StartTimeout}, {"StopTimeout", c.StopTimeout}} {
		if d.value < 0 {
			faults = append(faults, fmt.Errorf("engines: %s is negative", d.name))
		}
	}
	if c.ClickHouseMemoryBytes != 0 && c.ClickHouseMemoryBytes < minClickHouseMemory {
		faults = append(faults, fmt.Errorf("engines: ClickHouseMemoryBytes %d is less than %d", c.ClickHouseMemoryBytes, minClickHouseMemory))
	}
	return errors.Join(faults...)
}

// withDefaults fills in what Validate allows to be left out.
func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.LockWait == 0 {
		c.LockWait = 10 * time.Second
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 2 * time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 20 * time.Second
	}
	if c.ClickHouseMemoryBytes == 0 {
		c.ClickHouseMemoryBytes = 1536 << 20
	}
	return c
}
