package commands_test

// This file is the simulation's world: a log, two folds and a wire that fail, pause and repeat when the dice say so.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

// world is everything outside of the parties: the log, both stores, and the dice.
type world struct {
	rules
	dice  *rand.Rand
	yield func(struct{}) bool // of the party that runs
	log   [][]domain.Recorded
	late  []domain.Commit // on the wire, unconfirmed
	fold  *fold
	rows  map[string]domain.Commit // ClickHouse, keyed by stream and version
	seen  []int64                  // ClickHouse's checkpoint: next offset per partition
	calm  bool                     // no new faults: let everything come to its end
}

// fold is one generation of the Postgres read models.
type fold struct {
	next     []int64 // per partition
	streams  map[domain.StreamID]*folded
	rejected map[domain.Position]bool
}

type folded struct {
	version  domain.Version
	state    any
	commands map[string]domain.Version
}

func newFold() *fold {
	return &fold{next: make([]int64, simulatedPartitions), streams: map[domain.StreamID]*folded{}, rejected: map[domain.Position]bool{}}
}

// pause lets other parties run.
func (w *world) pause() { w.yield(struct{}{}) }

// fault reports whether something that happens one time in n happens now.
func (w *world) fault(n int) bool { return !w.calm && w.dice.IntN(n) == 0 }

func partitionOf(stream domain.StreamID) int32 {
	return int32(stream[len(stream)-1]) % simulatedPartitions
}

func (w *world) arrive(commit domain.Commit) domain.Position {
	p := partitionOf(commit.Stream)
	position := domain.Position{Partition: p, Offset: int64(len(w.log[p]))}
	w.log[p] = append(w.log[p], domain.Recorded{Position: position, Commit: commit})
	return position
}

// Append implements commands.Log with every fate that a record can have on its way.
func (w *world) Append(_ context.Context, commit domain.Commit) (domain.Position, error) {
	w.pause()
	switch {
	case w.fault(10): // lost on the way
		return domain.Position{}, commands.ErrUnknownOutcome
	case w.fault(10): // its acknowledgement is lost
		w.arrive(commit)
		return domain.Position{}, commands.ErrUnknownOutcome
	case w.fault(10): // late: long after its sender gave up
		w.late = append(w.late, commit)
		return domain.Position{}, commands.ErrUnknownOutcome
	}
	position := w.arrive(commit)
	w.pause()
	return position, nil
}

// Load implements commands.Streams.
func (w *world) Load(_ context.Context, id domain.StreamID, command string) (domain.Snapshot, error) {
	w.pause()
	var committed domain.Version
	if stream, ok := w.fold.streams[id]; ok && !w.ignoreCommandIDs {
		committed = stream.commands[command]
	}
	if w.twoReads {
		w.pause()
		w.pause()
	}
	stream, ok := w.fold.streams[id]
	if !ok {
		return domain.Snapshot{}, nil
	}
	state, err := tallies.EncodeState(stream.state)
	return domain.Snapshot{Version: stream.version, State: state, Committed: committed}, err
}

// Wait implements commands.Outcomes; sometimes its caller runs out of patience.
func (w *world) Wait(_ context.Context, position domain.Position) (bool, error) {
	for w.fold.next[position.Partition] <= position.Offset {
		if w.fault(40) {
			return false, context.DeadlineExceeded
		}
		w.pause()
	}
	return !w.fold.rejected[position], nil
}

// apply is the projector's transaction.
func (w *world) apply(f *fold, partition int32, after int64, batch []domain.Recorded) error {
	if f.next[partition] != after && !w.noFence {
		return errors.New("fenced")
	}
	for _, record := range batch {
		stream, ok := f.streams[record.Stream]
		if !ok {
			stream = &folded{commands: map[string]domain.Version{}}
			f.streams[record.Stream] = stream
		}
		if !domain.Accepts(stream.version, record.Base) && !w.lastWins {
			f.rejected[record.Position] = true
			continue
		}
		result, err := tallies.Fold(stream.state, nil, record.Events)
		if err != nil {
			return err
		}
		stream.version++
		stream.state = result.State
		stream.commands[record.Command] = stream.version
	}
	f.next[partition] = after + int64(len(batch))
	return nil
}

// batchFrom reads what a consumer gets at an offset: some of what is there.
func (w *world) batchFrom(partition int32, offset int64) []domain.Recorded {
	there := w.log[partition][min(offset, int64(len(w.log[partition]))):]
	return slices.Clone(there[:w.dice.IntN(len(there)+1)])
}

// projector folds for ever; it may fall asleep between reading and writing, so that another has taken its place, and it
// may start at a wrong place.
func (w *world) projector() {
	for {
		partition := int32(w.dice.IntN(simulatedPartitions))
		after := w.fold.next[partition]
		if after > 0 && w.fault(8) {
			after = w.dice.Int64N(after) // rewound: the group's committed offset was older
		}
		batch := w.batchFrom(partition, after)
		for range w.dice.IntN(4) {
			w.pause()
		}
		if w.fault(10) { // killed before its transaction
			continue
		}
		_ = w.apply(w.fold, partition, after, batch) // fenced: it looks where to go on
		w.pause()
	}
}

