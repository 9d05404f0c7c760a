package projections

// This file stands where a request leaves for the log: secrets stay behind.

import (
	"bytes"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Header is one line of a request's or an answer's header.
type Header struct {
	Name  string
	Value string
}

// Redacted stands in the log where a secret stood.
const Redacted = "[redacted]"

// requestsSecretHeaders hold secrets under names that do not say so.
var requestsSecretHeaders = map[string]bool{
	"Authorization": true, "Proxy-Authorization": true, "Cookie": true, "Set-Cookie": true, "X-Api-Key": true, "Api-Key": true,
}

// requestsSecretWords make a header's name say so. Standard Webhooks' signatures are among them.
var requestsSecretWords = []string{"token", "secret", "password", "signature"}

// RedactHeaders lists a header by name without its secrets. Of our own keys the hint remains that the key list shows too,
// so that somebody can see which key was used.
func RedactHeaders(header http.Header) []Header {
	var list []Header
	for name, values := range header {
		secret := requestsSecretHeader(name)
		for _, value := range values {
			if secret {
				value = requestsHint(value)
			} else {
				value = RedactText(value)
			}
			list = append(list, Header{Name: name, Value: value})
		}
	}
	slices.SortStableFunc(list, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func requestsSecretHeader(name string) bool {
	if requestsSecretHeaders[http.CanonicalHeaderKey(name)] {
		return true
	}
	lower := strings.ToLower(name)
	return slices.ContainsFunc(requestsSecretWords, func(word string) bool { return strings.Contains(lower, word) })
}

// requestsHint is what remains of a secret header's value: the hint of the one key that it is, or nothing.
func requestsHint(value string) string {
	scheme, key, spaced := strings.Cut(value, " ")
	if !spaced {
		scheme, key = "", value
	}
	if spaced && !strings.EqualFold(scheme, "Bearer") || key == "" || requestsKey.FindString(key) != key {
		return Redacted
	}
	if spaced {
		return "Bearer " + requestsKeyHint(key)
	}
	return requestsKeyHint(key)
}

var (
	// A key is 50 characters behind the environment. A shorter run may be one that a truncated body ends with; twelve
	// characters are the public id, which may be seen.
	requestsKey           = regexp.MustCompile(`ha_(?:live|test)_[0-9A-Za-z]{13,}`)
	requestsWebhookSecret = regexp.MustCompile(`whsec_[0-9A-Za-z+/_-]{12,}=*`)
)

// RedactText is RedactBody for a text, which nearly always is returned as it is.
func RedactText(text string) string {
	if !strings.Contains(text, "ha_") && !strings.Contains(text, "whsec_") {
		return text
	}
	return string(RedactBody([]byte(text)))
}

// RedactBody replaces API keys and webhook secrets by their hints. A body without any, which is nearly all of them, is
// returned as it is.
func RedactBody(body []byte) []byte {
	if bytes.Contains(body, []byte("ha_live_")) || bytes.Contains(body, []byte("ha_test_")) {
		body = requestsKey.ReplaceAllFunc(body, func(key []byte) []byte { return []byte(requestsKeyHint(string(key))) })
	}
	if bytes.Contains(body, []byte("whsec_")) {
		body = requestsWebhookSecret.ReplaceAllFunc(body, func(secret []byte) []byte {
			secret = bytes.TrimRight(secret, "=")
			return append([]byte("whsec_…"), secret[len(secret)-4:]...)
		})
	}
	return body
}

// requestsKeyHint is "ha_live_abc…wxyz": the beginning is part of the public id, the end of the checksum, which only a
// whole key has.
func requestsKeyHint(key string) string {
	const environment, rest = len("ha_live_"), 50
	hint := key[:environment+3] + "…"
	if len(key) == environment+rest {
		hint += key[len(key)-4:]
	}
	return hint
}
