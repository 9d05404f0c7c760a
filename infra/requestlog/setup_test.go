package requestlog

// This file stands below the tests: data keys without a keyring, and a topic that can be out of reach.

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/projections"
)

// ring makes a data key for whoever asks and opens what they sealed, until they are destroyed.
type ring struct {
	mu        sync.Mutex
	destroyed map[string]bool
	down      error
	asked     map[string]int
}

func newRing() *ring { return &ring{destroyed: map[string]bool{}, asked: map[string]int{}} }

type ringKey string

func (k ringKey) ID() string { return string(k) }

func (k ringKey) Seal(plain []byte) domain.Sealed {
	return domain.Sealed{Key: string(k), Data: turned(plain)}
}

func (k ringKey) Open(sealed domain.Sealed) ([]byte, error) { return turned(sealed.Data), nil }

func turned(text []byte) []byte {
	text = bytes.Clone(text)
	for i := range text {
		text[i] ^= 0x55
	}
	return text
}

func (r *ring) ForOwner(_ context.Context, owner string) (commands.DataKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[owner]++
	if r.destroyed["dk_"+owner] {
		return nil, keyring.ErrDestroyed
	}
	return ringKey("dk_" + owner), r.down
}

func (r *ring) Open(_ context.Context, texts []domain.Sealed) ([][]byte, []bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	plain, erased := make([][]byte, len(texts)), make([]bool, len(texts))
	for i, text := range texts {
		if erased[i] = r.destroyed[text.Key]; !erased[i] && !text.IsZero() {
			plain[i] = turned(text.Data)
		}
	}
	return plain, erased, nil
}

// topic keeps what is published, while it can be reached.
type topic struct {
	mu       sync.Mutex
	payloads [][]byte
	down     bool
	late     bool // the record arrives, its acknowledgement does not
	tries    int
}

var errDown = errors.New("no broker answers")

func (p *topic) Publish(ctx context.Context, payload []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries++
	if p.down || ctx.Err() != nil {
		return errDown
	}
	p.payloads = append(p.payloads, payload)
	if p.late {
		p.late = false
		return errDown
	}
	return nil
}

func (p *topic) set(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// read decodes everything that was published.
func (p *topic) read(t testing.TB, keys *ring) (requests []projections.Request, gaps []projections.Gap) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, payload := range p.payloads {
		found, sealed, err := decodeBundle(payload)
		if err != nil {
			t.Fatal(err)
		}
		plain, erased, err := keys.Open(t.Context(), sealed)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range found.Entries {
			request, err := e.join(plain[i], erased[i])
			if err != nil {
				t.Fatal(err)
			}
			requests = append(requests, request)
		}
		for _, g := range found.Gaps {
			gaps = append(gaps, projections.Gap(g))
		}
	}
	return requests, gaps
}
