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
		deaths = slices.DeleteFunc(append(deaths, time.Now()), func(at time.Time) bool { return time.Since(at) > deathWindow })
		if len(deaths) > maxDeaths {
			return died
		}
		s.Logger.ErrorContext(ctx, "clickhouse is started again", "error", died)
		starting, cancel := context.WithTimeout(ctx, s.StartTimeout)
		again, err := s.startClickHouse(starting)
		cancel()
		r.clickHouse = again
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // everything is being stopped, and the start with it
		case err != nil:
			return errors.Join(died, err)
		}
	}
}
