package projections_test

// This file tests that the tables depend on the log alone: wherever its batches begin, whatever is delivered again.

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
	"github.com/nidohq/nido/projections"
)

// world draws a log in which deciders make the commits of a few streams, and some of them come too late.
type world struct {
	log
	at       time.Time
	states   map[domain.StreamID]any
	versions map[domain.StreamID]domain.Version
	lost     []int64
}

// act lets an aggregate decide a command, and appends what it says: on the version that the decision saw, or, if it is
// late, on one that has passed by then.
func act[C, E, S any](w *world, t *rapid.T, aggregate domain.Aggregate[C, E, S], name string, command C) {
	stream := aggregate.Stream(name)
	state, _ := w.states[stream].(S)
	events, err := aggregate.Decider.Decide(command, state)
	if err != nil || len(events) == 0 {
		return
	}
	boxed := make([]any, len(events))
	for i, event := range events {
		boxed[i] = event
	}
	base := w.versions[stream]
	late := rapid.IntRange(0, 4).Draw(t, "late") == 0
	if late {
		base += domain.Version(rapid.SampledFrom([]int{-1, 1, 7}).Draw(t, "by"))
	}
	id := rapid.SampledFrom([]string{fmt.Sprintf("cmd%d", len(w.records)), "cmd_again"}).Draw(t, "command")
	record := w.add(commit(aggregate, name, base, id, w.at, boxed...))
	if late {
		w.lost = append(w.lost, record.Offset)
		return
	}
	for _, event := range events {
		state = aggregate.Decider.Evolve(state, event)
	}
	w.states[stream] = state
	w.versions[stream]++
}

// step moves the clock, seldom far, and lets somebody do something.
func (w *world) step(t *rapid.T) {
	w.at = w.at.Add(rapid.SampledFrom([]time.Duration{0, time.Second, -time.Minute, time.Hour, 40 * time.Hour}).Draw(t, "clock"))
	one := rapid.SampledFrom([]string{"1", "2"}).Draw(t, "which")
	acc, agt := "acc_"+one, "agt_"+one
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		act(w, t, account.Aggregate, acc, rapid.SampledFrom([]account.Command{
			account.Open{Name: "n" + one, Plan: account.Free}, account.ChangePlan{Plan: account.Pro}, account.ChangePlan{Plan: account.Scale, Custom: &account.Limits{PerDay: 3}},
			account.Suspend{Reason: "r"}, account.Resume{},
			account.Suspend{Reason: "r"}, account.Resume{}, account.Erase{Erasure: "era_" + acc, At: w.at},
		}).Draw(t, "account"))
	case 1:
		act(w, t, agent.Aggregate, agt, rapid.SampledFrom([]agent.Command{
			agent.Create{Created: agent.Created{Account: acc, Slug: "s" + one, Settings: agent.Settings{Name: "n", Model: "m"}}},
			agent.Configure{Account: acc, Changes: agent.Changes{Model: pointer("m2"), Temperature: pointer(0.5)}},
			agent.Configure{Account: acc, Changes: agent.Changes{Model: pointer("m"), HistoryLimit: pointer(2)}}, agent.Pause{Account: acc}, agent.Resume{Account: acc},
			agent.Delete{Account: acc},
		}).Draw(t, "agent"))
	case 2:
		act(w, t, host.Aggregate, "s"+one, rapid.SampledFrom([]host.Command{
			host.Claim{Slug: "s" + one, Account: acc, Agent: agt}, host.Claim{Slug: "s" + one, Account: "acc_3", Agent: "agt_3"}, host.Bind{Agent: agt}, host.Release{Agent: agt},
			host.Sweep{Agent: "agt_3"},
		}).Draw(t, "host"))
	case 3:
		act(w, t, apikey.Aggregate, "k"+one, rapid.SampledFrom([]apikey.Command{
			apikey.Issue{Issued: apikey.Issued{Account: acc, Name: "n", Hash: []byte{1}, Scopes: []apikey.Scope{apikey.Chat}}, Issuer: apikey.Grant{Scopes: apikey.Scopes}},
			apikey.Rotate{Account: acc, Hash: []byte{2}, Grace: time.Hour, Issuer: apikey.Grant{Scopes: apikey.Scopes}, Now: noon},
			apikey.Rotate{Account: acc, Hash: []byte{3}, Issuer: apikey.Grant{Scopes: apikey.Scopes}, Now: noon},
			apikey.Revoke{Account: acc, Reason: "r"},
		}).Draw(t, "key"))
	default:
		w.talk(t, acc, agt, rapid.SampledFrom([]string{"m1", "m2", "m3"}).Draw(t, "conversation"))
	}
}

