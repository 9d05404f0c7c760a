// Package clickhouse stands between the folds, the queries and ClickHouse: the connection, its limits and its databases.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Config says where ClickHouse is and how long it may take.
type Config struct {
	// DSN is the address on the native protocol: clickhouse://user:password@host:9000/database. Its parameters, such as
	// secure=true or compress=zstd, go before this configuration. Required, with a database.
	DSN string
	// DialTimeout bounds connecting. Default: 2 s.
	DialTimeout time.Duration
	// ReadTimeout bounds waiting for the next bytes of an answer where the context has no deadline. Default: 30 s.
	ReadTimeout time.Duration
	// MaxOpenConns bounds the connections. Past them a query waits for one, up to DialTimeout. Default: 16.
	MaxOpenConns int
	// MaxIdleConns bounds those kept open while nobody uses them. Default: 8.
	MaxIdleConns int
	// Generation is the number of the folds' database behind the DSN's: "nido" and 1 make "nido_1". Default: 1.
	Generation int
}

// databaseName is what a database may be called: its generations are told apart by what stands behind the name.
var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Validate reports every fault of the configuration at once. It repeats no part of the DSN, which holds a password.
func (c Config) Validate() error {
	var faults []error
	options, err := clickhouse.ParseDSN(c.DSN)
	switch {
	case err != nil:
		faults = append(faults, errors.New("clickhouse: the DSN cannot be read"))
	case options.Protocol != clickhouse.Native:
		faults = append(faults, errors.New("clickhouse: the DSN is not of the native protocol (clickhouse://host:9000/database)"))
	case !databaseName.MatchString(options.Auth.Database):
		faults = append(faults, errors.New("clickhouse: the DSN names no database of letters, digits and underscores"))
	}
	if c.DialTimeout < 0 || c.ReadTimeout < 0 {
		faults = append(faults, errors.New("clickhouse: a time-out is negative"))
	}
	if c.MaxOpenConns < 0 || c.MaxIdleConns < 0 || c.Generation < 0 {
		faults = append(faults, errors.New("clickhouse: a number is negative"))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	c.DialTimeout = orDefault(c.DialTimeout, 2*time.Second)
	c.ReadTimeout = orDefault(c.ReadTimeout, 30*time.Second)
	c.MaxOpenConns = orDefault(c.MaxOpenConns, 16)
	c.MaxIdleConns = min(orDefault(c.MaxIdleConns, 8), c.MaxOpenConns)
	c.Generation = orDefault(c.Generation, 1)
	return c
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}

// Client is a pool of connections and the names of the databases behind it.
type Client struct {
	driver.Conn
	// Database holds what is primary: the request log.
	Database string

	generation atomic.Int64
}

// Folds is the database of the generation of read models that serves.
func (c *Client) Folds() string { return c.Generation(int(c.generation.Load())) }

// Generation is the database of one generation, by its number.
func (c *Client) Generation(number int) string { return fmt.Sprintf("%s_%d", c.Database, number) }

// Serve makes another generation the one that Folds names, and reports whether it is another.
func (c *Client) Serve(generation int) (changed bool) {
	return c.generation.Swap(int64(generation)) != int64(generation)
}

// New makes the pool without connecting, for nodes that must start while ClickHouse is down.
func New(config Config) (*Client, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	options, err := config.options()
	if err != nil {
		return nil, err
	}
	client := &Client{Database: options.Auth.Database}
	client.Serve(config.Generation)
	// Every query names its database, and the one of the DSN may not exist yet.
	options.Auth.Database = ""
	if client.Conn, err = clickhouse.Open(options); err != nil {
		return nil, fmt.Errorf("open clickhouse: %w", err)
	}
	return client, nil
}

// Prepare creates the databases where they are missing.
func (c *Client) Prepare(ctx context.Context) error {
	for _, database := range []string{c.Database, c.Folds()} {
		if err := c.CreateDatabase(ctx, database); err != nil {
			return err
		}
	}
	return nil
}

// CreateDatabase creates a database where it is missing.
func (c *Client) CreateDatabase(ctx context.Context, database string) error {
	if err := c.Exec(ctx, `CREATE DATABASE IF NOT EXISTS {db:Identifier}`, clickhouse.Named("db", database)); err != nil {
		return fmt.Errorf("create the database %s: %w", database, err)
	}
	return nil
}

// Generations lists the databases of all generations that exist, with their numbers: those that serve, are being filled or
// have been replaced.
func (c *Client) Generations(ctx context.Context) (map[string]int, error) {
	var found []struct {
		Name string `ch:"name"`
	}
	if err := c.Select(ctx, &found, `SELECT name FROM system.databases WHERE startsWith(name, {db:String})`, clickhouse.Named("db", c.Database+"_")); err != nil {
		return nil, fmt.Errorf("list the generations: %w", err)
	}
	generations := map[string]int{}
	for _, database := range found {
		number, err := strconv.Atoi(strings.TrimPrefix(database.Name, c.Database+"_"))
		if err == nil && database.Name == c.Generation(number) {
			generations[database.Name] = number
		}
	}
	return generations, nil
}

// Folded lists the databases of all generations.
func (c *Client) Folded(ctx context.Context) ([]string, error) {
	generations, err := c.Generations(ctx)
	return slices.Sorted(maps.Keys(generations)), err
}

// DropGenerations drops the databases of all generations before one.
func (c *Client) DropGenerations(ctx context.Context, before int) error {
	generations, err := c.Generations(ctx)
	if err != nil {
		return err
	}
	for name, number := range generations {
		if number >= before {
			continue
		}
		// SYNC: without it the parts, and the texts in them, stay on disk for minutes.
		if err := c.Exec(ctx, `DROP DATABASE IF EXISTS {db:Identifier} SYNC`, clickhouse.Named("db", name)); err != nil {
			return fmt.Errorf("drop the database %s: %w", name, err)
		}
	}
	return nil
}

// Open is New and Prepare: it fails where ClickHouse does not answer.
func Open(ctx context.Context, config Config) (*Client, error) {
	client, err := New(config)
	if err != nil {
		return nil, err
	}
	if err := client.Prepare(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// options are clickhouse-go's, from the DSN and what it leaves open.
func (c Config) options() (*clickhouse.Options, error) {
	options, err := clickhouse.ParseDSN(c.DSN)
	if err != nil {
		return nil, errors.New("clickhouse: the DSN cannot be read")
	}
	options.DialTimeout = orDefault(options.DialTimeout, c.DialTimeout)
	options.ReadTimeout = orDefault(options.ReadTimeout, c.ReadTimeout)
	options.MaxOpenConns = orDefault(options.MaxOpenConns, c.MaxOpenConns)
	options.MaxIdleConns = orDefault(options.MaxIdleConns, c.MaxIdleConns)
	if options.Compression == nil && !onLoopback(options.Addr) {
		options.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	}
	// The server's default has become 1: a batch would wait for strangers' rows, and its answer could come before it is stored.
	options.Settings["async_insert"] = 0
	options.ClientInfo.Products = append(options.ClientInfo.Products, struct{ Name, Version string }{"nido", ""})
	return options, nil
}

// onLoopback says that compressing costs more than the bytes: 32,000 rows/s without against 18,000 with lz4.
func onLoopback(addresses []string) bool {
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return false
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// Ping asks ClickHouse for an answer, by a real query.
func (c *Client) Ping(ctx context.Context) error {
	var one uint8
	if err := c.QueryRow(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fmt.Errorf("ping clickhouse: %w", err)
	}
	return nil
}

// Holds lists the tables that have rows, in our database and those of all generations.
func (c *Client) Holds(ctx context.Context) (occupied []string, err error) {
	const query = `SELECT concat('clickhouse has rows in ', database, '.', name) FROM system.tables
		WHERE (database = {db:String} OR match(database, concat('^', {db:String}, '_[0-9]+$'))) AND total_rows > 0 ORDER BY database, name`
	rows, err := c.Query(ctx, query, clickhouse.Named("db", c.Database))
	if err != nil {
		return nil, fmt.Errorf("look into clickhouse: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, fmt.Errorf("look into clickhouse: %w", err)
		}
		occupied = append(occupied, table)
	}
	return occupied, rows.Err()
}
