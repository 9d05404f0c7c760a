package apikey_test

// This file stands before authentication: the written form of keys, and that it stays out of sight.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/apikey"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func compose(t interface{ Fatal(...any) }, environment string, random []byte) apikey.Key {
	key, err := apikey.Compose(environment, random)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAKeyHasTheDocumentedForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		environment := rapid.SampledFrom([]string{"live", "test"}).Draw(t, "environment")
		random := rapid.SliceOfN(rapid.Byte(), 44, 64).Draw(t, "random bytes")
		key := compose(t, environment, random)
		text := key.Reveal()
		if !regexp.MustCompile(`^ha_` + environment + `_[0-9A-Za-z]{50}$`).MatchString(text) {
			t.Fatalf("the key %q has another form", text)
		}
		if sum := sha256.Sum256([]byte(text)); !bytes.Equal(key.Hash(), sum[:]) || key.Hint() != text[len(text)-4:] || key.PublicID != text[8:20] {
			t.Fatalf("hash %x, hint %q, public id %q of %q", key.Hash(), key.Hint(), key.PublicID, text)
		}
		var sum uint64
		for _, digit := range text[len(text)-6:] {
			sum = sum*62 + uint64(strings.IndexRune(base62, digit))
		}
		if want := uint64(crc32.ChecksumIEEE([]byte(text[:len(text)-6]))); sum != want {
			t.Fatalf("checksum %d of %q, not %d", sum, text, want)
		}
		if parsed, err := apikey.Parse(text); err != nil || parsed != key {
			t.Fatalf("parsed as %v, %v", parsed, err)
		}
		if compose(t, environment, random) != key {
			t.Fatal("the same bytes made another key")
		}
	})
}

func TestAKeyIsFixedByItsBytes(t *testing.T) {
	const want = "ha_test_000000000000000000000000000000000000000000480qyoTk" // 256 is 4·62 + 8
	if text := compose(t, "test", append(make([]byte, 42), 1, 0)).Reveal(); text != want {
		t.Fatalf("composed %s", text)
	}
	first, second := make([]byte, 44), make([]byte, 44)
	first[20], second[20] = 1, 2
	if compose(t, "live", first) == compose(t, "live", second) {
		t.Fatal("two secrets made one key")
	}
}

func TestAKeyIsForLiveOrForTest(t *testing.T) {
	for _, environment := range []string{"", "Live", "prod", "live_"} {
		_, err := apikey.Compose(environment, make([]byte, 44))
		if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != "invalid_request" || refusal.Field != "environment" {
			t.Errorf("environment %q: %v", environment, err)
		}
	}
}

func TestEveryTypoIsRefused(t *testing.T) {
	for _, environment := range []string{"live", "test"} {
		text := compose(t, environment, []byte("forty-four bytes and a few more of no meaning at all")).Reveal()
		for position := range len(text) {
			for _, typed := range base62 + "_-. ñ\x00\n" {
				typo := text[:position] + string(typed) + text[position+1:]
				if typo != text {
					refused(t, typo)
				}
			}
			refused(t, text[:position]+text[position+1:])                         // left out
			refused(t, text[:position]+text[position:position+1]+text[position:]) // doubled
			refused(t, text[:position])                                           // cut off
		}
		for position := range len(text) - 1 { // two neighbours in each other's place
			swapped := text[:position] + text[position+1:position+2] + text[position:position+1] + text[position+2:]
			if swapped != text {
				refused(t, swapped)
			}
		}
		refused(t, text+"0")
		refused(t, " "+text)
		refused(t, "Bearer "+text)
		refused(t, strings.Replace(text, environment, map[string]string{"live": "test", "test": "live"}[environment], 1))
	}
	refused(t, "ha_")
	refused(t, "ha_live_")
}

func refused(t *testing.T, text string) {
	t.Helper()
	key, err := apikey.Parse(text)
	if err == nil || key != (apikey.Key{}) {
		t.Fatalf("%q was taken for a key", text)
	}
	if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != "invalid_api_key" {
		t.Fatalf("%q: %v", text, err)
	}
	if len(text) > 20 && strings.Contains(err.Error(), text) {
		t.Fatalf("the refusal repeats %q", text)
	}
}

func TestWhateverIsTypedIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`(ha_)?(live|test)?_[0-9A-Za-z]{48,52}`)).Draw(t, "text")
		if _, err := apikey.Parse(text); err == nil {
			t.Fatalf("%q was taken for a key", text)
		}
	})
}

func TestOnlyRevealShowsTheSecret(t *testing.T) {
	key := compose(t, "live", []byte("forty-four bytes and a few more of no meaning at all"))
	secret := key.Reveal()[20:52]
	var logged bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		log := slog.New(handler)
		log.Info("a key strayed in", "key", key, "pointer", &key, "list", []apikey.Key{key}, "struct", struct{ Key apikey.Key }{key})
	}
	shown := map[string]string{"slog": logged.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%o", "%10.3v", "%t"} {
		for _, holder := range []any{key, &key, []apikey.Key{key}, map[string]apikey.Key{"k": key}, struct{ Key apikey.Key }{key}} {
			shown[verb+fmt.Sprintf("%T", holder)] = fmt.Sprintf(verb, holder)
		}
	}
	shown["Sprint"], shown["an error"] = fmt.Sprint(key), fmt.Errorf("key %v", key).Error()
	for _, holder := range []any{key, &key, struct{ Key apikey.Key }{key}} {
		data, err := json.Marshal(holder)
		if err != nil {
			t.Fatal(err)
		}
		shown[fmt.Sprintf("JSON of %T", holder)] = string(data)
	}
	inHex := fmt.Sprintf("%x", secret)
	for way, text := range shown {
		if strings.Contains(text, secret) || strings.Contains(strings.ToLower(text), inHex) || strings.Contains(text, secret[:16]) {
			t.Errorf("%s shows the secret: %s", way, text)
		}
	}
	if got, want := key.String(), "ha_live_"+key.PublicID+"…"+key.Hint(); got != want || fmt.Sprint(key) != want {
		t.Errorf("shown as %q and %v, not as %q", got, key, want)
	}
	if got := fmt.Sprint(apikey.Key{}); strings.Contains(got, "PANIC") {
		t.Errorf("no key is shown as %q", got)
	}
}

func TestARightChecksumDoesNotMakeAKeyOfOtherCharacters(t *testing.T) {
	for _, body := range []string{strings.Repeat("a", 43) + "-", strings.Repeat("a", 20) + "_" + strings.Repeat("a", 23), "ñ" + strings.Repeat("a", 42)} {
		head := "ha_live_" + body
		digits, sum := "", crc32.ChecksumIEEE([]byte(head))
		for range 6 {
			digits, sum = string(base62[sum%62])+digits, sum/62
		}
		refused(t, head+digits)
	}
}
