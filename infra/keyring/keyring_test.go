package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/postgres"
)

var _ commands.Keyring = (*keyring.Keyring)(nil)

// node is a process: a pool and a keyring of its own on a database that others may share.
type node struct {
	*keyring.Keyring
	pool *pgxpool.Pool
}

func newNode(t *testing.T, url string, master []byte) node {
	t.Helper()
	pool := newPool(t, url)
	keys, err := keyring.New(t.Context(), pool, master)
	if err != nil {
		t.Fatal(err)
	}
	return node{keys, pool}
}

func newPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

// create makes a key that must come about.
func (n node) create(t *testing.T, owner string) commands.DataKey {
	t.Helper()
	key, err := n.Create(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func one[T any](t *testing.T, pool *pgxpool.Pool, query string, args ...any) T {
	t.Helper()
	var value T
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestKeyring(t *testing.T) {
	url, master := enginestest.Postgres(t), enginestest.MasterKey(t)
	here, there := newNode(t, url, master), newNode(t, url, master)
	secret := []byte("la contraseña es mañana")

	t.Run("what one node seals another opens", func(t *testing.T) {
		key := here.create(t, "conversation-1")
		if !regexp.MustCompile(`^dk_[a-z2-7]{26}$`).MatchString(key.ID()) {
			t.Errorf("the id is %q", key.ID())
		}
		texts := []domain.Sealed{key.Seal(secret), {}, key.Seal(nil), here.create(t, "conversation-2").Seal([]byte("other"))}
		plain, erased, err := there.Open(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(plain[0], secret) || plain[1] != nil || plain[2] == nil || len(plain[2]) != 0 || string(plain[3]) != "other" {
			t.Errorf("got %q", plain)
		}
		for i, gone := range erased {
			if gone {
				t.Errorf("text %d reads as erased", i)
			}
		}
	})

	t.Run("the same text is never sealed alike, and nothing of it shows", func(t *testing.T) {
		key := here.create(t, "conversation-1")
		first, second := key.Seal(secret), key.Seal(secret)
		if bytes.Equal(first.Data, second.Data) || bytes.Contains(first.Data, secret[:8]) {
			t.Error("the ciphertext gives the text away")
		}
		if len(first.Data) != 12+len(secret)+16 {
			t.Errorf("nonce, text and tag are %d bytes", len(first.Data))
		}
	})

	t.Run("a text that was changed, cut or moved to another key is refused", func(t *testing.T) {
		key, other := here.create(t, "conversation-1"), here.create(t, "conversation-1")
		sealed := key.Seal(secret)
		for i := range sealed.Data {
			changed := bytes.Clone(sealed.Data)
			changed[i] ^= 1
			if _, err := key.Open(domain.Sealed{Key: sealed.Key, Data: changed}); !errors.Is(err, keyring.ErrTampered) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
		for _, wrong := range []domain.Sealed{
			{Key: sealed.Key, Data: sealed.Data[:len(sealed.Data)-1]}, {Key: sealed.Key}, {Key: sealed.Key, Data: []byte("short")},
			{Key: other.ID(), Data: sealed.Data},
		} {
			if _, _, err := here.Open(t.Context(), []domain.Sealed{wrong}); !errors.Is(err, keyring.ErrTampered) {
				t.Errorf("%+v: %v", wrong, err)
			}
		}
		if _, err := other.Open(sealed); !errors.Is(err, keyring.ErrTampered) {
			t.Errorf("another key opened it: %v", err)
		}
	})

	t.Run("texts of a destroyed owner read as erased on every node, others do not", func(t *testing.T) {
		gone, left := here.create(t, "conversation-3"), here.create(t, "conversation-4")
		texts := []domain.Sealed{gone.Seal(secret), left.Seal(secret), here.create(t, "conversation-3").Seal(secret)}
		for range 2 { // it may be called again
			if err := here.Destroy(t.Context(), "conversation-3"); err != nil {
				t.Fatal(err)
			}
		}
		plain, erased, err := there.Open(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(erased) != "[true false true]" || plain[0] != nil || !bytes.Equal(plain[1], secret) || plain[2] != nil {
			t.Errorf("got %q, erased %v", plain, erased)
		}
		keys, destroyed, err := there.Find(t.Context(), gone.ID(), left.ID())
		if err != nil || len(keys) != 1 || keys[left.ID()] == nil || len(destroyed) != 1 || !destroyed[gone.ID()] {
			t.Errorf("found %v, destroyed %v, %v", keys, destroyed, err)
		}
		if n := one[int](t, here.pool, `SELECT count(*) FROM data_keys WHERE owner = 'conversation-3' AND wrapped IS NULL AND destroyed_at IS NOT NULL`); n != 2 {
			t.Errorf("%d tombstones", n)
		}
	})

	t.Run("a key without even a tombstone is an error, not an erasure", func(t *testing.T) {
		sealed := here.create(t, "conversation-5").Seal(secret)
		if _, err := here.pool.Exec(t.Context(), `DELETE FROM data_keys WHERE id = $1`, sealed.Key); err != nil {
			t.Fatal(err)
		}
		if _, _, err := here.Open(t.Context(), []domain.Sealed{sealed}); !errors.Is(err, keyring.ErrMissingKey) {
			t.Errorf("open: %v", err)
		}
		if _, _, err := here.Find(t.Context(), sealed.Key); !errors.Is(err, keyring.ErrMissingKey) {
			t.Errorf("find: %v", err)
		}
	})

	t.Run("a query that read the wrapped key itself can unwrap it", func(t *testing.T) {
		key := here.create(t, "conversation-6")
		wrapped := one[[]byte](t, here.pool, `SELECT wrapped FROM data_keys WHERE id = $1`, key.ID())
		unwrapped, err := there.Unwrap(key.ID(), wrapped)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := unwrapped.Open(key.Seal(secret)); err != nil || !bytes.Equal(plain, secret) {
			t.Errorf("got %q, %v", plain, err)
		}
		if _, err := there.Unwrap(here.create(t, "conversation-6").ID(), wrapped); !errors.Is(err, keyring.ErrTampered) {
			t.Errorf("it opened under another id: %v", err)
		}
		if _, err := there.Unwrap(key.ID(), nil); !errors.Is(err, keyring.ErrTampered) {
			t.Errorf("nothing was unwrapped: %v", err)
		}
	})

	t.Run("a row whose owner was exchanged is refused, since erasure would miss it", func(t *testing.T) {
		key := here.create(t, "conversation-7")
		if _, err := here.pool.Exec(t.Context(), `UPDATE data_keys SET owner = 'conversation-8' WHERE id = $1`, key.ID()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := here.Find(t.Context(), key.ID()); !errors.Is(err, keyring.ErrTampered) {
			t.Errorf("got %v", err)
		}
	})
}
