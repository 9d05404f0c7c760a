package projections

// This file tests what a projector remembers: that it is bounded, and holds behind one checkpoint only.

import (
	"fmt"
	"testing"

	"github.com/nidohq/nido/domain"
)

func TestWhatAProjectorRemembersIsBounded(t *testing.T) {
	known := &memory{young: map[domain.StreamID]stream{}}
	const state = 1000
	name := func(i int) domain.StreamID { return domain.StreamID(fmt.Sprintf("conversation-%d", i)) }
	for i := range 20_000 {
		known.add(name(i), stream{version: 1, before: 1, state: i, bytes: state})
	}
	if held := len(known.young) + len(known.old); held*state > 2*memoryBytes || held < 2000 {
		t.Errorf("%d streams are held", held)
	}
	about := func(i int, base domain.Version) []domain.Recorded {
		return []domain.Recorded{{Commit: domain.Commit{Stream: name(i), Base: base}}}
	}
	if standing, ok := known.standing(about(19_999, 1)); !ok || standing[name(19_999)].version != 1 {
		t.Errorf("the newest: %v, %v", standing, ok)
	}
	if _, ok := known.standing(about(0, 1)); ok {
		t.Error("a stream that was forgotten is not asked for")
	}
	if standing, ok := known.standing(about(0, 0)); !ok || standing[name(0)].version != 0 {
		t.Error("a stream that says of itself that it is new is asked for")
	}
}

func TestWhatAProjectorRemembersHoldsBehindOneCheckpoint(t *testing.T) {
	p := &Postgres{memories: map[int32]*memory{}}
	done := &work{streams: map[domain.StreamID]*stream{"account-a": {version: 3}}}
	p.remember(0, nil, done, 7)
	for name, at := range map[string]struct {
		partition int32
		after     int64
	}{"of another partition": {1, 7}, "behind another checkpoint": {0, 6}} {
		if known := p.recall(at.partition, at.after); known != nil {
			t.Errorf("%s: %+v", name, known)
		}
	}
	if p.recall(0, 7) != nil {
		t.Error("a batch behind another checkpoint has left what was remembered")
	}
	p.remember(0, nil, done, 7)
	if known := p.recall(0, 7); known == nil || known.young["account-a"].before != 3 {
		t.Errorf("%+v", known)
	}
	if p.recall(0, 7) != nil {
		t.Error("it is there although a batch is under way, which may fail")
	}
}
