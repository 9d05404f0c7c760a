package requestlog

// This file stands between an answered request and Kafka: the bounded queue of one node.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

// Publisher appends one bundle to the requests topic, durably.
type Publisher interface {
	Publish(ctx context.Context, payload []byte) error
}

// Keys finds the data key that seals an owner's entries.
type Keys interface {
	ForOwner(ctx context.Context, owner string) (commands.DataKey, error)
}

// Config bounds the queue.
type Config struct {
	// Node names this node in the gaps that it leaves. Required.
	Node string
	// MaxEntries and MaxBytes bound what waits, the bundle under way included. Past them entries are lost and counted.
	// Defaults: 50,000 and 64 MiB.
	MaxEntries int
	MaxBytes   int
	// BundleEntries and BundleBytes end a bundle. Defaults: 500 and 768 KiB, which stays below Kafka's 1 MiB with the
	// largest entry on top.
	BundleEntries int
	BundleBytes   int
	// Linger is how long a bundle that is not full waits for more. Default: 50 ms.
	Linger time.Duration
	// MaxBodyBytes is how much of each body is kept. Default: 64 KiB.
	MaxBodyBytes int
	// KeyPatience is how long a bundle waits for data keys that cannot be had. After it, entries go without their
	// personal half. Default: 30 s.
	KeyPatience time.Duration
	// PublishTimeout bounds one try to publish. Default: 10 s.
	PublishTimeout time.Duration
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Node == "" {
		faults = append(faults, errors.New("requestlog: Node is empty"))
	}
	if c.MaxEntries < 0 || c.MaxBytes < 0 || c.BundleEntries < 0 || c.BundleBytes < 0 || c.MaxBodyBytes < 0 {
		faults = append(faults, errors.New("requestlog: a bound is negative"))
	}
	if c.Linger < 0 || c.KeyPatience < 0 || c.PublishTimeout < 0 {
		faults = append(faults, errors.New("requestlog: a duration is negative"))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	c.MaxEntries = orDefault(c.MaxEntries, 50_000)
	c.MaxBytes = orDefault(c.MaxBytes, 64<<20)
	c.BundleEntries = orDefault(c.BundleEntries, 500)
	c.BundleBytes = orDefault(c.BundleBytes, 768<<10)
	c.Linger = orDefault(c.Linger, 50*time.Millisecond)
	c.MaxBodyBytes = orDefault(c.MaxBodyBytes, 64<<10)
	c.KeyPatience = orDefault(c.KeyPatience, 30*time.Second)
	c.PublishTimeout = orDefault(c.PublishTimeout, 10*time.Second)
	return c
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}

// Queue takes entries without ever waiting. One worker, Run, seals and publishes them in bundles.
type Queue struct {
	config    Config
	publisher Publisher
	log       *slog.Logger
	// The worker's own.
	sealer     *sealer
	compressor *zstd.Encoder

	mu      sync.Mutex
	waiting []projections.Request
	bytes   int     // of what waits and what is under way
	flying  *bundle // under way; empty between two
	losses  losses
	lost    uint64
	closing bool

	full    chan struct{} // holds a token when a bundle is full, or the queue closes
	some    chan struct{} // holds a token when something waits
	drained chan struct{} // closed when Run has ended
}

// NewQueue returns a queue; Run starts it.
func NewQueue(config Config, publisher Publisher, keys Keys, log *slog.Logger) (*Queue, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	return &Queue{
		config: config, publisher: publisher, sealer: newSealer(keys, config), log: log,
		compressor: newCompressor(), losses: losses{node: config.Node}, flying: &bundle{},
		full: make(chan struct{}, 1), some: make(chan struct{}, 1), drained: make(chan struct{}),
	}, nil
}

// Record takes an entry, or counts it as lost where the queue is full or closed. It does not wait, and keeps the
// entry's slices: they must not be changed afterwards.
func (q *Queue) Record(request projections.Request) {
	size := requestSize(request)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closing {
		q.lose(request, "closed")
		return
	}
	if len(q.waiting)+len(q.flying.requests) >= q.config.MaxEntries || q.bytes+size > q.config.MaxBytes {
		q.lose(request, "queue_full")
		return
	}
	q.waiting = append(q.waiting, request)
	q.bytes += size
	q.signal(q.some)
	if len(q.waiting) >= q.config.BundleEntries || q.bytes-q.flying.bytes >= q.config.BundleBytes {
		q.signal(q.full)
	}
}

// lose counts an entry that nobody will see.
func (q *Queue) lose(request projections.Request, why string) {
	q.lost++
	q.losses.add(request, why)
	q.signal(q.some) // so that the gap is written even if nothing else comes
}

func (q *Queue) signal(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// Lost counts the entries that the queue could not take, since the node's start.
func (q *Queue) Lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// Waiting counts the entries and bytes that have not been published yet.
func (q *Queue) Waiting() (entries, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + len(q.flying.requests), q.bytes
}

// Run publishes until Close has been called and nothing waits, or the context ends. It is called once.
func (q *Queue) Run(ctx context.Context) {
	defer close(q.drained)
	for {
		bundle, last := q.next(ctx)
		if len(bundle.requests) > 0 || len(bundle.gaps) > 0 {
			if err := q.publish(ctx, bundle); err != nil {
				q.giveUp(ctx, bundle, err)
				return
			}
			q.passed(bundle)
		}
		if last {
			return
		}
	}
}

// Close takes no more entries and waits until what waits has been published, or the context ends. What remains then is
// lost; the error says how much.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	q.closing = true
	q.signal(q.some)
	q.signal(q.full)
	q.mu.Unlock()
	select {
	case <-q.drained:
	case <-ctx.Done():
	}
	if entries, _ := q.Waiting(); entries > 0 {
		return fmt.Errorf("close the request log: %d entries are lost: %w", entries, context.Cause(ctx))
	}
	return nil
}

// giveUp says what the end of the process takes with it.
func (q *Queue) giveUp(ctx context.Context, bundle *bundle, err error) {
	entries, _ := q.Waiting()
	q.log.ErrorContext(ctx, "the request log ends with entries unpublished", "entries", entries, "gaps", len(bundle.gaps), "error", err)
}
