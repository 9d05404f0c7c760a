package projections_test

// This file tests the fold: who wins, what is refused, and that nothing depends on where batches begin.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
	"github.com/nidohq/nido/projections"
)

func isFenced(err error) bool { return errors.Is(err, projections.ErrFenced) }

// opened is the first commit of an account.
func opened(name, command string, base domain.Version) domain.Commit {
	return commit(account.Aggregate, name, base, command, noon, account.Opened{Name: name, Plan: account.Free})
}

// moved is a commit that changes an account's plan.
func moved(name, command string, base domain.Version, plan account.Plan) domain.Commit {
	return commit(account.Aggregate, name, base, command, noon.Add(time.Minute), account.PlanChanged{Plan: plan})
}

func TestTheFirstCommitOnAVersionWins(t *testing.T) {
	for name, split := range map[string]bool{"in one batch": false, "in a batch each": true} {
		t.Run(name, func(t *testing.T) {
			db := newDatabase(t)
			var story log
			story.add(opened("a", "c1", 0))
			story.add(moved("a", "c2", 1, account.Pro))
			story.add(moved("a", "c3", 1, account.Starter)) // a loser between two winners
			story.add(moved("a", "c3", 2, account.Scale))   // its command decided again
			story.add(moved("a", "c3", 3, account.Free))    // and, by a mistake, once more: the log's rule takes it
			story.add(opened("b", "c4", 1))                 // a base that never was
			if split {
				for _, record := range story.records {
					db.apply(t, record)
				}
			} else {
				db.apply(t, story.records...)
			}

			if lost := query[int64](t, db.pool, `SELECT off FROM rejections WHERE part = 0 ORDER BY off`); !slices.Equal(lost, []int64{2, 5}) {
				t.Errorf("rejected %v, want [2 5]", lost)
			}
			streams := projections.NewStreams(db.pool)
			for command, want := range map[string]domain.Version{"c1": 1, "c2": 2, "c3": 3, "c4": 0, "never": 0} {
				snapshot, err := streams.Load(t.Context(), "account-a", command)
				if err != nil {
					t.Fatal(err)
				}
				if snapshot.Version != 4 || snapshot.Committed != want {
					t.Errorf("%s: version %d, committed at %d, want 4 and %d", command, snapshot.Version, snapshot.Committed, want)
				}
				if state, err := account.Aggregate.DecodeState(snapshot.State); err != nil || state.Plan != account.Free || state.Name != "a" {
					t.Errorf("state %+v, %v", state, err)
				}
			}
			if empty, err := streams.Load(t.Context(), "account-b", "c4"); err != nil || empty.Version != 0 || empty.State != nil {
				t.Errorf("a stream whose only commit lost: %+v, %v, want it empty", empty, err)
			}
		})
	}
}

func TestACommandIsLookedUpInItsOwnStream(t *testing.T) {
	db := newDatabase(t)
	var story log
	story.add(opened("a", "same", 0))
	db.apply(t, story.records...)
	snapshot, err := projections.NewStreams(db.pool).Load(t.Context(), "account-b", "same")
	if err != nil || snapshot.Committed != 0 {
		t.Errorf("%+v, %v: the command of another stream was found", snapshot, err)
	}
}

func TestABatchThatDoesNotFollowTheCheckpointIsRefused(t *testing.T) {
	db := newDatabase(t)
	var story log
	for i, base := range []domain.Version{0, 1, 2, 3, 4, 5} {
		if base == 0 {
			story.add(opened("a", "c0", 0))
			continue
		}
		story.add(moved("a", "c"+string(rune('0'+i)), base, []account.Plan{account.Pro, account.Free}[i%2]))
	}
	db.apply(t, story.records[:3]...)
	other := story.records[3]
	other.Partition = 1
	for name, batch := range map[string]struct {
		after int64
		batch []domain.Recorded
	}{
		"from the beginning":         {-1, story.records},
		"before the checkpoint":      {1, story.records[2:4]},
		"behind a gap":               {3, story.records[4:]},
		"with a record that was":     {2, story.records[2:5]},
		"out of order":               {2, []domain.Recorded{story.records[4], story.records[3]}},
		"with one twice":             {2, []domain.Recorded{story.records[3], story.records[3]}},
		"with another partition's":   {2, []domain.Recorded{other}},
		"with an impossible earlier": {-7, story.records[3:]},
	} {
		if err := db.projector.Apply(t.Context(), 0, batch.after, batch.batch); !isFenced(err) {
			t.Errorf("%s: %v, want ErrFenced", name, err)
		}
	}
	if off, hash, err := db.projector.Checkpoint(t.Context(), 0); err != nil || off != 2 || !bytes.Equal(hash, story.records[2].Hash) {
		t.Errorf("the checkpoint is %d, %x, %v", off, hash, err)
	}
	if off, hash, err := db.projector.Checkpoint(t.Context(), 7); err != nil || off != -1 || hash != nil {
		t.Errorf("the checkpoint of an untouched partition is %d, %x, %v", off, hash, err)
	}
	// An operator's skip leaves a gap between records, which the batch may have.
	if err := db.projector.Apply(t.Context(), 0, 2, []domain.Recorded{story.records[3], story.records[5]}); err != nil {
		t.Errorf("a batch with a skipped record: %v", err)
	}
}

