package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/nidohq/nido/infra/engines"
)

// devCommand runs everything in one process: the embedded engines and a node with every role.
type devCommand struct {
	Data     string `help:"The directory that holds the engines' data and the administrator key." default:".nido" env:"NIDO_DATA" placeholder:"DIR"`
	Packages string `help:"The node_modules folder that holds the engines." env:"NIDO_ENGINES" placeholder:"DIR"`
	nodeSettings
}

// Run implements kong's command.
func (c devCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	listener, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, func() error { return ignoreClosed(listener.Close()) }) }()
	operators, err := operatorListener(ctx, c.OperatorListen)
	if err != nil {
		return err
	}
	running, err := engines.Start(ctx, engines.Config{Dir: c.Data, Packages: c.Packages, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = closing(err, func() error { return running.Stop(context.WithoutCancel(ctx)) }) }()

	// An engine that ends by itself ends the node.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go func() {
		<-running.Done()
		fail(running.Err())
	}()
	n, err := newNode(ctx, c.nodeSettings, engineSettings{
		KafkaBrokers: running.KafkaBrokers(), KafkaPartitions: 1, PostgresURL: running.PostgresURL(),
		ClickHouseURL: running.ClickHouseURL(), MasterKey: running.MasterKey(),
	}, allRoles, log)
	if err != nil {
		return engineFault(running, err)
	}
	defer func() { err = closing(err, n.close) }()
	return engineFault(running, n.run(ctx, listener, operators, func(ctx context.Context) error { return c.welcome(ctx, n) }))
}

// engineFault prefers an engine's own words to what its clients made of its end.
func engineFault(running *engines.Engines, err error) error {
	select {
	case <-running.Done():
		return errors.Join(running.Err(), err)
	default:
		return err
	}
}

// welcome opens the installation at its first start and says how to begin.
func (c devCommand) welcome(ctx context.Context, n *node) error {
	file := filepath.Join(c.Data, "root.key")
	key, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		secret, err := beginSecret(file)
		if err != nil {
			return err
		}
		defer secret.discard()
		issued, err := n.administratorKey(ctx)
		if err != nil {
			return fmt.Errorf("issue the administrator key: %w", err)
		}
		if err := secret.keep(issued); err != nil {
			return err
		}
		key = []byte(issued)
	case err != nil:
		return fmt.Errorf("read the administrator key: %w", err)
	}
	fmt.Print(welcomeText(n.settings.publicURL(), c.BaseDomain, file, strings.TrimSpace(string(key)), len(n.models.Routes()) == 0))
	return nil
}

func welcomeText(base, domain, file, key string, echo bool) string {
	scheme, address, _ := strings.Cut(base, "://")
	port := ""
	if _, number, err := net.SplitHostPort(address); err == nil {
		port = ":" + number
	}
	model := ""
	if echo {
		model = "\nNo model provider is configured, so agents repeat what they hear (model \"echo\").\n" +
			"Set NIDO_MODEL_BASE_URL and NIDO_MODEL_API_KEY, or ANTHROPIC_API_KEY, for a real one.\n"
	}
	return fmt.Sprintf(`
Nido serves %[1]s
Administrator key (also in %[4]s): %[5]s
%[6]s
Try it:

  export NIDO_KEY=%[5]s
  curl -s %[1]s/api/agents -H "Authorization: Bearer $NIDO_KEY" -H 'Content-Type: application/json' -H 'Idempotency-Key: hello' -d '{"name": "Hello", "slug": "hello", "instructions": "You are a friendly assistant.", "model": "gpt-4o-mini"}'
  curl -s %[2]s://hello.%[3]s%[7]s/api/v1/chat -H "Authorization: Bearer $NIDO_KEY" -H 'Content-Type: application/json' -d '{"message": "Hello!"}'
  curl -s %[1]s/api/conversations -H "Authorization: Bearer $NIDO_KEY"

`, base, scheme, domain, file, key, model, port)
}
