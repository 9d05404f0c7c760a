//go:build linux && amd64 && !noengines

// Below the story: the order in which engines start and stop.

package engines

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// station is what the three engines share while they start: the configuration, the held lock, and what was found.
type station struct {
	Config
	lock     *os.File
	packages packages
	secrets  secrets
	// remembered are the last start's ports, first those that are tried first now, kafka is where the broker listens.
	remembered, first ports
	kafka             net.Listener
	// The children write to these by themselves.
	postgresLog, clickHouseLog *childLog
}

// running are the started engines; a nil one has not been started.
type running struct {
	broker     *broker
	postgres   *postgres
	clickHouse *clickHouse
}

// start takes the directory, starts the three engines side by side and watches the children.
func start(ctx context.Context, cfg Config) (*Engines, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	found, err := locate(cfg.Packages)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	lock, err := acquire(ctx, dir, cfg.LockWait)
	if err != nil {
		return nil, err
	}
	s := &station{Config: cfg, lock: lock, packages: found}
	r, err := s.startAll(ctx)
	if err != nil {
		// The failed start's own context may be what ended it; the clean-up has its own time.
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.StopTimeout)
		defer cancel()
		return nil, errors.Join(err, s.stopAll(stopCtx, r))
	}
	return s.watch(context.WithoutCancel(ctx), r), nil
}

// startAll starts the engines. On an error it answers with what runs nevertheless.
func (s *station) startAll(ctx context.Context) (*running, error) {
	r := &running{}
	var err error
	if s.secrets, err = loadSecrets(s.Dir); err != nil {
		return r, err
	}
	if s.remembered, err = loadPorts(s.Dir); err != nil {
		return r, err
	}
	if err := s.choosePorts(); err != nil {
		return r, err
	}
	if s.postgresLog, err = openLog(filepath.Join(s.Dir, "postgres.log")); err != nil {
		return r, err
	}
	if s.clickHouseLog, err = openLog(filepath.Join(s.Dir, "clickhouse.log")); err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.StartTimeout)
	defer cancel()
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	// The children take their time, so they come first; the broker reads its directory meanwhile.
	group.Go(func() (err error) { r.postgres, err = s.startPostgres(ctx); return err })
	group.Go(func() (err error) { r.clickHouse, err = s.startClickHouse(ctx); return err })
	group.Go(func() (err error) { r.broker, err = s.startBroker(); return err })
	if err := group.Wait(); err != nil {
		return r, err
	}
	used := ports{Kafka: r.broker.port, Postgres: r.postgres.port, ClickHouse: r.clickHouse.port}
	if err := used.save(s.Dir); err != nil {
		return r, err
	}
	s.Logger.InfoContext(ctx, "engines started", "dir", s.Dir, "took", time.Since(began).Round(time.Millisecond),
		"kafka_port", used.Kafka, "postgres_port", used.Postgres, "clickhouse_port", used.ClickHouse)
	return r, nil
}

// watch hands the running engines to their owner, keeps ClickHouse running, and tells the owner when a child has ended
// for good that nobody stopped.
func (s *station) watch(ctx context.Context, r *running) *Engines {
	e := &Engines{
		kafkaBrokers:  []string{address(r.broker.port)},
		postgresURL:   r.postgres.url(postgresDatabase),
		clickHouseURL: r.clickHouse.url(clickHouseDatabase),
		masterKey:     s.secrets.masterKey,
		done:          make(chan struct{}),
	}
	var stopping atomic.Bool
	var watchers sync.WaitGroup
	ended := make(chan struct{})
	watchers.Go(func() {
		r.postgres.child.keepLogSmall(ended)
		if !stopping.Load() {
			e.finish(r.postgres.child.failure())
		}
	})
	keeping, letGo := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() {
		if err := s.keepClickHouse(keeping, r); err != nil {
			e.finish(err)
		}
	})
	e.stop = func(ctx context.Context) error {
		stopping.Store(true)
		letGo()
		keeper.Wait() // from here on nobody starts anything
		ctx, cancel := context.WithTimeout(ctx, s.StopTimeout)
		defer cancel()
		err := s.stopAll(ctx, r)
		close(ended)
		watchers.Wait()
		return err
	}
	return e
}

// stopAll ends what runs: the children side by side, then the log they were folded from, then the lock.
func (s *station) stopAll(ctx context.Context, r *running) error {
	began := time.Now()
	var children sync.WaitGroup
	var postgresErr, clickHouseErr, brokerErr error
	children.Go(func() { postgresErr = r.postgres.stop(ctx) })
	children.Go(func() { clickHouseErr = r.clickHouse.stop(ctx) })
	children.Wait()
	switch {
	case r.broker != nil:
		brokerErr = r.broker.stop(ctx)
	case s.kafka != nil:
		// A broker that could not start may have closed it already.
		if err := s.kafka.Close(); !errors.Is(err, net.ErrClosed) {
			brokerErr = err
		}
	}
	err := errors.Join(postgresErr, clickHouseErr, brokerErr, s.postgresLog.close(), s.clickHouseLog.close(), s.lock.Close())
	s.Logger.InfoContext(ctx, "engines stopped", "dir", s.Dir, "took", time.Since(began).Round(time.Millisecond))
	return err
}

// address is a port on the only interface that the engines listen on.
func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