func TestOfTwoProjectorsOneIsFenced(t *testing.T) {
	db := newDatabase(t)
	zombie := projections.NewPostgres(db.open(t, "read"), "read", quiet())
	var story log
	story.add(opened("a", "c1", 0))
	for round := range 20 {
		after := checkpoint(t, db.projector, 0)
		story.add(moved("a", "c", domain.Version(round+1), []account.Plan{account.Pro, account.Free}[round%2]))
		batch := story.records[after+1:]
		errs := make([]error, 2)
		var both sync.WaitGroup
		for i, projector := range []*projections.Postgres{db.projector, zombie} {
			both.Go(func() { errs[i] = projector.Apply(t.Context(), 0, after, batch) })
		}
		both.Wait()
		if isFenced(errs[0]) == isFenced(errs[1]) || errs[0] != nil && errs[1] != nil {
			t.Fatalf("round %d: %v and %v, want one to win and one to be fenced", round, errs[0], errs[1])
		}
	}
	if version := query[int64](t, db.pool, `SELECT version FROM streams`); version[0] != 21 {
		t.Errorf("version %d after 21 commits", version[0])
	}
}

func TestAnUnreadableRecordStopsThePartitionBehindWhatCameBefore(t *testing.T) {
	for name, broken := range map[string]func(*domain.Recorded){
		"an unknown event":    func(r *domain.Recorded) { r.Events[0].Type = "account.eaten" },
		"a newer schema":      func(r *domain.Recorded) { r.Events[0].Schema = 99 },
		"broken JSON":         func(r *domain.Recorded) { r.Events[0].Data = []byte(`{"plan":`) },
		"an unknown kind":     func(r *domain.Recorded) { r.Stream, r.Base = "pizza-1", 0 },
		"an unstorable id":    func(r *domain.Recorded) { r.Stream, r.Base = "account-\x00", 0 },
		"an oversized id":     func(r *domain.Recorded) { r.Stream, r.Base = domain.StreamID("account-"+strings.Repeat("x", 3000)), 0 },
		"an oversized caller": func(r *domain.Recorded) { r.Command = strings.Repeat("x", 3000) },
	} {
		t.Run(name, func(t *testing.T) {
			db := newDatabase(t)
			var story log
			story.add(opened("a", "c1", 0))
			bad := story.add(moved("a", "c2", 1, account.Pro))
			broken(&bad)
			story.records[1] = bad
			story.add(moved("a", "c3", 1, account.Starter))

			for range 2 { // the consumer comes back from the checkpoint, and gets no further
				after := checkpoint(t, db.projector, 0)
				err := db.projector.Apply(t.Context(), 0, after, story.records[after+1:])
				unreadable, ok := errors.AsType[*projections.Unreadable](err)
				if !ok || unreadable.Offset != 1 || !errors.Is(err, domain.ErrUndecodable) {
					t.Fatalf("%v, want an *Unreadable at offset 1", err)
				}
				if off := checkpoint(t, db.projector, 0); off != 0 {
					t.Fatalf("the checkpoint is %d, want 0", off)
				}
			}
			if err := db.projector.Apply(t.Context(), 0, 0, story.records[2:]); err != nil {
				t.Fatalf("after the operator skipped it: %v", err)
			}
			if found, err := projections.NewAccounts(db.pool).Get(t.Context(), "a"); err != nil || found.Plan != account.Starter {
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
}

func TestALoserNeedNotBeReadable(t *testing.T) {
	db := newDatabase(t)
	var story log
	story.add(opened("a", "c1", 0))
	bad := story.add(opened("a", "c2", 0))
	bad.Events[0].Type = "account.eaten"
	db.apply(t, story.records[0], bad)
}

func TestTextsThatPostgresCannotKeepDoNotStopTheFold(t *testing.T) {
	db := newDatabase(t)
	var story log
	settings := agent.Settings{Name: "nul\x00", Instructions: "\x00", Model: "m\x00", Metadata: map[string]string{"\x00": "\x00"}}
	story.add(commit(account.Aggregate, "a", 0, "c1", noon, account.Opened{Name: "a\x00b", Plan: account.Pro},
		account.Suspended{Reason: "\x00"}))
	story.add(commit(agent.Aggregate, "agt_1", 0, "c2", noon, agent.Created{Account: "a", Slug: "s", Settings: settings}))
	db.apply(t, story.records...)
	if found, err := projections.NewAccounts(db.pool).Get(t.Context(), "a"); err != nil || found.Name != "a\uFFFDb" {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err := projections.NewAgents(db.pool).Get(t.Context(), "a", "agt_1"); err != nil || found.Settings.Instructions != "\x00" {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := projections.NewAgents(db.pool).Get(t.Context(), "a", "agt\x00"); !errors.Is(err, projections.ErrNotFound) {
		t.Errorf("an id with NUL: %v, want ErrNotFound", err)
	}
	if snapshot, err := projections.NewStreams(db.pool).Load(t.Context(), "agent-\x00", "c"); err != nil || snapshot.Version != 0 {
		t.Errorf("a stream with NUL: %+v, %v, want it empty", snapshot, err)
	}
}

func TestIdsAndNumbersBeyondAllBoundsDoNotStopTheFold(t *testing.T) {
	db := newDatabase(t)
	var id string
	for len(id) < 10_000 { // nothing that could be compressed
		id += rand.Text()
	}
	settings := agent.Settings{Name: "n", Model: "m", HistoryLimit: new(1 << 40)}
	var story log
	story.add(commit(agent.Aggregate, "agt_1", 0, "c1", noon, agent.Created{Account: id, Slug: "s", Settings: settings},
		agent.Configured{Version: 1 << 40, Restores: 1 << 40}))
	story.add(commit(host.Aggregate, "s", 0, "c2", noon, host.Claimed{Account: id, Agent: id}))
	story.add(commit(apikey.Aggregate, "k", 0, "c3", noon, apikey.Issued{Account: id}))
	begun := commit(conversation.Aggregate, "agt_1.m1", 0, "c4", noon, conversation.Started{Account: id, Agent: id, IDMAC: id},
		conversation.MessageReceived{Turn: id, Message: id, Boot: id, Received: noon, Deadline: noon})
	story.add(begun)
	ended := commit(conversation.Aggregate, "agt_1.m1", 1, "c5", noon,
		conversation.ReplyCompleted{Turn: id, Message: id, At: noon}, conversation.Erased{Erasure: id, Turn: id, At: noon})
	ended.Account = id
	story.add(ended)
	db.apply(t, story.records[:4]...)
	db.apply(t, story.records[4])
	if found := query[string](t, db.pool, `SELECT erasure FROM erasures`); len(found) != 1 || !strings.HasPrefix(id, found[0]) || len(found[0]) < 100 {
		t.Errorf("%d erasures, %.40q", len(found), found)
	}
}

func TestCommitsAreKeptFor48HoursOfTheLog(t *testing.T) {
	db := newDatabase(t)
	streams := projections.NewStreams(db.pool)
	var story log
	at := func(name string, after time.Duration) {
		story.add(commit(account.Aggregate, name, 0, "c_"+name, noon.Add(after), account.Opened{Name: name, Plan: account.Free}))
		db.apply(t, story.records[len(story.records)-1])
	}
	remembered := func(name string) bool {
		snapshot, err := streams.Load(t.Context(), account.Aggregate.Stream(name), "c_"+name)
		if err != nil || snapshot.Version != 1 {
			t.Fatalf("%+v, %v", snapshot, err)
		}
		return snapshot.Committed == 1
	}
	at("old", 0)
	at("young", time.Hour)
	at("edge", 48*time.Hour)
	if !remembered("old") || !remembered("young") {
		t.Error("a commit was forgotten before its 48 hours were over")
	}
	at("next", 48*time.Hour+time.Second)
	if remembered("old") || !remembered("young") {
		t.Error("want the commit that is older than 48 hours to be forgotten, and only that")
	}
	at("ahead", 1000*time.Hour) // a node with a wrong clock
	at("behind", 49*time.Hour)  // and one with a right one, after it
	if !remembered("ahead") || !remembered("behind") {
		t.Error("a clock that is ahead made the log forget what comes after it")
	}
}

func TestManyOldCommitsAreDroppedInBites(t *testing.T) {
	db := newDatabase(t)
	var story log
	db.apply(t, story.add(opened("a", "c0", 0)))
	execute(t, db.pool, `INSERT INTO commits (stream, version, command, part, off, at) SELECT 'account-x', n, 'c', 0, -n, $1 FROM generate_series(1, 25000) n`, noon)
	var left []int64
	for i := range 4 {
		next := moved("a", fmt.Sprintf("c%d", i+1), domain.Version(i+1), []account.Plan{account.Pro, account.Free}[i%2])
		next.Time = noon.Add(100*time.Hour + time.Duration(i)*time.Second)
		db.apply(t, story.add(next))
		left = append(left, query[int64](t, db.pool, `SELECT count(*) FROM commits WHERE at < $1`, noon.Add(time.Hour))...)
	}
	if !slices.Equal(left, []int64{15001, 5001, 0, 0}) {
		t.Errorf("%v old commits were left, batch by batch", left)
	}
}

func TestPrepareMayRunOnAllNodesAtOnce(t *testing.T) {
	db := newDatabase(t)
	pool := db.open(t, "read_next")
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = projections.NewPostgres(pool, "read_next", quiet()).Prepare(t.Context()) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := projections.NewPostgres(db.pool, "read_next", quiet()).Prepare(t.Context()); err == nil {
		t.Error("a pool that looks into another schema was accepted")
	}
}

func TestTablesOfAnotherBinaryAreReplacedAndFencedOff(t *testing.T) {
	db := newDatabase(t)
	var story log
	story.add(opened("a", "c1", 0))
	story.add(moved("a", "c2", 1, account.Pro))
	db.apply(t, story.records[0])
	if err := db.projector.Prepare(t.Context()); err != nil || checkpoint(t, db.projector, 0) != 0 {
		t.Fatalf("preparing what is prepared: %v", err)
	}

	if err := db.projector.Ours(t.Context()); err != nil {
		t.Errorf("its own tables: %v", err)
	}
	execute(t, db.pool, `UPDATE generation SET fingerprint = fingerprint + 1`) // another binary prepared
	if err := db.projector.Ours(t.Context()); !errors.Is(err, projections.ErrOtherTables) {
		t.Errorf("another binary's tables: %v", err)
	}
	if err := db.projector.Apply(t.Context(), 0, 0, story.records[1:]); !isFenced(err) {
		t.Errorf("folding into another binary's tables: %v, want ErrFenced", err)
	}
	var said bytes.Buffer
	ours := projections.NewPostgres(db.pool, "read", slog.New(slog.NewTextHandler(&said, nil)))
	if err := ours.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "level=WARN") {
		t.Errorf("the log says %q, want a warning", said.String())
	}
	if off := checkpoint(t, db.projector, 0); off != -1 {
		t.Fatalf("the checkpoint is %d, want the tables to be empty", off)
	}
	db.apply(t, story.records...)
}

func TestAFailedBatchLeavesNothingBehind(t *testing.T) {
	db := newDatabase(t)
	var story log
	story.add(opened("a", "c1", 0))
	before := dump(t, db.pool, "read")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.projector.Apply(ctx, 0, -1, story.records); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	execute(t, db.pool, `ALTER TABLE accounts ADD CONSTRAINT broken CHECK (false)`)
	if err := db.projector.Apply(t.Context(), 0, -1, story.records); err == nil || isFenced(err) {
		t.Errorf("a write that fails: %v, want its error", err)
	}
	if after := dump(t, db.pool, "read"); after != before {
		t.Errorf("something was left behind:\n%s", after)
	}
	execute(t, db.pool, `ALTER TABLE accounts DROP CONSTRAINT broken`)
	db.apply(t, story.records...)
}
