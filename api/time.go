package api

// This file stands where an answer goes out: how times are written.

import (
	"bytes"
	"fmt"
	"time"
)

const timeLayout = "2006-01-02T15:04:05.000Z"

// Time is written as RFC 3339 in UTC with milliseconds, always of the same length.
type Time time.Time

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(make([]byte, 0, len(timeLayout)+2), `"`+timeLayout+`"`), nil
}

// UnmarshalJSON implements json.Unmarshaler; any RFC 3339 time is understood.
func (t *Time) UnmarshalJSON(data []byte) error {
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	parsed, err := time.Parse(`"`+time.RFC3339Nano+`"`, string(data))
	if err != nil {
		return fmt.Errorf("parse time: %w", err)
	}
	*t = Time(parsed)
	return nil
}

// someTime is nil for the zero time: "never", "not yet".
func someTime(t time.Time) *Timestamp {
	if t.IsZero() {
		return nil
	}
	stamp := Timestamp(t)
	return &stamp
}
