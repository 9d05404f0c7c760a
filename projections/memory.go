package projections

// This file stands before the fold: where the streams stand that a projector has folded lately, so that most batches need
// not ask for them.

import (
	"time"

	"github.com/nidohq/nido/domain"
)

// memoryBytes bounds what is remembered of one partition, by the states' JSON: twice this, some ten thousand streams.
const memoryBytes = 2 << 20

// rememberedBytes is what a stream costs beside its state.
const rememberedBytes = 128

// memory is where streams of a partition stand behind one checkpoint. The tables behind a checkpoint are the same whoever
// folded them, and so what is remembered holds for any batch whose compare-and-set finds that checkpoint, and for no other.
// It only saves a question: a stream that is not where it is remembered to be fails the batch, which then asks.
type memory struct {
	after      int64     // the checkpoint
	clock      time.Time // the log's, there
	young, old map[domain.StreamID]stream
	bytes      int // of young
}

// recall returns what is known behind a checkpoint, or nil, and forgets it: a batch that fails leaves nothing behind.
func (p *Postgres) recall(partition int32, after int64) *memory {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.memories[partition]
	delete(p.memories, partition)
	if known == nil || known.after != after {
		return nil
	}
	return known
}

// remember keeps what a batch has left behind its last record; known is what was there before it, or nil.
func (p *Postgres) remember(partition int32, known *memory, work *work, last int64) {
	if known == nil {
		known = &memory{young: map[domain.StreamID]stream{}}
	}
	known.after, known.clock = last, work.clock
	for id, at := range work.streams {
		if at.version > 0 {
			known.add(id, stream{version: at.version, before: at.version, stored: at.stored, state: at.state, bytes: at.bytes})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memories[partition] = known
}

func (m *memory) add(id domain.StreamID, at stream) {
	if at.state != nil {
		at.stored = nil // of before
	}
	if _, known := m.young[id]; !known {
		m.bytes += rememberedBytes + at.bytes
	}
	m.young[id] = at
	if m.bytes > memoryBytes {
		m.old, m.young, m.bytes = m.young, map[domain.StreamID]stream{}, 0
	}
}

// standing says where the streams of a batch stand, if that can be told without asking. A stream that is not remembered is
// taken to be new where its commit says so; the insert of its row fails if it is not.
func (m *memory) standing(batch []domain.Recorded) (map[domain.StreamID]*stream, bool) {
	if m == nil {
		return nil, false
	}
	standing := make(map[domain.StreamID]*stream, len(batch))
	for _, record := range batch {
		if record.Skipped || standing[record.Stream] != nil {
			continue
		}
		at, known := m.young[record.Stream]
		if !known {
			at, known = m.old[record.Stream]
		}
		if !known && (record.Base > 0 || !storable(string(record.Stream))) {
			return nil, false
		}
		standing[record.Stream] = &at
	}
	return standing, true
}
