package commands

// This file stands at the edges of the write side: what it needs of the log, the fold and the stores, each interface
// as small as its caller.

import (
	"context"
	"errors"
	"time"

	"github.com/nidohq/nido/domain"
)

// Errors that are nobody's refusal. All of them are worth a retry by the caller.
var (
	// ErrUnknownOutcome: the commit was handed to the log, which did not say whether it has it. A retry with the same
	// command id finds out.
	ErrUnknownOutcome = errors.New("the log did not confirm the commit")
	// ErrUnavailable: the commit was not handed to the log, or a store could not be asked.
	ErrUnavailable = errors.New("a store is unavailable")
	// ErrConflict: other commits kept winning on this stream.
	ErrConflict = errors.New("other commits won on this stream")
)

// Log appends commits.
type Log interface {
	// Append returns once the commit is durable, with its position. Its errors wrap ErrUnknownOutcome wherever the
	// commit may have arrived nevertheless, ErrUnavailable otherwise.
	Append(ctx context.Context, commit domain.Commit) (domain.Position, error)
}

// Streams reads what a decision is based on.
type Streams interface {
	// Load reads a stream's version, its state and whether the command has been committed to it, in one SQL snapshot.
	Load(ctx context.Context, stream domain.StreamID, command string) (domain.Snapshot, error)
}

// Outcomes knows how far the Postgres fold has come.
type Outcomes interface {
	// Wait returns once the fold has passed the position: whether the commit there was accepted.
	Wait(ctx context.Context, position domain.Position) (accepted bool, err error)
}

// Keyring seals and opens text with data keys that can be destroyed.
type Keyring interface {
	// Create makes the data key for a stream or an account and returns it once it is durable.
	Create(ctx context.Context, owner string) (DataKey, error)
	// Find returns the data keys with these ids. A key that was destroyed is absent from the answer's map and present
	// in the tombstones.
	Find(ctx context.Context, ids ...string) (keys map[string]DataKey, destroyed map[string]bool, err error)
}

// DataKey seals and opens.
type DataKey interface {
	ID() string
	Seal(plain []byte) domain.Sealed
	// Open fails where the sealed text names another key or was tampered with.
	Open(sealed domain.Sealed) ([]byte, error)
}

// Clock tells the time; the tests' one stands still.
type Clock func() time.Time
