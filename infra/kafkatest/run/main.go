//go:build linux

// Command run starts a real Kafka of three nodes and runs a command beside it, whose NIDO_KAFKA_BROKERS are that
// Kafka's. It stands below the tests; see the package kafkatest.
//
//	bin/nido engines --data DIR -- bin/kafkatest --data DIR -- go test ./infra/kafka
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nidohq/nido/infra/kafkatest"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	code, err := run(logger)
	if err != nil {
		logger.Error("kafkatest", "error", err)
	}
	os.Exit(code)
}

func run(logger *slog.Logger) (code int, err error) {
	data := flag.String("data", "", "the folder for the nodes' data")
	jars := flag.String("jars", "infra/kafkatest/jars", "the folder that infra/kafkatest/setup.sh fills")
	flag.Parse()
	if flag.NArg() == 0 {
		return 2, errors.New("no command to run")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	cluster, err := kafkatest.Start(ctx, kafkatest.Config{Dir: *data, Jars: *jars, Logger: logger})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	control, stop, err := cluster.Serve(ctx)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	brokers := strings.Join(cluster.Brokers(), ",")
	return beside(ctx, flag.Args(), "NIDO_KAFKA_BROKERS="+brokers,
		kafkatest.BrokersVariable+"="+brokers, kafkatest.ControlVariable+"="+control)
}

// beside runs the command and answers with its exit status.
func beside(ctx context.Context, command []string, variables ...string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), variables...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode()), nil
	}
	if err != nil {
		return 1, fmt.Errorf("run %s: %w", command[0], err)
	}
	return 0, nil
}
