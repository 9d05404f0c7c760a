// Before the story: settings that cannot be meant, and secrets that must find a place.

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/postgres"
)

// meant are settings that a node can be made of.
func meant() nodeSettings {
	return nodeSettings{
		Listen: "127.0.0.1:8080", BaseDomain: "localhost", TurnTimeout: time.Minute, StopTimeout: time.Second,
		HeaderTimeout: time.Second, BodyTimeout: time.Second, ClaimTimeout: time.Minute,
	}
}

func TestEverySettingThatCannotBeMeantIsNamedAtOnce(t *testing.T) {
	if err := meant().check(); err != nil {
		t.Errorf("settings that can be meant: %v", err)
	}
	wrong := nodeSettings{
		BaseDomain: "https://example.com", PublicURL: "api.example.com", StopTimeout: -1, StopDelay: -1, BodyTimeout: -time.Second,
		TrustedProxies: []string{"10.0.0.0/33"},
	}
	engines := engineSettings{KafkaPartitions: 0, MasterKey: "c2VjcmV0"}
	_, err := newNode(t.Context(), wrong, engines, allRoles, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("a node was made of them")
	}
	for _, name := range []string{
		"NIDO_TURN_TIMEOUT", "NIDO_STOP_TIMEOUT", "NIDO_STOP_DELAY", "NIDO_HEADER_TIMEOUT", "NIDO_BODY_TIMEOUT", "NIDO_CLAIM_TIMEOUT", "NIDO_BASE_DOMAIN",
		"NIDO_PUBLIC_URL", "NIDO_TRUSTED_PROXIES", "NIDO_KAFKA_PARTITIONS", "NIDO_MASTER_KEY",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("nothing is said of %s:\n%v", name, err)
		}
	}
	if _, err := parseRoles(nil); err == nil {
		t.Error("a node without a role was taken")
	}
}

func TestEverySettingIsAFlagOfTheSameNameEverywhere(t *testing.T) {
	flags := map[string]string{} // by the variable
	for _, command := range commandLine(t).Model.Leaves(false) {
		for _, flag := range command.Flags {
			for _, variable := range flag.Envs {
				if other, known := flags[variable]; known && other != flag.Name {
					t.Errorf("%s is --%s of %s, and --%s elsewhere", variable, flag.Name, command.Path(), other)
				}
				flags[variable] = flag.Name
			}
		}
	}
	if flags["NIDO_CLICKHOUSE_URL"] != "clickhouse-url" {
		t.Errorf("flags are %v", flags)
	}
}

// commandLine is what main reads its arguments with.
func commandLine(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := kong.New(new(commandTree))
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

func TestNoFaultOfASettingRepeatsASecret(t *testing.T) {
	const secret = "hunter2"
	_, masterKey := engineSettings{MasterKey: secret}.masterKey()
	for _, url := range []string{
		"postgres://nido:hunter2@127.0.0.1:port/nido", "postgres://nido:hunter2@[::1/nido", "host=127.0.0.1 password=hunter2 port=no",
		"postgres://nido:hunter2@127.0.0.1:1/nido?connect_timeout=no", "postgres://nido:hunter2@127.0.0.1:1/nido",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: url})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, dsn := range []string{"clickhouse://nido:hunter2@127.0.0.1:port/nido", "clickhouse://nido:hunter2@[::1/nido", "http://nido:hunter2@h/nido"} {
		_, err := clickhouse.New(clickhouse.Config{DSN: dsn})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	if masterKey == nil || strings.Contains(masterKey.Error(), secret) {
		t.Errorf("the master key: %v", masterKey)
	}
}

func TestTheFoldHasAConnectionForEachPartitionAndTimeForItsLongestBatch(t *testing.T) {
	for partitions, want := range map[int]int32{1: 2, 12: 13, 500: 33} {
		config := foldPool("postgres://127.0.0.1/nido", partitions, nil)
		if config.MaxConns != want || config.StatementTimeout < 5*time.Minute {
			t.Errorf("%d partitions: %d connections, %v for a statement", partitions, config.MaxConns, config.StatementTimeout)
		}
	}
}

func TestASecretFindsItsPlaceBeforeThereIsOne(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "root.key")
	files := func() int {
		t.Helper()
		found, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if _, err := beginSecret(filepath.Join(dir, "nowhere", "root.key")); err == nil {
		t.Error("a file in a directory that is not there was begun")
	}
	given, err := beginSecret(file)
	if err != nil {
		t.Fatal(err)
	}
	given.discard()
	if files() > 0 {
		t.Error("something was left of a secret that never came")
	}

	kept, err := beginSecret(file)
	if err != nil {
		t.Fatal(err)
	}
	late, err := beginSecret(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.keep("ha_live_1\n"); err != nil {
		t.Fatal(err)
	}
	kept.discard()
	about, err := os.Stat(file)
	if text, _ := os.ReadFile(file); err != nil || string(text) != "ha_live_1\n" || about.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v", text, about.Mode(), err)
	}
	if _, err := beginSecret(file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}

	err = late.keep("ha_live_2")
	late.discard()
	if err == nil || files() != 2 {
		t.Fatalf("a name that was taken meanwhile: %v", err)
	}
	_, place, _ := strings.Cut(err.Error(), "the key is in ")
	if text, _ := os.ReadFile(place); string(text) != "ha_live_2\n" {
		t.Errorf("the error names %q, which holds %q", place, text)
	}
}
