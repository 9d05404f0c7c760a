package api

// This file stands at the door: pages of which origins may call from a browser. Keys come in a header and never in a cookie, so
// that a page has no more rights than whoever wrote it; what it must not do is carry a key that is worth stealing.

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/cors"
)

// preflightMaxAge is how long a browser remembers what it may do.
const preflightMaxAge = 10 * time.Minute

// crossOrigin lets pages of some origins in, or nobody where there are none.
func crossOrigin(origins []string) *cors.Cors {
	if len(origins) == 0 {
		return nil
	}
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{"GET", "HEAD", "POST", "PATCH", "DELETE"},
		AllowedHeaders: []string{"*"}, // official SDKs send a dozen of their own
		ExposedHeaders: []string{
			"X-Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit",
			"X-RateLimit-Remaining", "X-RateLimit-Reset", "Idempotent-Replayed", "Link", "X-Next-Cursor", "X-Nido-Watermark", "Location",
			"Deprecation", "Sunset", "WWW-Authenticate", "Allow",
		},
		MaxAge: int(preflightMaxAge.Seconds()),
	})
}

// checkOrigins finds what cannot be an origin; a star stands for any text, once.
func checkOrigins(origins []string) error {
	var faults []error
	for _, origin := range origins {
		parsed, err := url.Parse(strings.Replace(origin, "*", "any", 1))
		scheme := err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https")
		if origin != "*" && (!scheme || parsed.Host == "" || parsed.Scheme+"://"+parsed.Host != strings.Replace(origin, "*", "any", 1) || strings.Count(origin, "*") > 1) {
			faults = append(faults, fmt.Errorf("%q is not an origin such as https://app.example.com or https://*.example.com", origin))
		}
	}
	if slices.Contains(origins, "*") && len(origins) > 1 {
		faults = append(faults, errors.New(`"*" stands alone`))
	}
	return errors.Join(faults...)
}
