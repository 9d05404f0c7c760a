package kafka

// This file holds the fast reader of a record's value to what encoding/json makes of the same bytes.

import (
	"bytes"
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

func TestAValueIsWrittenAsEncodingJSONWouldWriteIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		doc := document{
			Account: text.Draw(t, "account"), Actor: domain.Actor{Kind: "key", ID: text.Draw(t, "id")}, Base: domain.Version(rapid.Int64().Draw(t, "base")),
			Command: text.Draw(t, "command"), Time: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC(),
		}
		for range rapid.IntRange(1, 3).Draw(t, "events") {
			fields := map[string]string{text.Draw(t, "field"): text.Draw(t, "text")}
			data, err := json.Marshal(fields) // as the codec writes it
			if rapid.Bool().Draw(t, "otherwise") {
				data, err = json.MarshalIndent(fields, "", " ")
				data = bytes.ReplaceAll(data, []byte(`\u003c`), []byte(`<`))
			}
			if err != nil {
				t.Fatal(err)
			}
			doc.Events = append(doc.Events, domain.Stored{Type: text.Draw(t, "type"), Schema: rapid.IntRange(1, 99).Draw(t, "schema"), Data: data})
		}
		want, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := writeDocument(doc); err != nil || string(got) != string(want) {
			t.Fatalf("%s, %v, want %s", got, err, want)
		}
	})
	for _, data := range []string{``, `{`, `{"a":1}}`, `{"a":1},{"b":2}`, `nul`} {
		doc := document{Account: "a", Events: []domain.Stored{{Type: "agent.paused", Schema: 1, Data: []byte(data)}}}
		if got, err := writeDocument(doc); err == nil {
			t.Errorf("%q became %s", data, got)
		}
	}
}

func BenchmarkWriteDocument(b *testing.B) {
	var doc document
	if err := json.Unmarshal(ownValue(b), &doc); err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if _, err := writeDocument(doc); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		for b.Loop() {
			if _, err := json.Marshal(doc); err != nil {
				b.Fatal(err)
			}
		}
	})
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
