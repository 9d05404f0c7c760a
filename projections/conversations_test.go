package projections_test

// This file tests the read models of conversations, messages and open turns.

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

func TestAConversationStandsAsItsTurnsLeftIt(t *testing.T) {
	for name, split := range map[string]bool{"in one batch": false, "in a batch each": true} {
		t.Run(name, func(t *testing.T) {
			db := newDatabase(t)
			asked := projections.NewConversations(db.pool)
			c := newChat("acc_1", "agt_1", "mac1", noon)
			var story log
			story.add(c.receive("hola", "boot1"))
			story.add(c.complete("buenas"))
			story.add(c.commit("resolve", conversation.Resolved{At: c.at}))
			story.add(c.commit("reopen", conversation.Reopened{At: c.at}))
			story.add(c.receive("y?", "boot1"))
			story.add(c.fail("upstream_timeout"))
			story.add(c.receive("otra", "boot1"))
			if split {
				for _, record := range story.records {
					db.apply(t, record)
				}
			} else {
				db.apply(t, story.records...)
			}

			found, err := asked.Get(t.Context(), "acc_1", "agt_1", "mac1")
			wantEqual(t, "the conversation", found, projections.Conversation{
				Stream: c.stream(), Account: "acc_1", Agent: "agt_1", IDMAC: "mac1", ID: seal(c.key(), "id of mac1"), Key: c.key(), Status: conversation.Open,
				MessageCount: 4, CreatedAt: noon.Add(time.Second), LastMessageAt: c.at,
			}, err)
			said, next, err := asked.Messages(t.Context(), "acc_1", c.stream(), projections.MessagePage{Limit: 100})
			if err != nil || next != nil || len(said) != 5 {
				t.Fatalf("%d messages, next %v, %v, want 5", len(said), next, err)
			}
			wantEqual(t, "a message", said[0], projections.Message{
				Version: 1, Index: 1, ID: "agt_1.mac1.t1.in", Turn: "agt_1.mac1.t1", Role: projections.RoleUser, Outcome: projections.Received,
				Text: seal(c.key(), "hola"), At: noon.Add(time.Second),
			}, nil)
			wantEqual(t, "a reply", said[1], projections.Message{
				Version: 2, ID: "agt_1.mac1.t1.out", Turn: "agt_1.mac1.t1", Role: projections.RoleAssistant, Outcome: projections.Completed,
				Text: seal(c.key(), "buenas"), Model: "echo", Usage: conversation.Usage{InputTokens: 3, OutputTokens: 4, Estimated: true}, Finish: conversation.FinishLength, FirstReply: time.Millisecond,
				FullReply: time.Second, At: noon.Add(2 * time.Second),
			}, nil)
			wantEqual(t, "a failure", said[3], projections.Message{
				Version: 6, ID: "agt_1.mac1.t2.out", Turn: "agt_1.mac1.t2", Role: projections.RoleAssistant, Outcome: projections.Failed, Code: "upstream_timeout",
				At: noon.Add(4 * time.Second),
			}, nil)

			var paged []projections.Message
			page := projections.MessagePage{Limit: 2}
			for more := true; more; more = page.After != nil {
				part, next, err := asked.Messages(t.Context(), "acc_1", c.stream(), page)
				if err != nil {
					t.Fatal(err)
				}
				paged, page.After = append(paged, part...), next
			}
			wantEqual(t, "page by page", paged, said, nil)
			if others, _, err := asked.Messages(t.Context(), "acc_2", c.stream(), page); err != nil || len(others) != 0 {
				t.Errorf("another account reads %+v, %v", others, err)
			}

			end, err := asked.Turn(t.Context(), "acc_1", c.stream(), "agt_1.mac1.t2")
			wantEqual(t, "the end of a turn", end, said[3], err)
			_, err = asked.Turn(t.Context(), "acc_1", c.stream(), "agt_1.mac1.t3")
			wantNotFound(t, "the end of an open turn", err)
			_, err = asked.Turn(t.Context(), "acc_2", c.stream(), "agt_1.mac1.t2")
			wantNotFound(t, "another account's turn", err)

			turn := projections.Turn{Stream: c.stream(), Agent: "agt_1", ConversationID: seal(c.key(), "id of mac1"), Received: noon.Add(time.Second), End: &said[1]}
			got, err := asked.FindTurn(t.Context(), "acc_1", "agt_1.mac1.t1")
			wantEqual(t, "an ended turn by its id", got, turn, err)
			turn.End, turn.Received = nil, c.at
			got, err = asked.FindTurn(t.Context(), "acc_1", "agt_1.mac1.t3")
			wantEqual(t, "an open turn by its id", got, turn, err)
			_, err = asked.FindTurn(t.Context(), "acc_2", "agt_1.mac1.t1")
			wantNotFound(t, "another account's ended turn", err)
			_, err = asked.FindTurn(t.Context(), "acc_2", "agt_1.mac1.t3")
			wantNotFound(t, "another account's open turn", err)
			_, err = asked.FindTurn(t.Context(), "acc_1", "agt_1.mac1.t4")
			wantNotFound(t, "a turn that never was", err)
		})
	}
}

