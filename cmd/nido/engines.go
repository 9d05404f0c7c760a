// Below the story: the embedded engines as a command of their own.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/nidohq/nido/infra/engines"
)

// commandGrace is how long a command that runs beside the engines may take to end when it is told to.
const commandGrace = 30 * time.Second

// enginesCommand runs the embedded engines without Nido: for tests, and for several nodes on one machine.
type enginesCommand struct {
	Data     string   `help:"The directory that holds the engines' data." default:".nido" env:"NIDO_DATA" placeholder:"DIR"`
	Packages string   `help:"The node_modules folder that holds the engines." env:"NIDO_ENGINES" placeholder:"DIR"`
	Command  []string `arg:"" optional:"" help:"A command to run with the engines' addresses in its environment, after --; its exit status becomes ours. Without one, the addresses are printed."`
}

// Run implements kong's command.
func (c enginesCommand) Run(ctx context.Context, logger *slog.Logger) (err error) {
	running, err := engines.Start(ctx, engines.Config{Dir: c.Data, Packages: c.Packages, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Stop(context.WithoutCancel(ctx))) }()
	variables := [][2]string{
		{"NIDO_KAFKA_BROKERS", strings.Join(running.KafkaBrokers(), ",")},
		{"NIDO_POSTGRES_URL", running.PostgresURL()},
		{"NIDO_CLICKHOUSE_URL", running.ClickHouseURL()},
		{"NIDO_MASTER_KEY", running.MasterKey()},
	}
	if len(c.Command) > 0 {
		return runBeside(ctx, running, c.Command, variables)
	}
	var lines strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&lines, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
	}
	// One write: whoever reads a pipe or a file sees all four lines or none.
	if _, err := os.Stdout.WriteString(lines.String()); err != nil {
		return fmt.Errorf("print the addresses: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-running.Done():
		return running.Err()
	}
}

// runBeside runs a command while the engines run, and ends it when they end or a signal comes.
func runBeside(ctx context.Context, running *engines.Engines, command []string, variables [][2]string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-running.Done():
			cancel(running.Err())
		case <-ctx.Done():
		}
	}()
	beside := exec.CommandContext(ctx, command[0], command[1:]...)
	beside.Env = os.Environ()
	for _, v := range variables {
		beside.Env = append(beside.Env, v[0]+"="+v[1])
	}
	beside.Stdin, beside.Stdout, beside.Stderr = os.Stdin, os.Stdout, os.Stderr
	beside.Cancel = func() error { return beside.Process.Signal(syscall.SIGTERM) }
	beside.WaitDelay = commandGrace
	err := beside.Run()
	select {
	case <-running.Done():
		return running.Err()
	default:
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return commandExit{exit}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", command[0], err)
	}
	return nil
}

// commandExit passes a command's exit status on; kong asks an error for it.
type commandExit struct{ *exec.ExitError }

// ExitCode is the command's own, or the shell's 128 + n where a signal ended it.
func (e commandExit) ExitCode() int {
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return e.ExitError.ExitCode()
}
