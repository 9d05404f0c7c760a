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
	Again   bool   `help:"Issue another administrator key although there is one: for when it was lost. Those that there are go on working until they are revoked."`
	nodeSettings
	engineSettings
}

// Run implements kong's command. It folds the log itself, so that no node needs to run yet.
func (c bootstrapCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	give := func(key string) error { _, err := fmt.Println(key); return err }
	if c.KeyFile != "" {
		file, err := beginSecret(c.KeyFile)
		if err != nil {
			return err
		}
		defer file.discard()
		give = file.keep
	}
	n, err := newNode(ctx, c.nodeSettings, c.engineSettings, []role{roleProjector}, log)
	if err != nil {
		return err
	}
	folding, stop := context.WithCancel(ctx)
	parts, folding := errgroup.WithContext(folding)
	parts.Go(func() error { return ended(n.progress.Run(folding)) })
	parts.Go(func() error { return n.guard.Run(folding) })
	if err = n.startFold(parts, folding); err == nil {
		err = n.bootstrap(ctx, folding, c.Again, give)
	}
	stop()
	return closing(errors.Join(err, parts.Wait()), n.close)
}

// bootstrap issues the administrator key, once or again, and gives it to whoever asked.
func (n *node) bootstrap(ctx, folding context.Context, again bool, give func(key string) error) error {
	if err := n.catchUp(ctx, folding); err != nil {
		return err
	}
	if done, err := n.hasAdministrator(ctx); err != nil {
		return err
	} else if done && !again {
		return errors.New("this installation has an administrator key already; issue others with it at POST /api/keys, or, if it was lost, give --again")
	}
	key, err := n.administratorKey(ctx)
	if err != nil {
		return err
	}
	return give(key)
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
	found, err := projections.NewAccounts(n.pool).Get(ctx, defaultAccount)
	switch {
	case err == nil && found.Suspended:
		return "", fmt.Errorf("account %s is suspended or erased, and none of its keys is accepted", defaultAccount)
	case err == nil: // its plan may have been changed, so that it cannot be opened as if it were new
		issued, err := n.keys.Issue(ctx, meta, commands.IssueKey{
			Name: "another administrator", Environment: "live", Scopes: apikey.Scopes,
			Issuer: apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}, IssuedBy: meta.Actor.ID,
		})
		return issued.Key, err
	case !errors.Is(err, projections.ErrNotFound):
		return "", err
	}
	opened, err := n.accounts.Open(ctx, meta, commands.OpenAccount{
		ID: defaultAccount, Name: defaultAccount, Plan: account.Enterprise, Scopes: apikey.Scopes,
	})
	return opened.Key.Key, err
}

// secretFile is a new file that only its owner can read, whole or not at all. It is begun before there is a secret: a key
// that is shown once, and then finds no place, is lost.
type secretFile struct {
	path string
	temp *os.File
}

func beginSecret(path string) (*secretFile, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("write %s: %w", path, os.ErrExist)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &secretFile{path: path, temp: temp}, nil
}

// keep writes the secret. Where it cannot get its name any more, it stays where it is, and the error says where.
func (f *secretFile) keep(secret string) error {
	_, err := f.temp.WriteString(strings.TrimSpace(secret) + "\n")
	if err = errors.Join(err, f.temp.Sync(), f.temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	if err := os.Link(f.temp.Name(), f.path); err != nil { // fails where the file exists by now
		name := f.temp.Name()
		f.temp = nil
		return fmt.Errorf("write %s: %w; the key is in %s", f.path, err, name)
	}
	return nil
}

// discard leaves nothing but what was kept.
func (f *secretFile) discard() {
	if f.temp != nil {
		_ = f.temp.Close()           // it may be closed
		_ = os.Remove(f.temp.Name()) // an empty file, or a second name of the one that was kept
	}
}
