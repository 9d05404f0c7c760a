package commands

// This file stands where a request becomes a command: who asks, and the inputs that a retry must find again.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"time"

	"github.com/nidohq/nido/domain"
)

// Meta is everything about a command but the command: its id, who sent it, when, and its trace.
type Meta struct {
	Account string
	Actor   domain.Actor
	Trace   string // W3C traceparent
	Inputs  Inputs
}

// Inputs are what a command gathers from chance and the clock. All ids and secrets of a command are derived from one
// seed, so that a retry under the same Idempotency-Key, which stores the seed, makes the same ones again.
type Inputs struct {
	Seed [32]byte
	Now  time.Time
	// Fresh says that the seed has just been drawn: no earlier run of the request can have left anything in the log.
	Fresh bool
}

// NewInputs draws a seed.
func NewInputs(now time.Time) Inputs {
	inputs := Inputs{Now: now.UTC().Truncate(time.Microsecond), Fresh: true} // what Postgres can keep
	rand.Read(inputs.Seed[:])                                                // never fails (crypto/rand)
	return inputs
}

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Bytes derives 32 bytes for a purpose.
func (in Inputs) Bytes(purpose string) []byte {
	mac := hmac.New(sha256.New, in.Seed[:])
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

// ID derives an id such as "agt_k3j…": the prefix and 128 bits in lower-case base32. A purpose tells several ids with
// one prefix apart.
func (in Inputs) ID(prefix string, purpose ...string) string {
	return prefix + "_" + lowerBase32.EncodeToString(in.Bytes(prefix + strings.Join(purpose, ""))[:16])
}

// Command derives the command id of one step of the request: "create", "bind", …
func (in Inputs) Command(step string) string {
	return "cmd_" + lowerBase32.EncodeToString(in.Bytes("command " + step)[:16])
}
