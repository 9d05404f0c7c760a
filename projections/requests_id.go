package projections

// This file stands on both ends of a request: the id that it gets when it comes in, and what a look-up in the log learns
// from that id.

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

const (
	requestsIDPrefix = "req_"
	// requestsIDTime is how many characters hold the time: 48 bits of milliseconds, and two that mean nothing.
	requestsIDTime = 10
	requestsIDRest = 16
)

// requestsIDAlphabet keeps the order of the bytes that it encodes.
const requestsIDAlphabet = "0123456789abcdefghijklmnopqrstuv"

var requestsIDEncoding = base32.NewEncoding(requestsIDAlphabet).WithPadding(base32.NoPadding)

// NewRequestID begins with the time in milliseconds at which the request came in. So ids sort by it, and the log finds a
// request by its id alone (requestsTime): the entry's At must be the same instant.
func NewRequestID(at time.Time) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16)
	rand.Read(id[6:]) // never fails (crypto/rand)
	return requestsIDPrefix + requestsIDEncoding.EncodeToString(id[:])
}

// requestsTime is the instant that an id of ours begins with. What is not one has none.
func requestsTime(id string) (at time.Time, ok bool) {
	text, ok := strings.CutPrefix(id, requestsIDPrefix)
	if !ok || len(text) != requestsIDTime+requestsIDRest {
		return time.Time{}, false
	}
	bits := int64(0)
	for _, c := range []byte(text[:requestsIDTime]) {
		value := strings.IndexByte(requestsIDAlphabet, c)
		if value < 0 {
			return time.Time{}, false
		}
		bits = bits<<5 | int64(value)
	}
	return clickhouseTime(time.UnixMilli(bits >> 2)), true
}
