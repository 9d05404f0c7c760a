package projections

// This file stands behind the append: how whoever wrote to the log learns that the fold has passed it, and who won.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nidohq/nido/domain"
)

const (
	// lookInterval is how often the checkpoints are read while somebody has waited at least that long: a notification may
	// have been lost with its connection.
	lookInterval = 100 * time.Millisecond
	// lookPatience bounds one such read.
	lookPatience = 2 * time.Second
	// blindPatience is for how long the checkpoints may be out of sight before those who wait hear that. Behind each of
	// them stands a caller, who must not wait for Postgres to come back.
	blindPatience = 500 * time.Millisecond
)

// ErrBlind says that the tables cannot be asked how far the fold is. What was waited for may have happened or not.
var ErrBlind = errors.New("how far the fold is cannot be seen")

// Progress knows how far the Postgres fold has come, by listening to its notifications on one connection, and by reading
// the checkpoints where those are missing. What it remembers is a hint that saves queries; it never answers from it what
// the tables would not.
type Progress struct {
	pool   *pgxpool.Pool
	schema string
	log    *slog.Logger

	mu    sync.Mutex
	parts map[int32]*partition
	tick  int64 // counts the intervals, to know who has waited longer than one

	blind time.Time // since when looking has failed; zero where it has not. Only Run's own goroutine touches it
}

// NewProgress follows the fold into a schema, which must be the first in the search path of the pool. Nobody is told
// anything before Run runs.
func NewProgress(pool *pgxpool.Pool, schema string, log *slog.Logger) *Progress {
	return &Progress{pool: pool, schema: schema, log: log, parts: map[int32]*partition{}}
}

// Run listens until the context ends, and returns its cause. It connects again by itself.
func (p *Progress) Run(ctx context.Context) error {
	heard := make(chan announcement, 256)
	connected := make(chan struct{}, 1)
	var listening sync.WaitGroup
	listening.Go(func() { p.listenAlways(ctx, heard, connected) })
	defer listening.Wait()

	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case news := <-heard:
			if complete := p.advance(news); !complete {
				p.look(ctx)
			}
		case <-connected:
			p.look(ctx) // what happened before is not announced again
		case <-ticker.C:
			if p.somebodyWaitsLong() {
				p.look(ctx)
			}
		}
	}
}

// Wait returns once the fold has passed the position: whether the commit there was accepted.
func (p *Progress) Wait(ctx context.Context, position domain.Position) (accepted bool, err error) {
	rejected, err := p.Rejected(ctx, position.Partition, position.Offset, position.Offset)
	return err == nil && len(rejected) == 0, err
}

// Rejected returns, in order, which commits lost among the offsets first to last of a partition, once the fold has
// passed the last of them.
func (p *Progress) Rejected(ctx context.Context, part int32, first, last int64) ([]int64, error) {
	for {
		waiter, rejected, known := p.enter(part, first, last)
		if known {
			return rejected, nil
		}
		if waiter == nil { // passed, but too long ago to be remembered
			rejected, passed, err := p.ask(ctx, part, first, last)
			if err != nil || passed {
				return rejected, err
			}
			p.forget(part) // the tables are behind what was remembered: they are being folded anew
			continue
		}
		select {
		case rejected, ok := <-waiter.told:
			if ok {
				return rejected, nil
			}
			if waiter.blind {
				return nil, fmt.Errorf("wait for %d:%d: %w", part, last, ErrBlind)
			}
			continue // passed, but nobody has said who lost
		case <-ctx.Done():
			p.leave(part, waiter)
			return nil, fmt.Errorf("wait for %d:%d: %w", part, last, context.Cause(ctx))
		}
	}
}

// ask reads the checkpoint and the rejections below it in one snapshot.
func (p *Progress) ask(ctx context.Context, part int32, first, last int64) (rejected []int64, passed bool, err error) {
	const query = `
		SELECT ARRAY(SELECT r.off FROM rejections r WHERE r.part = $1 AND r.off BETWEEN $2 AND $3 ORDER BY r.off)
		FROM checkpoints c WHERE c.part = $1 AND c.off >= $3`
	err = p.pool.QueryRow(ctx, query, part, first, last).Scan(&rejected)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read who lost in %d:%d-%d: %w", part, first, last, err)
	}
	return rejected, true, nil
}

// Checkpoint returns the last offset of a partition that is known to be folded, -1 for none, without asking the tables.
func (p *Progress) Checkpoint(part int32) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.parts[part]; ok {
		return known.passed
	}
	return -1
}

// Checkpoints reads from the tables how far every partition has been folded. A partition without a checkpoint is absent.
func (p *Progress) Checkpoints(ctx context.Context) (map[int32]int64, error) {
	return checkpoints(ctx, p.pool)
}

