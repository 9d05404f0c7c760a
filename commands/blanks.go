package commands

// This file stands before the first message of a conversation whose client leaves its id to us: the id is drawn, and its data
// key durable, before anybody asks. A message waits for no key then.

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nidohq/nido/domain/conversation"
)

// Blank is a conversation that nobody has begun. What it holds are names: whether its key is still there, and its owner's,
// is asked when a message comes for it, with all else that the message depends on.
type Blank struct {
	ID  string // for the client
	Mac string // of that id
	Key string // the id of its data key
}

// KeyMaker makes data keys ahead.
type KeyMaker interface {
	// CreateAll makes a data key for each owner and returns their ids, in order, once all of them are durable.
	CreateAll(ctx context.Context, owners ...string) (ids []string, err error)
	// Index is the HMAC by which a client's id goes in names.
	Index(clientID string) string
}

const (
	// fewBlanks is how many are made for an agent whose first conversation has begun, mostBlanks how many may lie ready for one that
	// is asked faster than they are made. More are made when a part of them is left, so that most messages wait for no disk
	// that is busy with that.
	fewBlanks, mostBlanks, againBelow = 8, 64, 4
	// allBlanks bounds those of all agents. They are forgotten with the process, and their keys, which nothing names, stay
	// behind: about 250 bytes each.
	allBlanks = 2048
	// blankPatience bounds the making of some, and is how long nobody tries again where it failed.
	blankPatience = 5 * time.Second
)

// Blanks are those of this node, by the door through which messages come: an agent's id or its slug.
type Blanks struct {
	keys KeyMaker
	now  Clock
	log  *slog.Logger

	mu      sync.Mutex
	doors   map[string]*blankDoor
	count   int // of blanks at all doors, those that are being made included
	closed  bool
	making  sync.WaitGroup
	failing time.Time // until then nothing is made
}

// blankDoor is what lies ready at one door.
type blankDoor struct {
	agent  string // that it led to last
	ready  []Blank
	wanted int // how many shall lie ready
	making int
	used   time.Time
}

// NewBlanks makes none yet.
func NewBlanks(keys KeyMaker, now Clock, log *slog.Logger) *Blanks {
	return &Blanks{keys: keys, now: now, log: log, doors: map[string]*blankDoor{}}
}

// Take takes one, if there is one. It is nobody else's from then on.
func (b *Blanks) Take(door string) (Blank, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.doors[door]
	if at == nil {
		return Blank{}, false
	}
	last := len(at.ready) - 1
	if last < 0 {
		at.wanted = min(2*at.wanted, mostBlanks) // they are asked for faster than they are made
		return Blank{}, false
	}
	taken := at.ready[last]
	at.ready = at.ready[:last]
	b.count--
	return taken, true
}

// GiveBack is for one whose message was refused before anything was done with it.
func (b *Blanks) GiveBack(door string, blank Blank) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at := b.doors[door]; at != nil && b.count < allBlanks {
		at.ready = append(at.ready, blank)
		b.count++
	}
}

// Begun notes that a conversation has begun at a door, with one of ours or for want of one, and has more made.
func (b *Blanks) Begun(ctx context.Context, door, agent string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	at := b.doors[door]
	switch {
	case b.closed || now.Before(b.failing):
		return
	case at == nil:
		at = &blankDoor{agent: agent, wanted: fewBlanks}
		b.doors[door] = at
	case at.agent != agent: // the slug is another agent's now; keys are made for streams, which are named after the agent
		b.count -= len(at.ready)
		at.agent, at.ready = agent, nil
	}
	at.used = now
	if len(at.ready)+at.making > at.wanted/againBelow {
		return
	}
	n := at.wanted - len(at.ready) - at.making
	b.makeRoom(at, n)
	if b.count+n > allBlanks {
		return
	}
	at.making += n
	b.count += n
	b.making.Go(func() { b.make(context.WithoutCancel(ctx), at, agent, n) })
}

// makeRoom forgets what lies at the doors that were not used for the longest time.
func (b *Blanks) makeRoom(at *blankDoor, n int) {
	for b.count+n > allBlanks {
		oldest := ""
		for name, other := range b.doors {
			if other != at && other.making == 0 && (oldest == "" || other.used.Before(b.doors[oldest].used)) {
				oldest = name
			}
		}
		if oldest == "" {
			return
		}
		b.count -= len(b.doors[oldest].ready)
		delete(b.doors, oldest)
	}
}

func (b *Blanks) make(ctx context.Context, at *blankDoor, agent string, n int) {
	ctx, cancel := context.WithTimeout(ctx, blankPatience)
	defer cancel()
	made, owners := make([]Blank, n), make([]string, n)
	for i := range made {
		id := NewInputs(b.now()).ID("conv")
		made[i] = Blank{ID: id, Mac: b.keys.Index(id)}
		owners[i] = string(conversation.Aggregate.Stream(agent + "." + made[i].Mac))
	}
	keys, err := b.keys.CreateAll(ctx, owners...)
	b.mu.Lock()
	defer b.mu.Unlock()
	at.making -= n
	if err != nil || at.agent != agent {
		b.count -= n
	}
	switch {
	case err != nil:
		b.failing = b.now().Add(blankPatience)
		b.log.WarnContext(ctx, "no conversations made ahead", "agent", agent, "error", err)
	case at.agent == agent:
		for i, key := range keys {
			made[i].Key = key
		}
		at.ready = append(at.ready, made...)
	}
}

// Close waits for those that are being made.
func (b *Blanks) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.making.Wait()
}
