//go:build linux && amd64 && !noengines

// Below the story: the Postgres child, which holds the read models, the keyring and the checkpoints.

package engines

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	postgresFolder   = "postgres"
	postgresUser     = "nido"
	postgresDatabase = "nido"
	// readyPoll is how often a starting child is asked whether it answers.
	readyPoll = 20 * time.Millisecond
)

// postgres is the child that holds the read models, the keyring and the checkpoints.
type postgres struct {
	child    *child
	port     int
	password string
}

// startPostgres makes the database cluster where there is none, starts it and creates the database.
func (s *station) startPostgres(ctx context.Context) (*postgres, error) {
	folder := filepath.Join(s.Dir, postgresFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of postgres: %w", err)
	}
	who, err := s.postgresIdentity(ctx, folder)
	if err != nil {
		return nil, err
	}
	log := s.postgresLog
	data := filepath.Join(folder, "data")
	if err := s.initPostgres(ctx, who, data, log); err != nil {
		return nil, err
	}
	// The lock is held, so whatever this file says, no postmaster runs on the data.
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove a stale postmaster.pid: %w", err)
	}
	for try := range portTries {
		p, err := s.tryPostgres(ctx, who, data, log, try)
		if err != nil && s.PostgresPort == 0 && strings.Contains(log.tail(), "could not bind") {
			continue
		}
		if err != nil {
			return p, err
		}
		return p, p.ensureDatabase(ctx)
	}
	return nil, errors.New("start postgres: every free port was taken before it could listen")
}

// initPostgres makes a new cluster beside its final place, so that a killed initdb leaves nothing that looks whole.
func (s *station) initPostgres(ctx context.Context, who identity, data string, log *childLog) error {
	if _, err := os.Stat(data); err == nil {
		return nil
	}
	fresh, password := data+".new", filepath.Join(filepath.Dir(data), "password")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove a half-made cluster: %w", err)
	}
	if err := os.WriteFile(password, []byte(s.secrets.postgresPassword), 0o600); err != nil {
		return fmt.Errorf("hand over the postgres password: %w", err)
	}
	if err := who.own(password); err != nil {
		return errors.Join(err, os.Remove(password))
	}
	// The builtin locale sorts alike on every machine; the C library's changes with its version and breaks indexes.
	cmd := exec.Command(s.packages.initdb, "--pgdata="+fresh, "--username="+postgresUser, "--pwfile="+password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
		"--no-instructions")
	cmd.Env = childEnvironment()
	cmd.Dir = filepath.Dir(data)
	cmd.SysProcAttr = who.attributes(syscall.SIGKILL)
	err := s.run(ctx, "initdb", cmd, log)
	if err := errors.Join(err, os.Remove(password)); err != nil {
		return err
	}
	if err := os.Rename(fresh, data); err != nil {
		return fmt.Errorf("put the new cluster in place: %w", err)
	}
	return syncFolder(filepath.Dir(data))
}

// tryPostgres starts the server on one port and waits until it answers. A child that did not become ready is ended.
func (s *station) tryPostgres(ctx context.Context, who identity, data string, log *childLog, try int) (*postgres, error) {
	port := s.first.Postgres
	if try > 0 {
		var err error
		if port, err = freePort("postgres", 0, 0); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(s.packages.postgres, append([]string{"-D", data}, postgresSettings(port)...)...)
	cmd.Env = childEnvironment()
	cmd.Dir = filepath.Dir(data)
	cmd.SysProcAttr = who.attributes(syscall.SIGINT)
	c, err := s.spawn("postgres", cmd, log)
	if err != nil {
		return nil, err
	}
	p := &postgres{child: c, port: port, password: s.secrets.postgresPassword}
	if err := p.waitReady(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.StopTimeout)
		defer cancel()
		return nil, errors.Join(err, p.stop(stopCtx))
	}
	return p, nil
}

// postgresSettings are given at every start, so that a later version's settings reach an old directory.
func postgresSettings(port int) []string {
	settings := []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=", // a socket's path ends at 107 bytes
		"max_connections=200",
		"shared_buffers=128MB",
		"fsync=on",
		"synchronous_commit=on",
		"password_encryption=scram-sha-256",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_min_messages=warning",
		// A failed statement may carry what must not be in a log.
		"log_min_error_statement=panic",
		"log_parameter_max_length_on_error=0",
		"log_checkpoints=off",
		"log_line_prefix=%m [%p] ",
		"max_wal_size=1GB",
		"jit=off",
	}
	var args []string
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// childEnvironment is all that a child sees of our environment: keys and passwords stay here.
func childEnvironment() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
}

// waitReady waits until the server takes a query, recovery after a crash included.
func (p *postgres) waitReady(ctx context.Context) error {
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		err := p.do(ctx, "postgres", func(conn *pgx.Conn) error { return conn.Ping(ctx) })
		if err == nil {
			return nil
		}
		select {
		case <-p.child.ended:
			return fmt.Errorf("start postgres: %w", p.child.failure())
		case <-ctx.Done():
			return fmt.Errorf("wait for postgres: %w (last: %w), its log ends:\n%s", context.Cause(ctx), err, p.child.log.tail())
		case <-poll.C:
		}
	}
}

// ensureDatabase creates the database nido at the first start.
func (p *postgres) ensureDatabase(ctx context.Context) error {
	return p.do(ctx, "postgres", func(conn *pgx.Conn) error {
		var exists bool
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, postgresDatabase).Scan(&exists)
		if err != nil {
			return fmt.Errorf("look for the postgres database: %w", err)
		}
		if exists {
			return nil
		}
		if _, err := conn.Exec(ctx, `CREATE DATABASE nido`); err != nil {
			return fmt.Errorf("create the postgres database: %w", err)
		}
		return nil
	})
}

// do runs one thing on a connection of its own.
func (p *postgres) do(ctx context.Context, database string, what func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, p.url(database)+"&connect_timeout=5")
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	err = what(conn)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func (p *postgres) url(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, p.password),
		Host: address(p.port), Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

// stop asks for a fast shutdown: sessions end, a checkpoint is written. Past the context it is ended without one,
// which costs the next start a recovery and nothing else.
func (p *postgres) stop(ctx context.Context) error {
	if p == nil {
		return nil
	}
	if err := p.child.signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-p.child.ended:
		return nil
	case <-ctx.Done():
	}
	// SIGQUIT makes the postmaster end its own children too, which SIGKILL cannot.
	err := p.child.signal(syscall.SIGQUIT)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(errors.New("postgres did not shut down in time"), err, p.child.waitOrKill(last))
}