// clickhouse copies accepted commits; it may be killed between its insert and its checkpoint.
func (w *world) clickhouse() {
	for {
		partition := int32(w.dice.IntN(simulatedPartitions))
		after := w.seen[partition]
		batch := w.batchFrom(partition, after)
		end := after + int64(len(batch))
		for w.fold.next[partition] < end && !w.impatient {
			w.pause()
		}
		for _, record := range batch {
			if !w.fold.rejected[record.Position] {
				w.rows[fmt.Sprintf("%s@%d", record.Stream, record.Version())] = record.Commit
			}
			w.pause()
		}
		if !w.fault(6) {
			w.seen[partition] = max(end, w.seen[partition])
		}
		w.pause()
	}
}

// wire delivers late records.
func (w *world) wire() {
	for {
		if len(w.late) > 0 && (w.calm || w.dice.IntN(4) == 0) {
			i := w.dice.IntN(len(w.late))
			w.arrive(w.late[i])
			w.late = slices.Delete(w.late, i, i+1)
		}
		w.pause()
	}
}

// writer sends commands one after the other, each again under the same id until it hears a definite answer.
func (w *world) writer(node, commandCount int) {
	handler := commands.Handler[add, added, tally]{Aggregate: tallies, Store: commands.Store{
		Log: w, Streams: w, Outcomes: w, Queue: commands.NewQueue(),
		BackOff: func(context.Context, int) error { w.pause(); return nil },
	}}
	for i := range commandCount {
		stream := fmt.Sprintf("s%d", w.dice.IntN(3))
		name := fmt.Sprintf("%d.%d", node, i)
		meta := commands.Meta{Account: "acc"}
		meta.Inputs.Seed = [32]byte{byte(node), byte(i)}
		for attempt := byte(0); ; attempt++ {
			if w.freshCommandIDs {
				meta.Inputs.Seed[2] = attempt
			}
			if _, err := handler.Handle(context.Background(), stream, "add", meta, add{Name: name}); err == nil {
				break
			}
			w.pause()
		}
	}
}

// run lets the parties take turns until the writers are done and everything has arrived and been folded.
func (w *world) run(writers, each, patience int) string {
	parties := []func(){w.projector, w.projector, w.clickhouse, w.clickhouse, w.wire}
	for node := range writers {
		parties = append(parties, func() { w.writer(node, each) })
	}
	type running struct {
		next   func() (struct{}, bool)
		yield  func(struct{}) bool
		writer bool
	}
	alive := make([]*running, len(parties))
	for i, work := range parties {
		party := &running{writer: i >= len(parties)-writers}
		next, stop := iter.Pull(func(yield func(struct{}) bool) {
			party.yield = func(s struct{}) bool {
				if !yield(s) {
					panic(stopped{})
				}
				return true
			}
			w.yield = party.yield
			defer func() {
				if fault := recover(); fault != nil && fault != (stopped{}) {
					panic(fault)
				}
			}()
			work()
		})
		defer stop()
		party.next = next
		alive[i] = party
	}
	left := writers
	for range patience {
		i := w.dice.IntN(len(alive))
		party := alive[i]
		w.yield = party.yield
		if _, more := party.next(); !more {
			alive = slices.Delete(alive, i, i+1)
			left--
		}
		if left == 0 {
			w.calm = true
			if w.settled() {
				return w.judge(writers * each)
			}
		}
	}
	return "did not come to an end"
}

func (w *world) settled() bool {
	for p := range w.log {
		if end := int64(len(w.log[p])); w.fold.next[p] != end || w.seen[p] != end {
			return false
		}
	}
	return len(w.late) == 0
}

// judge compares everything with everything else.
func (w *world) judge(commandCount int) string {
	counts := map[string]int{}
	for id, stream := range w.fold.streams {
		for i, name := range stream.state.(tally).Names {
			counts[name]++
			if i%2 == 1 && name != stream.state.(tally).Names[i-1]+"'" {
				return fmt.Sprintf("%s: a commit's events do not stand together", id)
			}
		}
	}
	if len(counts) != 2*commandCount {
		return fmt.Sprintf("%d of %d commands are there", len(counts)/2, commandCount)
	}
	for name, count := range counts {
		if count != 1 {
			return fmt.Sprintf("command %s was applied %d times", name, count)
		}
	}
	again := newFold()
	for p := range w.log {
		for after := int64(0); after < int64(len(w.log[p])); {
			batch := w.batchFrom(int32(p), after)
			if err := w.apply(again, int32(p), after, batch); err != nil {
				return "rebuild: " + err.Error()
			}
			after += int64(len(batch))
		}
	}
	if !maps.Equal(again.rejected, w.fold.rejected) {
		return "a rebuild rejects other commits"
	}
	return w.compareRows(again)
}

func (w *world) compareRows(again *fold) string {
	rows := 0
	for id, stream := range w.fold.streams {
		rebuilt := again.streams[id]
		if rebuilt.version != stream.version || !slices.Equal(rebuilt.state.(tally).Names, stream.state.(tally).Names) {
			return fmt.Sprintf("%s: a rebuild folds another state", id)
		}
		for version := range stream.version {
			row, ok := w.rows[fmt.Sprintf("%s@%d", id, version+1)]
			if !ok || stream.commands[row.Command] != version+1 {
				return fmt.Sprintf("%s@%d: ClickHouse and Postgres disagree", id, version+1)
			}
			rows++
		}
	}
	if rows != len(w.rows) {
		return fmt.Sprintf("ClickHouse has %d commits, Postgres %d", len(w.rows), rows)
	}
	return ""
}
