package kafka

// This file holds the fast reader of a record's value to what encoding/json makes of the same bytes.

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
)

func ownValue(t testing.TB) []byte {
	t.Helper()
	value, err := json.Marshal(document{
		Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "abc"}, Base: 3, Command: "cmd_1", Time: time.Unix(1_700_000_000, 123_000).UTC(),
		Events: []domain.Stored{
			{Type: "conversation.started", Schema: 1, Data: json.RawMessage(`{"id":{"key":"dk_1","data":"` + strings.Repeat("QUJD", 60) + `"}}`)},
			{Type: "message.received", Schema: 2, Data: json.RawMessage(`{"text":{"key":"dk_1","data":"` + strings.Repeat("REVG", 180) + `"}}`)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestOwnValuesAreReadInOnePass(t *testing.T) {
	value := ownValue(t)
	var want document
	if err := json.Unmarshal(value, &want); err != nil {
		t.Fatal(err)
	}
	if got, ok := readOwn(value); !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v: %+v, and not %+v", ok, got, want)
	}
}

func TestTheFastReaderSaysWhatEncodingJSONSaysOrNothing(t *testing.T) {
	own := string(ownValue(t))
	pieces := []string{
		`"account"`, `"Account"`, `"actor"`, `"kind"`, `"base"`, `"events"`, `"data"`, `"schema"`, `"time"`, `null`, `{}`, `[]`, `1e3`, `-1`, `3.0`,
		`99999999999999999999`, `"\u0061"`, `"\ud800"`, "\xff", ` `, `,`, `:`, `}`, `]`, `"account":"acc_2",`, `"more":true,`, `"2023-11-14T22:13:20Z"`, `"x"`, `true`,
	}
	rapid.Check(t, func(t *rapid.T) {
		value := own
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			from := rapid.IntRange(0, len(value)).Draw(t, "from")
			to := min(len(value), from+rapid.IntRange(0, 12).Draw(t, "length"))
			value = value[:from] + rapid.SampledFrom(pieces).Draw(t, "piece") + value[to:]
		}
		sameVerdict(t, value)
	})
	for _, old := range []string{`"acc_1"`, `"key"`, `3`, `"cmd_1"`, `"2023-11-14T22:13:20.000123Z"`, `"account"`, `"actor"`, `"type"`, `1`, `{`} {
		for _, piece := range pieces {
			sameVerdict(t, strings.Replace(own, old, piece, 1))
		}
	}
}

func sameVerdict(t rapid.TB, value string) {
	got, ok := readOwn([]byte(value))
	if !ok {
		return
	}
	var want document
	if err := json.Unmarshal([]byte(value), &want); err != nil {
		t.Fatalf("encoding/json refuses %s: %v", value, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: %+v, and not %+v", value, got, want)
	}
}

func BenchmarkReadDocument(b *testing.B) {
	value := ownValue(b)
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readDocument(value); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var doc document
			if err := json.Unmarshal(value, &doc); err != nil {
				b.Fatal(err)
			}
		}
	})
}
