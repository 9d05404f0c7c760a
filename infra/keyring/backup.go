package keyring

// This file stands beside the stores: what a backup needs of the master key, and nothing that opens a data key.

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

const (
	purposeBackup   = "nido backup"
	purposeManifest = "nido backup manifest"
)

// BackupKeys are derived from the master key: whoever has a backup but not the master key can neither read it nor change
// it unseen.
type BackupKeys struct {
	Check    []byte // tells which master key it was, and nothing about it; the same value is in master_check
	Files    []byte // wraps the key of each file
	Manifest []byte // authenticates the list of files
}

// ForBackup derives a backup's keys.
func ForBackup(masterKey []byte) (BackupKeys, error) {
	if len(masterKey) != keyBytes {
		return BackupKeys{}, fmt.Errorf("%w: it has %d bytes instead of %d", ErrMasterKey, len(masterKey), keyBytes)
	}
	var keys BackupKeys
	for purpose, key := range map[string]*[]byte{purposeCheck: &keys.Check, purposeBackup: &keys.Files, purposeManifest: &keys.Manifest} {
		var err error
		if *key, err = hkdf.Key(sha256.New, masterKey, nil, purpose, keyBytes); err != nil {
			return BackupKeys{}, fmt.Errorf("derive the key for %q: %w", purpose, err)
		}
	}
	return keys, nil
}
