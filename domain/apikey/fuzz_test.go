package apikey_test

import (
	"testing"

	"github.com/nidohq/nido/domain/apikey"
)

// Whoever sends anything at all in Authorization reaches this parser.
func FuzzParse(f *testing.F) {
	for _, environment := range []string{"live", "test"} {
		key, err := apikey.Compose(environment, make([]byte, 44))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key.Reveal())
	}
	for _, text := range []string{"", "ha_", "ha_live_", "ha_live__", "ha_test_\xff", "sk-other", "ha_live_000000000000000000000000000000000000000000000000000000"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := apikey.Parse(text)
		if err != nil {
			return
		}
		if key.Reveal() != text || len(key.PublicID) != apikey.PublicIDLength || len(key.Hint()) != 4 {
			t.Errorf("%q is read as %q with the public id %q", text, key.Reveal(), key.PublicID)
		}
		for i := range len(text) { // one letter changed is no key: the checksum sees it
			changed := []byte(text)
			if changed[i] ^= 1; changed[i] == '_' {
				continue
			}
			if _, err := apikey.Parse(string(changed)); err == nil {
				t.Errorf("%q is a key, and so is %q", text, changed)
			}
		}
	})
}
