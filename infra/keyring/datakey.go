package keyring

// This file stands where text is sealed and opened: one data key.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/nidohq/nido/domain"
)

// keyBytes is the length of the master key and of every data key: AES-256.
const keyBytes = 32

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// dataKey implements commands.DataKey. A sealed text is a random nonce of 96 bits, the ciphertext and its tag, with the
// key's id as additional data. Random nonces are good for 2^32 texts under one key, more than an account ever seals.
type dataKey struct {
	id   string
	aead cipher.AEAD
}

// newKey draws an id and a key.
func newKey() (id string, secret []byte) {
	random := make([]byte, 16)
	rand.Read(random) // never fails (crypto/rand)
	secret = make([]byte, keyBytes)
	rand.Read(secret)
	return "dk_" + lowerBase32.EncodeToString(random), secret
}

// ID implements commands.DataKey.
func (k dataKey) ID() string { return k.id }

// Seal implements commands.DataKey.
func (k dataKey) Seal(plain []byte) domain.Sealed {
	return domain.Sealed{Key: k.id, Data: k.aead.Seal(nil, nil, plain, []byte(k.id))}
}

// Open implements commands.DataKey.
func (k dataKey) Open(sealed domain.Sealed) ([]byte, error) {
	if sealed.Key != k.id {
		return nil, fmt.Errorf("open a text of %s with %s: %w", sealed.Key, k.id, ErrTampered)
	}
	plain, err := k.aead.Open([]byte{}, nil, sealed.Data, []byte(k.id))
	if err != nil {
		return nil, fmt.Errorf("open a text of %s: %w", k.id, ErrTampered) // the cause says no more than that
	}
	return plain, nil
}

// wrap seals a data key and its owner under the master key. The owner travels inside, so that whoever has only the
// wrapped key can open it and whoever has the row can tell that its owner was not exchanged.
func (k *Keyring) wrap(id, owner string, secret []byte) []byte {
	return k.wrapping.Seal(nil, nil, append(secret[:keyBytes:keyBytes], owner...), []byte(id))
}

func (k *Keyring) unwrapOwned(id string, wrapped []byte) (key dataKey, owner string, err error) {
	plain, err := k.wrapping.Open(nil, nil, wrapped, []byte(id))
	if err != nil || len(plain) < keyBytes {
		return dataKey{}, "", fmt.Errorf("unwrap %s: %w", id, ErrTampered) // the cause says no more than that
	}
	aead, err := newAEAD(plain[:keyBytes])
	if err != nil {
		return dataKey{}, "", fmt.Errorf("unwrap %s: %w", id, err)
	}
	return dataKey{id: id, aead: aead}, strings.Clone(string(plain[keyBytes:])), nil
}

// newAEAD puts a random nonce in front of each ciphertext by itself.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
