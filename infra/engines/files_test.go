//go:build linux && amd64 && !noengines

// Below the story: what lies in a data directory.

package engines

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestValidateNamesEveryFault(t *testing.T) {
	err := Config{KafkaPort: -1, PostgresPort: 7000, ClickHousePort: 7000, LockWait: -time.Second, ClickHouseMemoryBytes: 1}.Validate()
	if err == nil {
		t.Fatal("no fault was found")
	}
	for _, want := range []string{"Dir is empty", "KafkaPort -1", "PostgresPort and ClickHousePort are both 7000", "LockWait", "ClickHouseMemoryBytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err := (Config{Dir: "x"}).Validate(); err != nil {
		t.Errorf("a directory is enough, got %v", err)
	}
}

func TestSecretsAreReadableByTheirOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	first, err := loadSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"master.key", "postgres.password", "clickhouse.password"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	second, err := loadSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first != second {
		t.Error("the second start has other secrets than the first")
	}
}

func TestALostSecretIsNotReplacedWhileDataDependsOnIt(t *testing.T) {
	for name, dependent := range map[string]string{
		"master.key":        brokerFolder,
		"postgres.password": filepath.Join(postgresFolder, "data"),
	} {
		dir := t.TempDir()
		if _, err := loadSecrets(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, dependent), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := loadSecrets(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, name)+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestALogStaysSmallAndShowsOnlyThisRunsTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "child.log")
	if err := os.WriteFile(path, []byte("the last run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	if got := log.tail(); got != "(empty)" {
		t.Errorf("before a word was written: %q", got)
	}
	writeLine := func(line string) {
		if _, err := log.file.WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	writeLine("this run\n")
	if got := log.tail(); got != "this run\n" {
		t.Errorf("got %q", got)
	}
	writeLine(strings.Repeat("x", 2*tailBytes) + "end")
	if got := log.tail(); len(got) != tailBytes || !strings.HasSuffix(got, "end") {
		t.Errorf("the tail has %d bytes", len(got))
	}
	writeLine("\n0. ? @ 0x000000001c8fa4b3\nwhy\n")
	if got := log.tail(); !strings.HasSuffix(got, "end\nwhy\n") {
		t.Errorf("with a stack trace it ends %q", got[len(got)-40:])
	}
	if err := log.bound(10); err != nil {
		t.Fatal(err)
	}
	writeLine("after\n")
	if got := log.tail(); got != "after\n" {
		t.Errorf("after the log began anew: %q", got)
	}
	if old, err := os.ReadFile(path + ".1"); err != nil || string(old) != "fa4b3\nwhy\n" {
		t.Errorf("the old log is %q, %v", old, err)
	}
}

func TestThePackagesAreFoundWhereTheyWereNamed(t *testing.T) {
	folder := t.TempDir()
	if _, err := locate(folder); err == nil || !strings.Contains(err.Error(), folder) {
		t.Errorf("an empty folder: %v", err)
	}
	named := movedPackages(t)
	found, err := locate(named)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(found.libchdb, named) || !strings.HasPrefix(found.postgres, named) {
		t.Errorf("found %+v below %s", found, named)
	}
}

func TestTheDataIsClosedToOthers(t *testing.T) {
	dir := oddDir(t)
	stopEngines(t, startEngines(t, testConfig(dir)))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&fs.ModePerm&0o077 != 0 {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
}

func TestTheChildrenOfAKilledProcessGetTheTimeThatTheyNeed(t *testing.T) {
	const wait = 20 * time.Millisecond
	killed := exec.Command("true")
	if err := killed.Run(); err != nil {
		t.Fatal(err)
	}
	for name, holder := range map[string]int{"dead": killed.ProcessState.Pid(), "alive": os.Getpid()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			held, err := acquire(t.Context(), dir, wait)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(held.Name(), []byte(strconv.Itoa(holder)), 0o600); err != nil {
				t.Fatal(err)
			}
			got := make(chan error, 1)
			go func() {
				lock, err := acquire(t.Context(), dir, wait)
				got <- errors.Join(err, lock.Close())
			}()
			if name == "alive" {
				if err := <-got; !errors.Is(err, ErrInUse) {
					t.Errorf("got %v, want ErrInUse", err)
				}
				return
			}
			select {
			case err := <-got:
				t.Fatalf("it was not waited for: %v", err)
			case <-time.After(20 * wait):
			}
			if err := held.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
		})
	}
}
