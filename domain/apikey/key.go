package apikey

// This file stands before authentication: the written form of a key, which shows a typing error or a made-up key
// without any look-up.

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/nidohq/nido/domain"
)

// The parts of a key: ha_<environment>_<public id><secret><checksum>.
const (
	Prefix         = "ha_"
	PublicIDLength = 12
	SecretLength   = 32
	checksumLength = 6 // CRC-32 (IEEE) in base62 never needs more
	bodyLength     = PublicIDLength + SecretLength + checksumLength
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ErrMalformed is what Parse answers for everything that is not a well-formed key with the right checksum.
var ErrMalformed = domain.Refuse("invalid_api_key", "this is not a key of ours: its form or its checksum is wrong", "esta clave no es nuestra: su forma o su suma de verificación no son correctas")

// Key is a key in parts.
type Key struct {
	Environment string // "live" or "test"
	PublicID    string
	whole       string
}

// Compose writes the key of the given random bytes, of which it needs 44; the same bytes give the same key.
func Compose(environment string, random []byte) (Key, error) {
	body := encode(random, PublicIDLength+SecretLength)
	return write(environment, body[:PublicIDLength], body[PublicIDLength:])
}

// Renew writes a key of a public id that there is, with the secret of the given random bytes, of which it needs 32.
func Renew(environment, publicID string, random []byte) (Key, error) {
	if len(publicID) != PublicIDLength || strings.Trim(publicID, base62) != "" {
		return Key{}, domain.Refuse("key_not_found", "there is no such key", "no existe esa clave")
	}
	return write(environment, publicID, encode(random, SecretLength))
}

func write(environment, publicID, secret string) (Key, error) {
	if environment != "live" && environment != "test" {
		return Key{}, domain.RefuseField("environment", "invalid_request", `environment must be "live" or "test"`, `environment debe ser "live" o "test"`)
	}
	head := Prefix + environment + "_" + publicID + secret
	return Key{Environment: environment, PublicID: publicID, whole: head + checksum(head)}, nil
}

// Parse takes a key apart. It answers ErrMalformed for anything that cannot be a key of ours.
func Parse(text string) (Key, error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	environment, body, found := strings.Cut(rest, "_")
	if !ok || !found || (environment != "live" && environment != "test") || len(body) != bodyLength {
		return Key{}, ErrMalformed
	}
	head := text[:len(text)-checksumLength]
	if checksum(head) != text[len(head):] || strings.Trim(body, base62) != "" {
		return Key{}, ErrMalformed
	}
	return Key{Environment: environment, PublicID: body[:PublicIDLength], whole: text}, nil
}

// Reveal returns the whole key: for its owner's eyes, once.
func (k Key) Reveal() string { return k.whole }

// Hash is the SHA-256 of the whole key: all that is kept of it.
func (k Key) Hash() []byte {
	sum := sha256.Sum256([]byte(k.whole))
	return sum[:]
}

// Hint is the key's last four characters; the zero Key has none.
func (k Key) Hint() string { return k.whole[max(0, len(k.whole)-4):] }

// String shows what may be seen of a key, so that one that strays into a log line gives nothing away.
func (k Key) String() string {
	return fmt.Sprintf("%s%s_%s…%s", Prefix, k.Environment, k.PublicID, k.Hint())
}

// Format writes String for every verb: %#v or a mistaken %d would spell out the fields, the whole key among them.
func (k Key) Format(to fmt.State, _ rune) { fmt.Fprint(to, k.String()) }

func checksum(head string) string {
	var digits [checksumLength]byte
	sum := crc32.ChecksumIEEE([]byte(head))
	for i := checksumLength - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return string(digits[:])
}

// encode writes a big-endian number in base62: its lowest digits, so many as asked, with leading zeros.
func encode(number []byte, length int) string {
	digits := make([]byte, length)
	n, base, digit := new(big.Int).SetBytes(number), big.NewInt(62), new(big.Int)
	for i := length - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		digits[i] = base62[digit.Int64()]
	}
	return string(digits)
}
