//go:build linux && amd64 && !noengines

// Below the story: where the engines listen.

package engines

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// portTries is how often an engine is started on another port when somebody takes the free one first.
const portTries = 5

// ports are remembered in the directory, so that a client's settings survive a restart.
type ports struct {
	Kafka      int `json:"kafka"`
	Postgres   int `json:"postgres"`
	ClickHouse int `json:"clickhouse"`
}

func loadPorts(dir string) (ports, error) {
	var p ports
	path := filepath.Join(dir, "ports.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the remembered ports: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("read the remembered ports: %s: %w", path, err)
	}
	for _, port := range []int{p.Kafka, p.Postgres, p.ClickHouse} {
		if port < 0 || port > 65535 {
			return p, fmt.Errorf("read the remembered ports: %s: %d is none", path, port)
		}
	}
	return p, nil
}

func (p ports) save(dir string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("remember the ports: %w", err)
	}
	return writeDurably(filepath.Join(dir, "ports.json"), append(text, '\n'))
}

// choosePorts fixes the ports of the first try, before any child is started: between its fork and its exec a child
// holds copies of our open files, and with them a port that we have just let go of.
func (s *station) choosePorts() error {
	var err error
	if s.kafka, err = s.listenForKafka(); err != nil {
		return err
	}
	if s.first.Postgres, err = freePort("postgres", s.PostgresPort, s.remembered.Postgres); err != nil {
		return err
	}
	s.first.ClickHouse, err = freePort("clickhouse", s.ClickHousePort, s.remembered.ClickHouse)
	return err
}

// listenForKafka takes the broker's port for good, since the broker is in this process.
func (s *station) listenForKafka() (net.Listener, error) {
	if s.KafkaPort != 0 {
		listener, err := net.Listen("tcp4", address(s.KafkaPort))
		if err != nil {
			return nil, portTaken("kafka", s.KafkaPort, err)
		}
		return listener, nil
	}
	if listener, err := net.Listen("tcp4", address(s.remembered.Kafka)); err == nil {
		return listener, nil
	}
	listener, err := net.Listen("tcp4", address(0))
	if err != nil {
		return nil, fmt.Errorf("find a port for kafka: %w", err)
	}
	return listener, nil
}

// freePort answers with the port to try first: the configured one, which must be free; else the remembered one if it
// is free; else any. Somebody may take it before the engine does.
func freePort(engine string, configured, remembered int) (int, error) {
	if configured != 0 {
		if _, err := listenOnce(configured); err != nil {
			return 0, portTaken(engine, configured, err)
		}
		return configured, nil
	}
	if port, err := listenOnce(remembered); err == nil {
		return port, nil
	}
	port, err := listenOnce(0)
	if err != nil {
		return 0, fmt.Errorf("find a port for %s: %w", engine, err)
	}
	return port, nil
}

// listenOnce takes a port and lets go of it again.
func listenOnce(port int) (int, error) {
	listener, err := net.Listen("tcp4", address(port))
	if err != nil {
		return 0, err
	}
	taken := listener.Addr().(*net.TCPAddr).Port
	return taken, listener.Close()
}

// portTaken is what the user reads when a configured port cannot be had.
func portTaken(engine string, port int, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d for %s is taken by another process", port, engine)
	}
	return fmt.Errorf("listen on port %d for %s: %w", port, engine, err)
}
