//go:build linux && amd64 && !noengines

// Below the story: ports that others have, and passwords that others do not.

package engines

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func TestATakenPortIsNamedAndNothingIsLeftRunning(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for name, set := range map[string]func(*Config){
		"kafka":      func(c *Config) { c.KafkaPort = port },
		"postgres":   func(c *Config) { c.PostgresPort = port },
		"clickhouse": func(c *Config) { c.ClickHousePort = port },
	} {
		t.Run(name, func(t *testing.T) {
			dir := oddDir(t)
			cfg := testConfig(dir)
			set(&cfg)
			_, err := Start(t.Context(), cfg)
			want := fmt.Sprintf("port %d for %s is taken", port, name)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %v", want, err)
			}
			if left := holders(t, dir); len(left) > 0 {
				t.Errorf("these still run: %v", left)
			}
		})
	}
}

func TestRememberedPortsThatAreTakenAreReplaced(t *testing.T) {
	dir := oddDir(t)
	first := startEngines(t, testConfig(dir))
	stopEngines(t, first)
	remembered, err := loadPorts(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{remembered.Kafka, remembered.Postgres, remembered.ClickHouse} {
		taken, err := net.Listen("tcp4", address(port))
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
	}
	second := startEngines(t, testConfig(dir))
	if err := write(t.Context(), second, 0, 1, nil); err != nil {
		t.Fatal(err)
	}
	if second.KafkaBrokers()[0] == first.KafkaBrokers()[0] || second.PostgresURL() == first.PostgresURL() ||
		second.ClickHouseURL() == first.ClickHouseURL() {
		t.Error("a taken port was given out")
	}
}

func TestNobodyGetsInWithoutThePassword(t *testing.T) {
	e := startEngines(t, testConfig(oddDir(t)))
	for name, address := range map[string]string{
		"no password":    strings.Replace(e.PostgresURL(), passwordOf(t, e.PostgresURL()), "", 1),
		"wrong password": strings.Replace(e.PostgresURL(), passwordOf(t, e.PostgresURL()), "guess", 1),
	} {
		if err := queryPostgres(t.Context(), address); err == nil {
			t.Errorf("postgres let somebody in with %s", name)
		}
	}
	// The session of the child's own script is a user without a password; only that session may be it.
	options, err := clickhouse.ParseDSN(e.ClickHouseURL())
	if err != nil {
		t.Fatal(err)
	}
	options.Auth.Username, options.Auth.Password = "default", ""
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("clickhouse let somebody in as default")
	}
}

func passwordOf(t *testing.T, address string) string {
	t.Helper()
	_, rest, _ := strings.Cut(address, postgresUser+":")
	password, _, found := strings.Cut(rest, "@")
	if !found || len(password) != 48 {
		t.Fatalf("no password of 24 bytes in %d characters of address", len(address))
	}
	return password
}
