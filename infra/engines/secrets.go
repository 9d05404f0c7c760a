//go:build linux && amd64 && !noengines

// Below the story: the keys that a data directory cannot be used without.

package engines

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secrets are what a data directory keeps beside its data, readable by its owner only.
type secrets struct {
	masterKey          string
	postgresPassword   string
	clickHousePassword string
}

// loadSecrets reads the directory's secrets and makes those that are missing, unless data already depends on them:
// with a new master key beside an old log every message would be lost without a word.
func loadSecrets(dir string) (secrets, error) {
	masterKey, err := secret(dir, "master.key", filepath.Join(dir, brokerFolder), randomKey)
	if err != nil {
		return secrets{}, err
	}
	if key, err := base64.StdEncoding.DecodeString(masterKey); err != nil || len(key) != 32 {
		return secrets{}, fmt.Errorf("%s is not 32 bytes in base64", filepath.Join(dir, "master.key"))
	}
	postgresPassword, err := secret(dir, "postgres.password", filepath.Join(dir, postgresFolder, "data"), randomPassword)
	if err != nil {
		return secrets{}, err
	}
	// ClickHouse's configuration is written at every start, so nothing depends on the old password.
	clickHousePassword, err := secret(dir, "clickhouse.password", "", randomPassword)
	if err != nil {
		return secrets{}, err
	}
	return secrets{masterKey: masterKey, postgresPassword: postgresPassword, clickHousePassword: clickHousePassword}, nil
}

// secret reads one secret, or makes it where the data that depends on it does not exist yet.
func secret(dir, name, dependent string, random func() string) (string, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	if dependent != "" {
		if _, err := os.Stat(dependent); err == nil {
			return "", fmt.Errorf("%s is missing, and the data in %s cannot be used without it: put it back from a copy", path, dependent)
		}
	}
	made := random()
	if err := writeDurably(path, []byte(made+"\n")); err != nil {
		return "", err
	}
	return made, nil
}

func randomKey() string {
	key := make([]byte, 32)
	rand.Read(key) // never fails: it ends the process instead
	return base64.StdEncoding.EncodeToString(key)
}

// randomPassword consists of characters that need no escaping in a URL, in XML or in a shell.
func randomPassword() string {
	password := make([]byte, 24)
	rand.Read(password)
	return hex.EncodeToString(password)
}

// writeDurably puts a small file in place as a whole, readable by its owner only, and safe from a power cut.
func writeDurably(path string, content []byte) error {
	fresh := path + ".new"
	file, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