func (w *world) talk(t *rapid.T, acc, agt, mac string) {
	name := agt + "." + mac
	state, _ := w.states[conversation.Aggregate.Stream(name)].(conversation.State)
	turn := fmt.Sprintf("%s.%d", name, state.Turns)
	text := rapid.SampledFrom([]domain.Sealed{seal("dk", "partial"), {}}).Draw(t, "text")
	act(w, t, conversation.Aggregate, name, rapid.SampledFrom([]conversation.Command{
		conversation.Receive{
			Start:           conversation.Started{Account: acc, Agent: agt, Key: "dk", ID: seal("dk", mac), IDMAC: mac, Metadata: text},
			MessageReceived: conversation.MessageReceived{Turn: fmt.Sprintf("%s.%d", name, state.Turns+1), Message: "in", Text: seal("dk", "hi"), Boot: "b", Received: w.at, Deadline: w.at},
		},
		conversation.Complete{ReplyCompleted: conversation.ReplyCompleted{Turn: turn, Message: "out", Text: seal("dk", "yo"), Model: "m", FirstReply: 1, FullReply: 2, At: w.at}},
		conversation.Fail{ReplyFailed: conversation.ReplyFailed{Turn: turn, Message: "out", Text: text, Code: "interrupted", At: w.at}},
		conversation.Cancel{ReplyCancelled: conversation.ReplyCancelled{Turn: turn, Message: "out", Text: text, At: w.at}},
		conversation.Resolve{Account: acc, At: w.at}, conversation.Reopen{Account: acc, At: w.at},
		conversation.Erase{Account: acc, Erasure: "era_" + name, At: w.at, WithAccount: mac == "m1"},
	}).Draw(t, "talk"))
}

func TestTheTablesDependOnTheLogAloneAndNotOnItsBatches(t *testing.T) {
	db := newDatabase(t)
	nextPool := db.open(t, "read_next")
	next := db.prepared(t, nextPool, "read_next")
	const empty = `TRUNCATE checkpoints, streams, commits, rejections, accounts, agents, agent_versions, hosts, keys, conversations, messages, turns, erasures`
	rapid.Check(t, func(rt *rapid.T) {
		execute(t, db.pool, empty)
		execute(t, nextPool, empty)
		w := &world{at: noon, states: map[domain.StreamID]any{}, versions: map[domain.StreamID]domain.Version{}}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			w.step(rt)
		}
		if len(w.records) == 0 {
			return
		}
		if err := db.projector.Apply(t.Context(), 0, -1, w.records); err != nil {
			rt.Fatalf("in one batch: %v", err)
		}
		if rejected := query[int64](t, db.pool, `SELECT off FROM rejections ORDER BY off`); !slices.Equal(rejected, w.lost) {
			rt.Fatalf("rejected %v, want %v", rejected, w.lost)
		}
		for from := 0; from < len(w.records); {
			to := min(from+rapid.IntRange(1, 20).Draw(rt, "batch"), len(w.records))
			applyTwice(t, rt, next, w.records[from:to])
			from = to
		}
		if whole, split := dump(t, db.pool, "read"), dump(t, nextPool, "read_next"); whole != split {
			rt.Fatalf("in one batch:\n%s\nin several:\n%s", whole, split)
		}
	})
}

// applyTwice folds a batch, delivers it again, and once more from the beginning of time.
func applyTwice(t *testing.T, rt *rapid.T, projector *projections.Postgres, batch []domain.Recorded) {
	after := batch[0].Offset - 1
	if err := projector.Apply(t.Context(), 0, after, batch); err != nil {
		rt.Fatalf("behind %d: %v", after, err)
	}
	for _, again := range []int64{after, -1} {
		if err := projector.Apply(t.Context(), 0, again, batch); !isFenced(err) {
			rt.Fatalf("again, behind %d: %v, want ErrFenced", again, err)
		}
	}
}

func TestPartitionsMayBeFoldedInAnyInterleaving(t *testing.T) {
	db := newDatabase(t)
	nextPool := db.open(t, "read_next")
	next := db.prepared(t, nextPool, "read_next")
	logs := make([]*log, 3)
	for part := range logs {
		logs[part] = &log{partition: int32(part)}
		for i := range 20 {
			c := newChat("acc_1", "agt_1", fmt.Sprintf("m%d_%d", part, i), noon.Add(time.Duration(i*part)*time.Hour))
			logs[part].add(c.receive("hola", "boot1"))
			logs[part].add(c.complete("buenas"))
		}
	}
	for _, story := range logs { // one after the other
		if err := db.projector.Apply(t.Context(), story.partition, -1, story.records); err != nil {
			t.Fatal(err)
		}
	}
	for i := range logs[0].records { // all at once, the last one first
		for _, story := range slices.Backward(logs) {
			if err := next.Apply(t.Context(), story.partition, int64(i)-1, story.records[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if one, other := dump(t, db.pool, "read"), dump(t, nextPool, "read_next"); one != other {
		t.Errorf("one after the other:\n%s\ninterleaved:\n%s", one, other)
	}
}
