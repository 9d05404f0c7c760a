package keyring_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
)

func TestNew(t *testing.T) {
	url, master := enginestest.Postgres(t), enginestest.MasterKey(t)
	pool := newPool(t, url)
	open := func(master []byte) error {
		_, err := keyring.New(t.Context(), pool, master)
		return err
	}

	t.Run("nodes that start first at once agree on one master key", func(t *testing.T) {
		starts, ctx := errgroup.WithContext(t.Context())
		for range 8 {
			starts.Go(func() error {
				_, err := keyring.New(ctx, pool, master)
				return err
			})
		}
		if err := starts.Wait(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a master key of another length is refused", func(t *testing.T) {
		for _, length := range []int{0, 16, 31, 33} {
			if err := open(make([]byte, length)); !errors.Is(err, keyring.ErrMasterKey) || !strings.Contains(err.Error(), "32") {
				t.Errorf("%d bytes: %v", length, err)
			}
		}
	})
	t.Run("another master key is refused, even before there is a data key", func(t *testing.T) {
		if err := open(enginestest.MasterKey(t)); !errors.Is(err, keyring.ErrMasterKey) {
			t.Errorf("got %v", err)
		}
		if err := open(master); err != nil {
			t.Errorf("the right one: %v", err)
		}
	})
	t.Run("another master key is refused where the check was lost and keys are left", func(t *testing.T) {
		newNode(t, url, master).create(t, "conversation-1")
		if _, err := pool.Exec(t.Context(), `DELETE FROM master_check`); err != nil {
			t.Fatal(err)
		}
		if err := open(enginestest.MasterKey(t)); !errors.Is(err, keyring.ErrMasterKey) {
			t.Errorf("got %v", err)
		}
		if err := open(master); err != nil {
			t.Errorf("the right one: %v", err)
		}
	})
}

// TestFormat computes what is stored by hand: other versions of this program must be able to read it for ever.
func TestFormat(t *testing.T) {
	master := enginestest.MasterKey(t)
	here := newNode(t, enginestest.Postgres(t), master)
	derive := func(info string) []byte {
		key, err := hkdf.Key(sha256.New, master, nil, info, 32)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	open := func(key, sealed []byte, additional string) []byte {
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := gcm.Open(nil, sealed[:12], sealed[12:], []byte(additional))
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}

	t.Run("a wrapped key is AES-256-GCM of key and owner, a text AES-256-GCM of itself, the nonce in front", func(t *testing.T) {
		key := here.create(t, "conversation-1")
		wrapped := one[[]byte](t, here.pool, `SELECT wrapped FROM data_keys WHERE id = $1`, key.ID())
		inside := open(derive("nido wrap"), wrapped, key.ID())
		if string(inside[32:]) != "conversation-1" {
			t.Errorf("the owner inside is %q", inside[32:])
		}
		if plain := open(inside[:32], key.Seal([]byte("hola")).Data, key.ID()); string(plain) != "hola" {
			t.Errorf("got %q", plain)
		}
	})
	t.Run("an index is 16 bytes of an HMAC in lower-case base32", func(t *testing.T) {
		mac := hmac.New(sha256.New, derive("nido index"))
		mac.Write([]byte("user-42"))
		want := strings.ToLower(strings.TrimRight(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:16]), "="))
		if got := here.Index("user-42"); got != want || len(got) != 26 || got == here.Index("user-43") {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
