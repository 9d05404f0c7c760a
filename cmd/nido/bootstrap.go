package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/projections"
)

// defaultAccount is the installation's own account, whose keys administer it.
const defaultAccount = "default"

// bootstrapCommand opens an installation on external engines: once.
type bootstrapCommand struct {
	KeyFile string `help:"Write the administrator key to this new file (mode 0600) instead of the screen." type:"path" placeholder:"FILE"`
	nodeSettings
	engineSettings
}

// Run implements kong's command. It folds the log itself: no node may be running yet.
func (c bootstrapCommand) Run(ctx context.Context, log *slog.Logger) error {
	n, err := newNode(ctx, c.nodeSettings, c.engineSettings, []role{roleProjector}, log)
	if err != nil {
		return err
	}
	folding, stop := context.WithCancel(ctx)
	parts, folding := errgroup.WithContext(folding)
	parts.Go(func() error { return ended(n.progress.Run(folding)) })
	parts.Go(func() error { return n.guard.Run(folding) })
	if err = n.startFold(parts, folding); err == nil {
		err = c.bootstrap(ctx, folding, n)
	}
	stop()
	return closing(errors.Join(err, parts.Wait()), n.close)
}

func (c bootstrapCommand) bootstrap(ctx, folding context.Context, n *node) error {
	if err := n.catchUp(ctx, folding); err != nil {
		return err
	}
	if done, err := n.hasAdministrator(ctx); err != nil || done {
		return errors.Join(err, errIf(done, "this installation has an administrator key already; issue others with it at POST /api/keys"))
	}
	key, err := n.administratorKey(ctx)
	if err != nil {
		return err
	}
	if c.KeyFile != "" {
		return writeSecret(c.KeyFile, key)
	}
	fmt.Println(key)
	return nil
}

func errIf(condition bool, text string) error {
	if condition {
		return errors.New(text)
	}
	return nil
}

// hasAdministrator reports whether the default account has a key that can administer and has not ended.
func (n *node) hasAdministrator(ctx context.Context) (bool, error) {
	keys := projections.NewKeys(n.pool)
	for page := (projections.Page{Limit: 100}); ; {
		found, next, err := keys.List(ctx, defaultAccount, page)
		if err != nil {
			return false, fmt.Errorf("look for an administrator key: %w", err)
		}
		if slices.ContainsFunc(found, func(key projections.Key) bool {
			return key.RevokedAt == nil && key.ExpiresAt == nil && slices.Contains(key.Scopes, apikey.Admin)
		}) {
			return true, nil
		}
		if next == nil {
			return false, nil
		}
		page.After = next
	}
}

// administratorKey opens the default account if need be and issues a key that may do everything.
func (n *node) administratorKey(ctx context.Context) (string, error) {
	meta := commands.Meta{
		Account: defaultAccount, Actor: domain.Actor{Kind: "operator", ID: "bootstrap"}, Inputs: commands.NewInputs(time.Now()),
	}
	opened, err := n.accounts.Open(ctx, meta, commands.OpenAccount{
		ID: defaultAccount, Name: defaultAccount, Plan: account.Enterprise, Scopes: apikey.Scopes,
	})
	return opened.Key.Key, err
}

// writeSecret writes a new file that only its owner can read, whole or not at all.
func writeSecret(file, secret string) error {
	written, err := os.CreateTemp(filepath.Dir(file), ".secret-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(written.Name())
	_, err = written.WriteString(strings.TrimSpace(secret) + "\n")
	err = errors.Join(err, written.Sync(), written.Close())
	if err == nil {
		err = os.Link(written.Name(), file) // fails where the file exists
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
