package projections_test

// This file tests what rotations leave of a key, and when it was last used.

import (
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

func TestARotatedKeyHasItsEarlierSecretsUntilTheirGracesEnd(t *testing.T) {
	db := newDatabase(t)
	keys, chat := projections.NewKeys(db.pool), projections.NewChat(db.pool)
	var story log
	db.apply(t,
		story.add(commit(account.Aggregate, "acc_1", 0, "c0", noon, account.Opened{Name: "A", Plan: account.Starter})),
		story.add(commit(apikey.Aggregate, "k1", 0, "c1", noon, apikey.Issued{Account: "acc_1", Name: "first", Hash: []byte{0}, Hint: "0000"})))
	version := domain.Version(0)
	rotate := func(hash byte, grace time.Duration) time.Time {
		version++
		at, until := noon.Add(time.Duration(version)*time.Minute), time.Time{} // without a grace it is over by any clock
		if grace > 0 {
			until = at.Add(grace)
		}
		db.apply(t, story.add(commit(apikey.Aggregate, "k1", version, "r"+string('a'+hash), at, apikey.Rotated{
			Hash: []byte{hash}, Hint: "1111", GraceUntil: until, RotatedBy: "root",
		})))
		return until
	}
	check := func(what string, newest byte, earlier []byte, graces ...time.Time) {
		t.Helper()
		want := projections.Caller{Hash: []byte{newest}, Earlier: [][]byte{}, Graces: graces}
		for _, hash := range earlier {
			want.Earlier = append(want.Earlier, []byte{hash})
		}
		got, err := keys.Authenticate(t.Context(), "k1")
		wantEqual(t, what, projections.Caller{Hash: got.Hash, Earlier: got.Earlier, Graces: got.Graces}, want, err)
		admitted, err := chat.Admit(t.Context(), projections.Admission{PublicID: "k1"})
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, what+", before a turn", projections.Caller{Hash: admitted.Caller.Hash, Earlier: admitted.Caller.Earlier, Graces: admitted.Caller.Graces}, want, nil)
	}
	long := rotate(1, 24*time.Hour)
	check("rotated", 1, []byte{0}, long)
	longer := rotate(2, 48*time.Hour)
	check("rotated again", 2, []byte{0, 1}, long, longer)
	short := rotate(3, time.Hour)
	check("rotated with a shorter grace", 3, []byte{0, 1, 2}, short, short, short)
	over := rotate(4, 0)
	check("rotated without a grace", 4, []byte{0, 1, 2, 3}, over, over, over, over)
	for hash := byte(5); hash < 5+apikey.MaxEarlierSecrets; hash++ {
		rotate(hash, 0)
	}
	last := noon.Add(time.Duration(version) * time.Minute)
	got, err := keys.Get(t.Context(), "acc_1", "k1")
	if err != nil || len(got.Graces) != apikey.MaxEarlierSecrets || got.Hint != "1111" || got.RotatedAt == nil || !got.RotatedAt.Equal(last) {
		t.Errorf("after many rotations: %+v, %v", got, err)
	}
}

func TestAKeySaysWhenItWasLastUsed(t *testing.T) {
	db := newDatabase(t)
	keys := projections.NewKeys(db.pool)
	var story log
	for _, id := range []string{"k1", "k2"} {
		db.apply(t, story.add(commit(apikey.Aggregate, id, 0, "c"+id, noon, apikey.Issued{Account: "acc_1", Name: id})))
	}
	execute(t, db.pool, `INSERT INTO key_uses (public_id, used_at) VALUES ('k1', $1), ('another', $1)`, noon)
	listed, _, err := keys.List(t.Context(), "acc_1", projections.Page{Limit: 10})
	if err != nil || len(listed) != 2 || listed[0].LastUsedAt != nil || !listed[1].LastUsedAt.Equal(noon) {
		t.Errorf("%+v, %v", listed, err)
	}
	one, err := keys.Get(t.Context(), "acc_1", "k1")
	if err != nil || one.LastUsedAt == nil || !one.LastUsedAt.Equal(noon) {
		t.Errorf("%+v, %v", one, err)
	}
}
