//go:build linux && amd64 && !noengines

// Below the story: the ClickHouse child, seen from the process that starts it.

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
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

const (
	clickHouseFolder   = "clickhouse"
	clickHouseUser     = "nido"
	clickHouseDatabase = "nido"
)

// clickHouseScript is what the child runs: listen, say so, serve until standard input ends, stop serving. Its
// file names are relative to the child's working directory, so that no data directory's name can break them.
const clickHouseScript = `SYSTEM START LISTEN TCP;
SELECT getServerPort('tcp_port') INTO OUTFILE 'ready' TRUNCATE FORMAT TSV;
SELECT count() FROM file('/dev/stdin', 'LineAsString', 'x String') SETTINGS storage_file_read_method = 'read';
SYSTEM STOP LISTEN QUERIES ALL`

// clickHouse is the child that holds the request log and the statistics.
type clickHouse struct {
	child    *child
	port     int
	password string
	// input ends the child when it is closed, by us or by our death.
	input *os.File
}

// startClickHouse starts this binary a second time as ClickHouse.
func (s *station) startClickHouse(ctx context.Context) (*clickHouse, error) {
	folder := filepath.Join(s.Dir, clickHouseFolder)
	if err := os.MkdirAll(filepath.Join(folder, "data"), 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of clickhouse: %w", err)
	}
	if err := s.writeClickHouseConfig(folder); err != nil {
		return nil, err
	}
	for try := range portTries {
		c, err := s.tryClickHouse(ctx, folder, try)
		if err != nil && s.ClickHousePort == 0 && strings.Contains(s.clickHouseLog.tail(), "Address already in use") {
			continue
		}
		if err != nil {
			return c, err
		}
		return c, c.ensureDatabase(ctx)
	}
	return nil, errors.New("start clickhouse: every free port was taken before it could listen")
}

// tryClickHouse starts the child on one port and waits until it answers. A child that did not become ready is ended.
func (s *station) tryClickHouse(ctx context.Context, folder string, try int) (*clickHouse, error) {
	port := s.first.ClickHouse
	if try > 0 {
		var err error
		if port, err = freePort("clickhouse", 0, 0); err != nil {
			return nil, err
		}
	}
	ready := filepath.Join(folder, "ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("forget the last start of clickhouse: %w", err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start clickhouse: %w", err)
	}
	// Not os.Executable: this name still works when the binary was built anew or its folder cannot be entered.
	cmd := exec.Command("/proc/self/exe", s.packages.libchdb, "--config-file=config.xml", "--path=data",
		"--listen_host=127.0.0.1", "--tcp_port="+strconv.Itoa(port), "--query", clickHouseScript)
	cmd.Args[0] = "nido-clickhouse"
	cmd.Env = append(childEnvironment(), childVariable+"=clickhouse", "HOME="+folder)
	cmd.Dir = folder
	cmd.Stdin = theirs
	child, err := s.spawn("clickhouse", cmd, s.clickHouseLog)
	err = errors.Join(err, theirs.Close())
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	c := &clickHouse{child: child, port: port, password: s.secrets.clickHousePassword, input: ours}
	if err := c.waitReady(ctx, ready); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.StopTimeout)
		defer cancel()
		return nil, errors.Join(err, c.stop(stopCtx))
	}
	return c, nil
}

// waitReady waits for the file that the child writes when it listens. One that ends before has failed, whatever its
// exit status: a second ClickHouse on the same files exits with 0.
func (c *clickHouse) waitReady(ctx context.Context, ready string) error {
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		if _, err := os.Stat(ready); err == nil {
			return nil
		}
		select {
		case <-c.child.ended:
			return fmt.Errorf("start clickhouse: %w", c.child.failure())
		case <-ctx.Done():
			return fmt.Errorf("wait for clickhouse: %w, its log ends:\n%s", context.Cause(ctx), c.child.log.tail())
		case <-poll.C:
		}
	}
}

// ensureDatabase creates the database nido at the first start, and is the proof that the child serves.
func (c *clickHouse) ensureDatabase(ctx context.Context) error {
	options, err := clickhouse.ParseDSN(c.url("default"))
	if err != nil {
		return fmt.Errorf("read the address of clickhouse: %w", err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return fmt.Errorf("connect to clickhouse: %w", err)
	}
	if err := conn.Exec(ctx, `CREATE DATABASE IF NOT EXISTS nido`); err != nil {
		return errors.Join(fmt.Errorf("create the clickhouse database: %w", err), conn.Close())
	}
	return conn.Close()
}

func (c *clickHouse) url(database string) string {
	return (&url.URL{
		Scheme: "clickhouse", User: url.UserPassword(clickHouseUser, c.password),
		Host: address(c.port), Path: "/" + database,
	}).String()
}

// stop ends the child's standard input, after which it stops listening, waits for open connections and ends.
func (c *clickHouse) stop(ctx context.Context) error {
	if c == nil {
		return nil
	}
	return errors.Join(c.input.Close(), c.child.waitOrKill(ctx))
}
