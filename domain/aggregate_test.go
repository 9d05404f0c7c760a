package domain_test

// This file stands at the fold: one commit's events on the state before, in memory or stored.

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/nidohq/nido/domain"
)

type journey struct {
	Places []string `json:"places,omitempty"`
	Days   int      `json:"days,omitempty"`
}

var walkers = domain.Aggregate[string, fact, journey]{
	Kind: "walker", StateSchema: 2, Codec: facts,
	Decider: domain.Decider[string, fact, journey]{
		Decide: func(to string, _ journey) ([]fact, error) { return []fact{moved{To: to}}, nil },
		Evolve: func(s journey, e fact) journey {
			switch e := e.(type) {
			case moved:
				s.Places = append(append([]string{}, s.Places...), e.To)
			case stayed:
				s.Days += e.Days
			}
			return s
		},
	},
}

func TestFoldingACommit(t *testing.T) {
	commit := []domain.Stored{stored("walker.moved", 1, `{"city":"Lima"}`), stored("walker.stayed", 1, `{"days":2}`)}
	before := journey{Places: []string{"Quito"}, Days: 1}
	encoded, err := walkers.EncodeState(before)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		sentence string
		before   any
		json     []byte
		want     journey
	}{
		{"onto the empty stream", nil, nil, journey{Places: []string{"Lima"}, Days: 2}},
		{"onto a state in memory", before, nil, journey{Places: []string{"Quito", "Lima"}, Days: 3}},
		{"onto a stored state", nil, encoded, journey{Places: []string{"Quito", "Lima"}, Days: 3}},
		{"onto the one in memory where both are there", before, []byte(`{"days":70}`), journey{Places: []string{"Quito", "Lima"}, Days: 3}},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			folded, err := walkers.Fold(test.before, test.json, commit)
			if err != nil || !reflect.DeepEqual(folded.State, test.want) {
				t.Fatalf("folded to %+v, %v", folded.State, err)
			}
			if !reflect.DeepEqual(folded.Events, []any{moved{From: "home", To: "Lima"}, stayed{Days: 2}}) {
				t.Fatalf("events %#v", folded.Events)
			}
		})
	}
	if len(before.Places) != 1 {
		t.Error("the fold reaches back into the state before")
	}
}

func TestAFoldStopsAtWhatItCannotRead(t *testing.T) {
	_, err := walkers.Fold(nil, nil, []domain.Stored{stored("walker.stayed", 1, `{"days":2}`), stored("walker.flew", 1, `{}`)})
	if !errors.Is(err, domain.ErrUndecodable) {
		t.Errorf("an unknown event: %v", err)
	}
	if _, err := walkers.Fold(nil, []byte(`{"days":`), nil); err == nil {
		t.Error("half of a state was folded onto")
	}
}

func TestStreamsAndVersions(t *testing.T) {
	stream := walkers.Stream("agt_1.mac-with-hyphen")
	if stream != "walker-agt_1.mac-with-hyphen" || stream.Kind() != "walker" || stream.Name() != "agt_1.mac-with-hyphen" {
		t.Errorf("stream %q of kind %q and name %q", stream, stream.Kind(), stream.Name())
	}
	if kind, schema := walkers.FoldKind(); kind != "walker" || schema != 2 {
		t.Errorf("folds %q, schema %d", kind, schema)
	}
	for _, test := range []struct {
		current, base domain.Version
		want          bool
	}{{0, 0, true}, {7, 7, true}, {1, 0, false}, {0, 1, false}, {8, 7, false}, {7, 8, false}} {
		if got := domain.Accepts(test.current, test.base); got != test.want {
			t.Errorf("a stream at %d accepts a commit on %d: %v", test.current, test.base, got)
		}
	}
	if (domain.Commit{Base: 4}).Version() != 5 {
		t.Error("a commit raises the version by one")
	}
}

func TestACommitSurvivesItsJSON(t *testing.T) {
	commit := domain.Commit{
		Stream: "walker-1", Base: 3, Command: "cmd_1", Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "k"},
		Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Events: []domain.Stored{stored("walker.stayed", 1, `{"days":2}`)},
	}
	data, err := json.Marshal(commit)
	if err != nil {
		t.Fatal(err)
	}
	var read domain.Commit
	if err := json.Unmarshal(data, &read); err != nil || !reflect.DeepEqual(read, commit) {
		t.Fatalf("%s was read as %+v, %v", data, read, err)
	}
}

func TestRefusals(t *testing.T) {
	for want, refusal := range map[domain.Refusal]*domain.Refusal{
		{Code: "not_found", Message: "there is no agent 7", Spanish: "no existe el agente 7"}:                             domain.Refuse("not_found", "there is no agent %d", "no existe el agente %d", 7),
		{Code: "invalid_request", Message: "name must not be empty", Spanish: "name no puede estar vacío", Field: "name"}: domain.RefuseField("name", "invalid_request", "name must not be empty", "name no puede estar vacío"),
	} {
		if *refusal != want || refusal.Error() != want.Code+": "+want.Message {
			t.Errorf("refused %+v: %v", *refusal, refusal)
		}
	}
}

func TestNothingSealedIsNotASealedEmptyText(t *testing.T) {
	for sealed, want := range map[*domain.Sealed]bool{
		{}: true, {Key: "dk_1"}: false, {Data: []byte("x")}: false, {Key: "dk_1", Data: []byte("nonce and tag")}: false,
	} {
		if sealed.IsZero() != want {
			t.Errorf("%+v is nothing: %v", *sealed, !want)
		}
	}
}