func TestAConversationIsFoundByTheClientsID(t *testing.T) {
	db := newDatabase(t)
	asked := projections.NewConversations(db.pool)
	var story log
	for _, c := range []*chat{newChat("acc_1", "agt_1", "same", noon), newChat("acc_1", "agt_2", "same", noon), newChat("acc_1", "agt_1", "own", noon), newChat("acc_2", "agt_3", "same", noon)} {
		story.add(c.receive("hola", "boot1"))
	}
	db.apply(t, story.records...)
	for _, ask := range []struct {
		account, agent, mac, found string
		err                        error
	}{
		{"acc_1", "agt_2", "same", "conversation-agt_2.same", nil},
		{"acc_1", "", "own", "conversation-agt_1.own", nil},
		{"acc_2", "", "same", "conversation-agt_3.same", nil},
		{"acc_1", "", "same", "", projections.ErrAmbiguous},
		{"acc_1", "", "none", "", projections.ErrNotFound},
		{"acc_1", "agt_3", "same", "", projections.ErrNotFound},
		{"acc_2", "agt_1", "own", "", projections.ErrNotFound},
		{"acc_2", "", "own", "", projections.ErrNotFound},
	} {
		found, err := asked.Get(t.Context(), ask.account, ask.agent, ask.mac)
		if !errors.Is(err, ask.err) || string(found.Stream) != ask.found {
			t.Errorf("%+v: %q, %v", ask, found.Stream, err)
		}
	}
}

func TestConversationsAreListedByWhatWasAskedFor(t *testing.T) {
	db := newDatabase(t)
	asked := projections.NewConversations(db.pool)
	var story log
	for i, agent := range []string{"agt_1", "agt_2", "agt_1", "agt_2", "agt_1"} {
		c := newChat("acc_1", agent, "m"+string(rune('0'+i)), noon.Add(time.Duration(i)*time.Hour))
		story.add(c.receive("hola", "boot1"))
		if i%2 == 0 {
			story.add(c.complete("buenas"))
			story.add(c.commit("resolve", conversation.Resolved{At: c.at}))
		}
	}
	foreign := newChat("acc_2", "agt_3", "m9", noon)
	story.add(foreign.receive("hola", "boot1"))
	db.apply(t, story.records...)
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours)*time.Hour + time.Second) }
	for name, ask := range map[string]struct {
		filter projections.ConversationFilter
		want   []string
	}{
		"all":                         {projections.ConversationFilter{}, []string{"m4", "m3", "m2", "m1", "m0"}},
		"of an agent":                 {projections.ConversationFilter{Agent: "agt_2"}, []string{"m3", "m1"}},
		"resolved":                    {projections.ConversationFilter{Status: conversation.Settled}, []string{"m4", "m2", "m0"}},
		"open":                        {projections.ConversationFilter{Status: conversation.Open}, []string{"m3", "m1"}},
		"resolved ones of an agent":   {projections.ConversationFilter{Agent: "agt_1", Status: conversation.Settled}, []string{"m4", "m2", "m0"}},
		"open ones of that agent":     {projections.ConversationFilter{Agent: "agt_1", Status: conversation.Open}, nil},
		"from":                        {projections.ConversationFilter{From: at(2)}, []string{"m4", "m3", "m2"}},
		"to":                          {projections.ConversationFilter{To: at(2)}, []string{"m1", "m0"}},
		"from and to, of an agent":    {projections.ConversationFilter{Agent: "agt_1", From: at(1), To: at(4)}, []string{"m2"}},
		"of a bound key":              {projections.ConversationFilter{Only: []string{"agt_2", "agt_3"}}, []string{"m3", "m1"}},
		"of a bound key, other agent": {projections.ConversationFilter{Only: []string{"agt_2"}, Agent: "agt_1"}, nil},
		"of a bound key, resolved":    {projections.ConversationFilter{Only: []string{"agt_1"}, Status: conversation.Settled}, []string{"m4", "m2", "m0"}},
		"of a key bound to one twice": {projections.ConversationFilter{Only: []string{"agt_2", "agt_2"}}, []string{"m3", "m1"}},
		"of a bound key, from":        {projections.ConversationFilter{Only: []string{"agt_1", "agt_2"}, From: at(2)}, []string{"m4", "m3", "m2"}},
		"of a key bound to a foreign": {projections.ConversationFilter{Only: []string{"agt_3"}}, nil},
		"of another account's agent":  {projections.ConversationFilter{Agent: "agt_3"}, nil},
	} {
		var got []string
		page := projections.Page{Limit: 2}
		for more := true; more; more = page.After != nil {
			found, next, err := asked.List(t.Context(), "acc_1", ask.filter, page)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range found {
				got = append(got, c.IDMAC)
			}
			page.After = next
		}
		if !slices.Equal(got, ask.want) {
			t.Errorf("%s: %v, want %v", name, got, ask.want)
		}
	}
}

