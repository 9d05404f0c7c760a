package requestlog

// This file stands inside the queue: what its worker does with a bundle, and for how long it tries.

import (
	"context"
	"time"

	"github.com/nidohq/nido/projections"
)

// bundle is what travels together.
type bundle struct {
	requests []projections.Request
	gaps     []projections.Gap
	bytes    int // as the queue counts them
}

// The waits between tries. An outage is over when the first try after it works, so the longest wait is short.
const (
	firstBackoff   = 50 * time.Millisecond
	longestBackoff = 2 * time.Second
)

// next waits for a bundle: until one is full, or its oldest entry has waited long enough, or the queue closes. The last
// one comes when nothing more will.
func (q *Queue) next(ctx context.Context) (next *bundle, last bool) {
	select {
	case <-q.some:
	case <-ctx.Done():
	}
	linger := time.NewTimer(q.config.Linger)
	defer linger.Stop()
	select {
	case <-q.full:
	case <-linger.C:
	case <-ctx.Done():
	}
	return q.take(ctx)
}

// take cuts a bundle off the queue. Its entries go on counting until they have been published.
func (q *Queue) take(ctx context.Context) (next *bundle, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next = &bundle{gaps: q.losses.take()}
	n := 0
	for n < len(q.waiting) && n < q.config.BundleEntries && next.bytes < q.config.BundleBytes {
		next.bytes += requestSize(q.waiting[n])
		n++
	}
	next.requests = q.waiting[:n:n]
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.flying = next
	if len(q.waiting) > 0 {
		q.signal(q.some)
		if len(q.waiting) >= q.config.BundleEntries || q.closing {
			q.signal(q.full)
		}
	}
	return next, (q.closing || ctx.Err() != nil) && len(q.waiting) == 0
}

// passed forgets a bundle that has been published.
func (q *Queue) passed(b *bundle) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= b.bytes
	q.flying = &bundle{}
}

// publish seals a bundle and appends it, as often as it takes: only the end of the context stops it. Meanwhile entries
// wait in the queue, and once it is full they are counted. A try whose outcome is unknown is followed by one with the
// same ids, which write the same rows.
func (q *Queue) publish(ctx context.Context, b *bundle) error {
	payload, err := q.encode(ctx, b)
	if err != nil {
		return err
	}
	for backoff := firstBackoff; ; backoff = min(2*backoff, longestBackoff) {
		err := q.try(ctx, payload)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if backoff == firstBackoff {
			q.log.WarnContext(ctx, "the request log cannot be published; entries wait", "entries", len(b.requests), "error", err)
		}
		if err := wait(ctx, backoff); err != nil {
			return err
		}
	}
}

func (q *Queue) try(ctx context.Context, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, q.config.PublishTimeout)
	defer cancel()
	return q.publisher.Publish(ctx, payload)
}

func (q *Queue) encode(ctx context.Context, b *bundle) ([]byte, error) {
	entries, sealed, err := q.sealer.seal(ctx, b.requests, q.log)
	if err != nil {
		return nil, err
	}
	gaps := make([]gap, len(b.gaps))
	for i, g := range b.gaps {
		gaps[i] = gap(g)
	}
	return encodeBundle(q.compressor, entries, sealed, gaps)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// requestSize is about what an entry takes in memory.
func requestSize(r projections.Request) int {
	size := 512 + len(r.Path) + len(r.Query) + len(r.ConversationID) + len(r.UserAgent) +
		len(r.RequestBody.Text) + len(r.ResponseBody.Text)
	for _, list := range [][]projections.Header{r.RequestHeaders, r.ResponseHeaders} {
		for _, header := range list {
			size += len(header.Name) + len(header.Value) + 32
		}
	}
	return size
}
