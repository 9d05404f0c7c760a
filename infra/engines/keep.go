//go:build linux && amd64 && !noengines

// Below the story: ClickHouse is started again where it ends by itself.

package engines

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ClickHouse may end by itself so often within this time; one that ends more often is not worth starting again.
const (
	maxDeaths   = 10
	deathWindow = 10 * time.Minute
	// restartPause comes before another try where a start has failed, longer each time.
	restartPause = 300 * time.Millisecond
)

// keepClickHouse starts ClickHouse again whenever it ends, at the same address, until the context ends. The library aborts
// its process where a connection is reset before its greeting has been answered, which any program on this machine can
// do, and a client of ours that runs out of patience. Logs and statistics are allowed to be away for a second; a whole
// installation is not. The error says why it is given up.
func (s *station) keepClickHouse(ctx context.Context, r *running) error {
	s.ClickHousePort, s.first.ClickHouse = r.clickHouse.port, r.clickHouse.port
	var deaths []time.Time
	for {
		r.clickHouse.child.keepLogSmall(ctx.Done())
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it is being stopped
		}
		died := errors.Join(r.clickHouse.child.failure(), r.clickHouse.input.Close())
		for r.clickHouse = nil; r.clickHouse == nil; {
			deaths = slices.DeleteFunc(append(deaths, time.Now()), func(at time.Time) bool { return time.Since(at) > deathWindow })
			if len(deaths) > maxDeaths {
				return died
			}
			s.Logger.ErrorContext(ctx, "clickhouse is started again", "error", died)
			again, err := s.restartClickHouse(ctx)
			r.clickHouse, died = again, err
			if again != nil {
				break
			}
			// Somebody has its port for the moment, or a client that comes back killed it in its first second.
			select {
			case <-ctx.Done():
				return nil // everything is being stopped, and the start with it
			case <-time.After(time.Duration(len(deaths)) * restartPause):
			}
		}
	}
}

// restartClickHouse answers with a ClickHouse that serves, or leaves none running.
func (s *station) restartClickHouse(ctx context.Context) (*clickHouse, error) {
	starting, cancel := context.WithTimeout(ctx, s.StartTimeout)
	defer cancel()
	again, err := s.startClickHouse(starting)
	if err == nil {
		return again, nil
	}
	stopping, giveUp := context.WithTimeout(context.WithoutCancel(ctx), s.StopTimeout)
	defer giveUp()
	return nil, errors.Join(err, again.stop(stopping))
}
