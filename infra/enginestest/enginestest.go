// Package enginestest stands below the tests: it gives each one a database, a ClickHouse database and a Kafka prefix of
// its own on the engines whose addresses are in the environment. A test that needs an engine which is not there fails.
package enginestest

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"os"
	"strings"
	"testing"
	"time"
)

// The variables that `nido engines` exports.
const (
	kafkaVariable      = "NIDO_KAFKA_BROKERS"
	postgresVariable   = "NIDO_POSTGRES_URL"
	clickHouseVariable = "NIDO_CLICKHOUSE_URL"
)

// patience bounds each set-up and each clean-up. It is long, since tests of many packages start at once on few cores.
const patience = 2 * time.Minute

// longestName bounds the readable part of a name: Postgres cuts identifiers off at 63 bytes, and generations of the
// read models add a number to ours.
const longestName = 36

// MasterKey gives 32 random bytes, as NIDO_MASTER_KEY holds them in base64.
func MasterKey(t testing.TB) []byte {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	return key
}

// variable reads where an engine is, and fails the test if nobody said.
func variable(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("this test needs real engines and %s is not set: run `bin/nido engines --data DIR -- go test …`, "+
			"or export what `bin/nido engines --data DIR` prints", name)
	}
	return value
}

// uniqueName makes a name that tells which test it belongs to, of the characters that every engine allows.
func uniqueName(t testing.TB) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '_'
		}
	}, t.Name())
	random := make([]byte, 5)
	rand.Read(random) // never fails (crypto/rand)
	return "t_" + readable[:min(len(readable), longestName)] + "_" + strings.ToLower(base32.StdEncoding.EncodeToString(random))
}

// cleanUpContext outlives the test's own context, which is over before its clean-ups run.
func cleanUpContext(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), patience)
}
