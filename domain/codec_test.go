package domain_test

// This file stands between decision and log: an event whose form has changed twice, and all that a codec refuses.

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/nidohq/nido/domain"
)

type fact interface{ fact() }

// moved was written as {"city"} first, then as {"to"}, and is written as {"from", "to"} today.
type moved struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type stayed struct {
	Days int    `json:"days"`
	Note string `json:"note,omitempty"`
}

type unlisted struct{}

func (moved) fact()    {}
func (stayed) fact()   {}
func (unlisted) fact() {}

// rename gives a field another name and keeps all others, those that this code does not know included.
func rename(from, to string) domain.Upcaster {
	return func(old json.RawMessage) (json.RawMessage, error) {
		fields := map[string]json.RawMessage{}
		if err := json.Unmarshal(old, &fields); err != nil {
			return nil, err
		}
		fields[to] = fields[from]
		delete(fields, from)
		return json.Marshal(fields)
	}
}

var errNoCity = errors.New("a move goes somewhere")

// withOrigin says that moves came from home before anybody wrote down from where.
func withOrigin(old json.RawMessage) (json.RawMessage, error) {
	var fields struct{ To string }
	if err := json.Unmarshal(old, &fields); err != nil {
		return nil, err
	}
	if fields.To == "" {
		return nil, errNoCity
	}
	return json.Marshal(map[string]string{"from": "home", "to": fields.To})
}

var facts = domain.NewCodec(
	domain.List[fact, moved]("walker.moved", rename("city", "to"), withOrigin),
	domain.List[fact, stayed]("walker.stayed"),
)

func TestEveryEarlierSchemaIsLiftedToTodaysOne(t *testing.T) {
	for _, test := range []struct {
		sentence string
		stored   domain.Stored
		want     fact
	}{
		{"the first schema goes through both upcasters", stored("walker.moved", 1, `{"city":"Lima"}`), moved{From: "home", To: "Lima"}},
		{"the second goes through the last", stored("walker.moved", 2, `{"to":"Lima"}`), moved{From: "home", To: "Lima"}},
		{"today's goes through none", stored("walker.moved", 3, `{"from":"Quito","to":"Lima"}`), moved{From: "Quito", To: "Lima"}},
		{"an optional field may be missing", stored("walker.stayed", 1, `{"days":2}`), stayed{Days: 2}},
		{"a field of a later binary is passed over", stored("walker.stayed", 1, `{"days":2,"note":"rain","hotel":"Sol"}`), stayed{Days: 2, Note: "rain"}},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			if got, err := facts.Decode(test.stored); err != nil || got != test.want {
				t.Fatalf("decoded %#v, %v", got, err)
			}
		})
	}
}

func TestWhatCannotBeReadIsMarked(t *testing.T) {
	for sentence, unreadable := range map[string]domain.Stored{
		"an unknown type":                    stored("walker.flew", 1, `{}`),
		"a Go name":                          stored("moved", 1, `{}`),
		"a schema of a later binary":         stored("walker.moved", 4, `{"from":"Quito","to":"Lima"}`),
		"a schema too new by one":            stored("walker.stayed", 2, `{"days":1}`),
		"schema zero":                        stored("walker.moved", 0, `{"to":"Lima"}`),
		"a negative schema":                  stored("walker.moved", -1, `{"to":"Lima"}`),
		"no JSON at all":                     stored("walker.stayed", 1, ``),
		"half of a JSON text":                stored("walker.stayed", 1, `{"days":`),
		"a field of another type":            stored("walker.stayed", 1, `{"days":"two"}`),
		"no JSON before the first upcaster":  stored("walker.moved", 1, `city`),
		"JSON that an upcaster cannot lift":  stored("walker.moved", 2, `{}`),
		"JSON that the last one cannot lift": stored("walker.moved", 1, `{}`),
	} {
		t.Run(sentence, func(t *testing.T) {
			if got, err := facts.Decode(unreadable); !errors.Is(err, domain.ErrUndecodable) || got != nil {
				t.Fatalf("decoded %#v, %v", got, err)
			}
		})
	}
	_, err := facts.Decode(stored("walker.moved", 2, `{}`))
	if !errors.Is(err, errNoCity) || !strings.Contains(err.Error(), "walker.moved") || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("the error does not say what could not be lifted, nor why: %v", err)
	}
}

func TestEventsAreStoredUnderTheirListedNames(t *testing.T) {
	got, err := facts.Encode([]fact{moved{From: "Quito", To: "Lima"}, stayed{Days: 3}})
	want := []domain.Stored{stored("walker.moved", 3, `{"from":"Quito","to":"Lima"}`), stored("walker.stayed", 1, `{"days":3}`)}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("encoded %v, %v", got, err)
	}
	for _, event := range []fact{unlisted{}, &moved{}, nil} {
		if got, err := facts.Encode([]fact{stayed{}, event}); err == nil {
			t.Errorf("%#v is not listed, and was encoded as %v", event, got)
		}
	}
	if types := facts.Types(); !maps.Equal(types, map[string]int{"walker.moved": 3, "walker.stayed": 1}) {
		t.Errorf("types %v", types)
	}
}

func TestATableListsNothingTwice(t *testing.T) {
	for sentence, build := range map[string]func(){
		"a name": func() {
			domain.NewCodec(domain.List[fact, moved]("walker.moved"), domain.List[fact, stayed]("walker.moved"))
		},
		"a type": func() {
			domain.NewCodec(domain.List[fact, moved]("walker.moved"), domain.List[fact, moved]("walker.travelled"))
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("a table was built that lists it twice")
				}
			}()
			build()
		})
	}
}

func stored(name string, schema int, data string) domain.Stored {
	return domain.Stored{Type: name, Schema: schema, Data: json.RawMessage(data)}
}
