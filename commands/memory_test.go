package commands_test

// This file stands in for the log and the fold where the real engines add nothing: one partition, folded as soon as a
// record arrives, by the rule of the log. What goes wrong on the way is scripted.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/host"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fate is what happens to a commit on its way to the log.
type fate int

const (
	arrives  fate = iota
	lost          // it never arrives, and its sender hears nothing
	unheard       // it arrives, and its sender hears nothing
	withheld      // its sender hears nothing; it arrives when the test lets it
	refused       // the log cannot be reached
	unfolded      // it arrives, and the fold's word on it does not
)

// memory is log, fold and streams in one.
type memory struct {
	fates  func(domain.Commit) fate // nil: everything arrives
	before func(domain.Commit)      // runs ahead of an append: what others do meanwhile

	mu       sync.Mutex
	log      []domain.Recorded
	rejected map[int64]bool
	streams  map[domain.StreamID]*memoryStream
	held     []domain.Commit
	loads    int
	loadErr  error
}

type memoryStream struct {
	version  domain.Version
	state    any
	commands map[string]domain.Version
}

var folders = map[string]domain.Folder{
	"account": account.Aggregate, "agent": agent.Aggregate, "apikey": apikey.Aggregate,
	"conversation": conversation.Aggregate, "host": host.Aggregate, "tally": tallies,
}

func newMemory() *memory {
	return &memory{rejected: map[int64]bool{}, streams: map[domain.StreamID]*memoryStream{}}
}

func (m *memory) store() commands.Store {
	return commands.Store{
		Log: m, Streams: m, Outcomes: m, Queue: commands.NewQueue(),
		BackOff: func(ctx context.Context, _ int) error { return context.Cause(ctx) },
	}
}

// Append implements commands.Log.
func (m *memory) Append(ctx context.Context, commit domain.Commit) (domain.Position, error) {
	if ctx.Err() != nil {
		return domain.Position{}, fmt.Errorf("%w: %w", commands.ErrUnavailable, context.Cause(ctx))
	}
	if m.before != nil {
		m.before(commit)
	}
	fate := arrives
	if m.fates != nil {
		fate = m.fates(commit)
	}
	switch fate {
	case lost:
		return domain.Position{}, commands.ErrUnknownOutcome
	case refused:
		return domain.Position{}, commands.ErrUnavailable
	case withheld:
		m.mu.Lock()
		defer m.mu.Unlock()
		m.held = append(m.held, commit)
		return domain.Position{}, commands.ErrUnknownOutcome
	}
	position := m.arrive(commit)
	switch fate {
	case unheard:
		return domain.Position{}, commands.ErrUnknownOutcome
	case unfolded:
		return domain.Position{Partition: 1, Offset: position.Offset}, nil
	}
	return position, nil
}

// arrive puts a commit at the log's end and folds it.
func (m *memory) arrive(commit domain.Commit) domain.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	offset := int64(len(m.log))
	m.log = append(m.log, domain.Recorded{Position: domain.Position{Offset: offset}, Commit: commit})
	stream := m.streams[commit.Stream]
	if stream == nil {
		stream = &memoryStream{commands: map[string]domain.Version{}}
		m.streams[commit.Stream] = stream
	}
	if !domain.Accepts(stream.version, commit.Base) {
		m.rejected[offset] = true
		return domain.Position{Offset: offset}
	}
	folded, err := folders[commit.Stream.Kind()].Fold(stream.state, nil, commit.Events)
	if err != nil {
		panic(err)
	}
	stream.version, stream.state = commit.Version(), folded.State
	stream.commands[commit.Command] = stream.version
	return domain.Position{Offset: offset}
}

// release lets what was withheld arrive.
func (m *memory) release() {
	m.mu.Lock()
	held := m.held
	m.held = nil
	m.mu.Unlock()
	for _, commit := range held {
		m.arrive(commit)
	}
}

// Load implements commands.Streams.
func (m *memory) Load(ctx context.Context, id domain.StreamID, command string) (domain.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	if err := cmp.Or(context.Cause(ctx), m.loadErr); err != nil {
		return domain.Snapshot{}, err
	}
	stream := m.streams[id]
	if stream == nil {
		return domain.Snapshot{}, nil
	}
	state, err := folders[id.Kind()].EncodeState(stream.state)
	return domain.Snapshot{Version: stream.version, State: state, Committed: stream.commands[command]}, err
}

var errNoWord = errors.New("no word of the fold")

// Wait implements commands.Outcomes.
func (m *memory) Wait(ctx context.Context, position domain.Position) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if position.Partition != 0 {
		return false, errNoWord
	}
	return !m.rejected[position.Offset], nil
}

// snapshot is what the chat's one query reads of a stream.
func (m *memory) snapshot(t *testing.T, id domain.StreamID) domain.Snapshot {
	t.Helper()
	snapshot, err := m.Load(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// commits are all records of the log, accepted or not.
func (m *memory) commits() []domain.Recorded {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// happened are the commits that were accepted.
func (m *memory) happened() []domain.Recorded {
	return slices.DeleteFunc(m.commits(), func(record domain.Recorded) bool { return m.isRejected(record.Offset) })
}

// accepted are the events that happened, decoded, stream by stream in the log's order.
func (m *memory) accepted(t *testing.T, kind string) []any {
	t.Helper()
	var events []any
	for _, record := range m.commits() {
		if record.Stream.Kind() != kind || m.isRejected(record.Offset) {
			continue
		}
		folded, err := folders[kind].Fold(nil, nil, record.Events)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, folded.Events...)
	}
	return events
}

func (m *memory) isRejected(offset int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rejected[offset]
}

func (m *memory) loadCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loads
}

// holdsNowhere fails if one of the texts stands in any record.
func (m *memory) holdsNowhere(t *testing.T, texts ...string) {
	t.Helper()
	for _, record := range m.commits() {
		data, err := json.Marshal(record.Commit)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if strings.Contains(string(data), text) || strings.Contains(bytesOf(t, record), text) {
				t.Errorf("%q stands in the log: %s", text, data)
			}
		}
	}
}

// bytesOf spells out what a record's events hold, sealed bytes as they are and not in base64.
func bytesOf(t *testing.T, record domain.Recorded) string {
	t.Helper()
	folded, err := folders[record.Stream.Kind()].Fold(nil, nil, record.Events)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s", folded.Events)
}

// typesOf names stored events, commit by commit: "conversation.started message.received".
func typesOf(records []domain.Recorded) []string {
	types := make([]string, len(records))
	for i, record := range records {
		var names []string
		for _, event := range record.Events {
			names = append(names, event.Type)
		}
		types[i] = strings.Join(names, " ")
	}
	return types
}