func TestTheSweeperFindsTurnsThatNobodyWillEnd(t *testing.T) {
	db := newDatabase(t)
	asked := projections.NewConversations(db.pool)
	var story log
	chats := map[string]*chat{}
	open := func(mac, boot string, at time.Time) {
		chats[mac] = newChat("acc_1", "agt_1", mac, at)
		story.add(chats[mac].receive("hola", boot))
	}
	open("dead", "boot1", noon)
	open("living", "boot2", noon)
	open("ended", "boot1", noon)
	open("late", "boot2", noon.Add(-time.Hour))
	open("young", "boot3", noon.Add(time.Minute))
	db.apply(t, story.records...)
	db.apply(t, story.add(chats["ended"].complete("buenas"))) // opened in a batch before
	begun := newChat("acc_1", "agt_1", "both", noon)          // opened and ended in one batch
	db.apply(t, story.add(begun.receive("hola", "boot1")), story.add(begun.complete("buenas")))

	orphans := func(living ...string) []string {
		found, err := asked.OpenTurns(t.Context(), projections.Orphans{Living: living, Before: noon.Add(30 * time.Second), Now: noon.Add(time.Minute), Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var streams []string
		for _, turn := range found {
			_, mac, _ := cutLast(turn.Stream)
			if c := chats[mac]; turn.Turn != c.turn() || turn.Account != "acc_1" || turn.Agent != "agt_1" || turn.Key != c.key() {
				t.Errorf("%+v", turn)
			}
			streams = append(streams, mac)
		}
		return streams
	}
	wantEqual(t, "with one boot dead", orphans("boot2"), []string{"late", "dead"}, nil)
	wantEqual(t, "with both alive", orphans("boot1", "boot2"), []string{"late"}, nil)
	wantEqual(t, "with all dead", orphans(), []string{"late", "dead", "living"}, nil)
}

// cutLast splits a conversation's stream into agent and HMAC.
func cutLast(stream domain.StreamID) (agent, mac string, ok bool) {
	name := stream.Name()
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			return name[:i], name[i+1:], true
		}
	}
	return "", "", false
}

func TestAnErasedConversationLeavesOnlyThatItWasErased(t *testing.T) {
	for name, split := range map[string]bool{"in one batch": false, "in a batch each": true} {
		t.Run(name, func(t *testing.T) {
			db := newDatabase(t)
			gone, kept := newChat("acc_1", "agt_1", "gone", noon), newChat("acc_1", "agt_1", "kept", noon)
			var story log
			for _, c := range []*chat{gone, kept} {
				story.add(c.receive("hola", "boot1"))
				story.add(c.complete("buenas"))
				story.add(c.receive("y?", "boot1"))
			}
			erased := story.add(gone.commit("erase", conversation.Erased{Erasure: "era_1", At: gone.at, Turn: gone.turn()}))
			if split {
				for _, record := range story.records {
					db.apply(t, record)
				}
			} else {
				db.apply(t, story.records...)
			}
			asked := projections.NewConversations(db.pool)
			_, err := asked.Get(t.Context(), "acc_1", "agt_1", "gone")
			wantNotFound(t, "the conversation", err)
			_, err = asked.FindTurn(t.Context(), "acc_1", gone.turn())
			wantNotFound(t, "its turn", err)
			for _, table := range []string{"conversations", "messages", "turns"} {
				if left := query[string](t, db.pool, `SELECT DISTINCT stream FROM `+table); !slices.Equal(left, []string{string(kept.stream())}) {
					t.Errorf("%s are left of %v", table, left)
				}
			}
			closed, err := asked.Closed(t.Context(), []string{"agt_1.gone.t1", gone.turn(), "agt_1.kept.t1", kept.turn(), "never"})
			slices.Sort(closed)
			if want := []string{"agt_1.gone.t2", "agt_1.kept.t1"}; err != nil || !slices.Equal(closed, want) {
				t.Errorf("closed are %v, %v, want %v", closed, err, want)
			}
			row := query[string](t, db.pool, `SELECT concat_ws(' ', stream, erasure, account, id_mac, turn, with_account, part, off) FROM erasures`)
			if want := fmt.Sprintf("%s era_1 acc_1 gone %s f 0 %d", gone.stream(), gone.turn(), erased.Offset); len(row) != 1 || row[0] != want {
				t.Errorf("erasures %v, want %s", row, want)
			}
			if state := query[string](t, db.pool, `SELECT convert_from(state, 'UTF8') FROM streams WHERE stream = $1`, gone.stream()); len(state) != 1 || state[0] != `{"account":"acc_1","agent":"agt_1","turns":2,"erased":true}` {
				t.Errorf("the state is %s", state)
			}
		})
	}
}
