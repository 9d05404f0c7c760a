package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
)

// serveCommand runs a node against external engines.
type serveCommand struct {
	Roles   []string `help:"What this node does: api, projector, sweeper." default:"api,projector,sweeper" env:"NIDO_ROLES"`
	Profile string   `help:"Write a CPU profile of the node's whole life to this file." type:"path" hidden:""`
	nodeSettings
	engineSettings
}

// Run implements kong's command.
func (c serveCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	roles, err := parseRoles(c.Roles)
	if err != nil {
		return err
	}
	stopProfile, err := profile(c.Profile)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, stopProfile) }()
	listener, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	operators, err := operatorListener(ctx, c.OperatorListen)
	if err != nil {
		return closing(err, listener.Close)
	}
	n, err := newNode(ctx, c.nodeSettings, c.engineSettings, roles, log)
	if err != nil {
		return closing(err, listener.Close)
	}
	err = n.run(ctx, listener, operators, func(ctx context.Context) error {
		log.InfoContext(ctx, "serving", "address", listener.Addr().String(), "roles", c.Roles, "boot", n.boot)
		return nil
	})
	return closing(err, n.close)
}

// listen takes the port before anything else is started: a taken one should be heard of at once.
func listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve on %s, choose another address with --listen: %w", address, err)
	}
	return listener, nil
}

// profile writes a CPU profile to a file until it is stopped; without a file it does nothing.
func profile(file string) (stop func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	to, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("write a profile: %w", err)
	}
	if err := pprof.StartCPUProfile(to); err != nil {
		return nil, errors.Join(fmt.Errorf("write a profile: %w", err), to.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return to.Close()
	}, nil
}
