package commands

// This file stands behind the chat turn: the life signs by which nodes know of each other, and who is dead by them.

import (
	"context"
	"log/slog"
	"time"
)

// Boot is a process' life sign: a number that it raises every few seconds.
type Boot struct {
	ID   string
	Beat int64
}

// Boots keeps the life signs of all nodes.
type Boots interface {
	Beat(ctx context.Context, id string) error
	All(ctx context.Context) ([]Boot, error)
	Remove(ctx context.Context, ids ...string) error
}

// Beat gives life signs of a boot until the context ends. One that is not taken before the next is due is given up: a boot
// that is silent for half a minute is dead to everybody else, whatever holds it up.
func Beat(ctx context.Context, boots Boots, id string, every time.Duration, log *slog.Logger) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := beat(ctx, boots, id, every); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "no life sign given", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func beat(ctx context.Context, boots Boots, id string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return boots.Beat(ctx, id)
}

// sighting is a boot's beat and when this process first saw it. Only this process' monotonic clock judges: a boot is
// not dead because two machines disagree about the time, nor because Postgres could not be asked for a while.
type sighting struct {
	beat  int64
	since time.Time
}

// judge says which boots live. Time in which nothing could be read counts for nobody's death, and brings back nobody who had
// been silent for long enough before it.
func (s *Sweeper) judge(boots []Boot, now time.Time) (living, dead []string) {
	blind := !s.last.IsZero() && now.Sub(s.last) > 2*s.Every+time.Second
	wasDead := func(seen sighting) bool { return s.last.Sub(seen.since) >= s.BootDead }
	seen := make(map[string]sighting, len(boots))
	for _, boot := range boots {
		before, known := s.seen[boot.ID]
		if !known || before.beat != boot.Beat || blind && !wasDead(before) {
			before = sighting{beat: boot.Beat, since: now}
		}
		seen[boot.ID] = before
		if now.Sub(before.since) >= s.BootDead {
			dead = append(dead, boot.ID)
		} else {
			living = append(living, boot.ID)
		}
	}
	s.seen, s.last = seen, now
	return living, dead
}
