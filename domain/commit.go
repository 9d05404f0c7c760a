package domain

// This file stands between decision and log: the unit that the log keeps, and where it keeps it.

import (
	"encoding/json"
	"strings"
	"time"
)

// StreamID names a stream as "<kind>-<name>", for example "agent-agt_7f3k…". The kind has no hyphen.
type StreamID string

// NewStreamID builds the id of the stream that holds one aggregate of the given kind.
func NewStreamID(kind, name string) StreamID { return StreamID(kind + "-" + name) }

// Kind is the part before the first hyphen: the aggregate's kind.
func (id StreamID) Kind() string {
	kind, _, _ := strings.Cut(string(id), "-")
	return kind
}

// Name is the part behind the first hyphen: which one of its kind.
func (id StreamID) Name() string {
	_, name, _ := strings.Cut(string(id), "-")
	return name
}

// Version counts the commits that a stream has accepted; zero is the empty stream.
type Version int64

// Position is a record's place in the log's topic.
type Position struct {
	Partition int32
	Offset    int64
}

// Actor says who caused a commit: a key, an operator, or a part of Nido itself.
type Actor struct {
	Kind string `json:"kind"` // "key", "operator" or "system"
	ID   string `json:"id"`
}

// Stored is an event as the log keeps it: an explicit name and schema number, and its JSON.
type Stored struct {
	Type   string          `json:"type"`
	Schema int             `json:"schema"`
	Data   json.RawMessage `json:"data"`
}

// Commit is what one command adds to one stream: all of its events or none. It is one record in the log.
//
// A commit happens if and only if its stream stands exactly at Base when the fold reaches the record; of several
// commits on the same base the smallest offset wins. That is the whole of Nido's concurrency control.
type Commit struct {
	Stream  StreamID  `json:"stream"`
	Base    Version   `json:"base"`
	Command string    `json:"command"` // the command's id: a retry carries the same one
	Account string    `json:"account"`
	Actor   Actor     `json:"actor"`
	Time    time.Time `json:"time"`
	Trace   string    `json:"trace,omitempty"` // W3C traceparent of the request that caused it
	Events  []Stored  `json:"events"`
}

// Version is the version of the stream once the commit has been accepted.
func (c Commit) Version() Version { return c.Base + 1 }

// Recorded is a commit at its place in the log, accepted or not.
type Recorded struct {
	Position
	Commit
	Hash []byte // SHA-256 of the record's key and value, for the checkpoint's comparison with the log
	// Skipped says that an operator has decided to pass over the record: it has a place and a hash, but no commit.
	Skipped bool
}

// Snapshot is what a decision is based on, all read at one instant: the stream's version, its folded state, and
// whether the command that is about to be decided has been committed before.
type Snapshot struct {
	Version   Version
	State     []byte  // JSON of the aggregate's State; empty for the empty stream
	Committed Version // the version at which this command was committed, 0 if it was not
}

// Accepts is the rule of the log, in one place: whether a commit on base happens to a stream that stands at current.
func Accepts(current, base Version) bool { return current == base }