// CheckpointsOn is the same on one connection: how far the server behind it is.
func CheckpointsOn(ctx context.Context, conn *pgx.Conn) (map[int32]int64, error) {
	return checkpoints(ctx, conn)
}

// look reads from the tables what has happened since the last thing that is known, and tells whoever it concerns.
func (p *Progress) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	began, known := time.Now(), p.passed()
	found, err := p.sightings(limited, known)
	if err != nil {
		if ctx.Err() == nil {
			p.lost(ctx, began, err)
		}
		return
	}
	if !p.blind.IsZero() {
		p.log.InfoContext(ctx, "sees how far the fold is again", "after", time.Since(p.blind))
		p.blind = time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for part := range known {
		if _, ok := found[part]; !ok {
			p.part(part).set(-1) // the tables have been replaced by empty ones
		}
	}
	for part, seen := range found {
		at := p.part(part)
		if from, ok := known[part]; ok && seen.Rejected != nil && at.passed == from && seen.Off > from {
			at.advance(announcement{First: from + 1, Last: seen.Off, Rejected: seen.Rejected})
		} else {
			at.set(seen.Off)
		}
	}
}

// lost takes in that the tables could not be read, and after a while tells those who have waited for longer than an
// interval. Whoever has just come waits for the next look: it may be the one that succeeds.
func (p *Progress) lost(ctx context.Context, began time.Time, err error) {
	if p.blind.IsZero() {
		p.blind = began
		p.log.WarnContext(ctx, "cannot see how far the fold is", "error", err)
	}
	if time.Since(p.blind) < blindPatience {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range p.parts {
		part.dismiss(func(w *waiter) bool { return p.tick-w.since > 1 })
	}
}

// sighting is how far a partition has been folded, and who lost since what was known; nil where that is too long ago.
type sighting struct {
	Part     int32   `db:"part"`
	Off      int64   `db:"off"`
	Rejected []int64 `db:"rejected"`
}

func (p *Progress) sightings(ctx context.Context, known map[int32]int64) (map[int32]sighting, error) {
	const query = `
		SELECT c.part, c.off, CASE WHEN c.off - k.passed BETWEEN 0 AND $3 THEN ARRAY(
			SELECT r.off FROM rejections r WHERE r.part = c.part AND r.off > k.passed AND r.off <= c.off ORDER BY r.off
		) END AS rejected
		FROM checkpoints c LEFT JOIN unnest($1::integer[], $2::bigint[]) AS k (part, passed) ON k.part = c.part`
	parts, passed := make([]int32, 0, len(known)), make([]int64, 0, len(known))
	for part, off := range known {
		parts, passed = append(parts, part), append(passed, off)
	}
	rows, err := all[sighting](ctx, p.pool, "read the checkpoints", query, parts, passed, int64(remember))
	if err != nil {
		return nil, err
	}
	found := make(map[int32]sighting, len(rows))
	for _, row := range rows {
		found[row.Part] = row
	}
	return found, nil
}

// passed is how far every partition is known to be folded.
func (p *Progress) passed() map[int32]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := make(map[int32]int64, len(p.parts))
	for part, at := range p.parts {
		known[part] = at.passed
	}
	return known
}

// advance takes an announcement in, unless it leaves open who lost.
func (p *Progress) advance(news announcement) (complete bool) {
	if news.Schema != p.schema {
		return true // another generation is being filled
	}
	if news.Rejected == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part(news.Partition).advance(news)
	return true
}

func (p *Progress) part(number int32) *partition {
	known, ok := p.parts[number]
	if !ok {
		known = newPartition()
		p.parts[number] = known
	}
	return known
}

// enter answers from memory, or registers a waiter, or returns neither: passed, but not remembered.
func (p *Progress) enter(part int32, first, last int64) (w *waiter, rejected []int64, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.part(part)
	if last <= at.passed {
		rejected, known = at.remembered(first, last)
		return nil, rejected, known
	}
	w = &waiter{first: first, last: last, since: p.tick, told: make(chan []int64, 1)}
	at.add(w)
	return w, nil, false
}

func (p *Progress) leave(part int32, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part(part).remove(w)
}

// forget drops what is remembered of a partition, so that the next who asks waits for the tables.
func (p *Progress) forget(part int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part(part).set(-1)
}

// somebodyWaitsLong counts an interval, and reports whether anybody has waited for all of it.
func (p *Progress) somebodyWaitsLong() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tick++
	for _, part := range p.parts {
		for _, w := range part.waiters {
			if p.tick-w.since > 1 {
				return true
			}
		}
	}
	return false
}

// Passed returns once the fold has passed the position.
func (p *Progress) Passed(ctx context.Context, position domain.Position) error {
	_, err := p.Rejected(ctx, position.Partition, position.Offset, position.Offset)
	return err
}
