package commands_test

// This file stands in for the keyring: real keys, kept in memory.

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// keyring makes real keys and keeps them in memory.
type keyring struct {
	mu   sync.Mutex
	keys map[string]*dataKey
	// createErr is why no key can be made, nor found
	createErr error
}

func newKeyring() *keyring { return &keyring{keys: map[string]*dataKey{}} }

// Create implements commands.Keyring.
func (k *keyring) Create(_ context.Context, owner string) (commands.DataKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.createErr != nil {
		return nil, k.createErr
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	key := &dataKey{id: fmt.Sprintf("dk_%d", len(k.keys)), owner: owner, gcm: gcm}
	k.keys[key.id] = key
	return key, nil
}

// Find implements commands.Keyring.
func (k *keyring) Find(_ context.Context, ids ...string) (map[string]commands.DataKey, map[string]bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := map[string]commands.DataKey{}
	for id, key := range k.keys {
		if slices.Contains(ids, id) {
			found[id] = key
		}
	}
	return found, nil, k.createErr
}

func (k *keyring) key(id string) commands.DataKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[id]
}

func (k *keyring) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

// open opens a text with the key that it names; no text is "".
func (k *keyring) open(t *testing.T, sealed domain.Sealed) string {
	t.Helper()
	if sealed.IsZero() {
		return ""
	}
	k.mu.Lock()
	key := k.keys[sealed.Key]
	k.mu.Unlock()
	if key == nil {
		t.Fatalf("no key opens %+v", sealed)
	}
	plain, err := key.Open(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

type dataKey struct {
	id, owner string
	gcm       cipher.AEAD
}

func (k *dataKey) ID() string { return k.id }

func (k *dataKey) Seal(plain []byte) domain.Sealed {
	return domain.Sealed{Key: k.id, Data: k.gcm.Seal(nil, nil, plain, []byte(k.id))}
}

func (k *dataKey) Open(sealed domain.Sealed) ([]byte, error) {
	return k.gcm.Open(nil, nil, sealed.Data, []byte(sealed.Key))
}
