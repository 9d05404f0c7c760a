//go:build linux && amd64 && !noengines

// Below the story: the user that Postgres runs as.

package engines

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// nobody is the user that Postgres runs as where we are root, since it refuses to be root itself.
const nobody = 65534

// identity is who the Postgres child is.
type identity struct {
	// namespace: root outside, nobody inside a user namespace. The files stay root's, and nothing needs to be given away.
	namespace bool
	// given: the files are given to the real nobody, where namespaces are refused.
	given bool
}

// postgresIdentity finds out as whom Postgres can run, and makes its folder that user's.
func (s *station) postgresIdentity(ctx context.Context, folder string) (identity, error) {
	if os.Geteuid() != 0 {
		return identity{}, nil
	}
	who := identity{namespace: true}
	if !s.namespacesWork(ctx) {
		who = identity{given: true}
		if err := s.openWay(folder); err != nil {
			return identity{}, err
		}
	}
	if err := who.ownAll(folder); err != nil {
		return identity{}, err
	}
	return who, nil
}

// namespacesWork tries it out: containers, kernels and their policies refuse user namespaces in too many ways to ask.
func (s *station) namespacesWork(ctx context.Context) bool {
	if s.refuseNamespaces {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.packages.postgres, "--version")
	cmd.Env = childEnvironment()
	cmd.SysProcAttr = identity{namespace: true}.attributes(syscall.SIGKILL)
	return cmd.Run() == nil
}

// attributes start a process as this user; it receives the signal when we die.
func (i identity) attributes(onOurDeath syscall.Signal) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Pdeathsig: onOurDeath}
	if i.namespace {
		root := []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}}
		attributes.Cloneflags = syscall.CLONE_NEWUSER
		attributes.UidMappings, attributes.GidMappings = root, root
	}
	if i.namespace || i.given {
		attributes.Credential = &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: i.namespace}
	}
	return attributes
}

// own makes one file this user's.
func (i identity) own(path string) error {
	owner := 0
	switch {
	case i.given:
		owner = nobody
	case !i.namespace:
		return nil
	}
	if err := os.Lchown(path, owner, owner); err != nil {
		return fmt.Errorf("give a file to postgres: %w", err)
	}
	return nil
}

// ownAll makes a folder this user's, where the last start ran as somebody else.
func (i identity) ownAll(folder string) error {
	info, err := os.Stat(folder)
	if err != nil {
		return fmt.Errorf("look at the folder of postgres: %w", err)
	}
	want := uint32(0)
	if i.given {
		want = nobody
	}
	if info.Sys().(*syscall.Stat_t).Uid == want {
		return nil
	}
	err = filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		return i.own(path)
	})
	if err != nil {
		return fmt.Errorf("give the folder to postgres: %w", err)
	}
	return i.own(folder) // last, so that an interrupted walk is walked again
}

// openWay makes sure that nobody can reach its data and its programs, or says which folder is in the way. The data
// directory is ours and may be passed through; what lies above it is not ours to open.
func (s *station) openWay(folder string) error {
	info, err := os.Stat(s.Dir)
	if err != nil {
		return fmt.Errorf("look at the data directory: %w", err)
	}
	if err := os.Chmod(s.Dir, info.Mode().Perm()|0o001); err != nil {
		return fmt.Errorf("open the data directory for postgres: %w", err)
	}
	for _, target := range []string{folder, s.packages.postgres} {
		for parent := filepath.Dir(target); ; parent = filepath.Dir(parent) {
			info, err := os.Stat(parent)
			if err != nil {
				return fmt.Errorf("look for a way to %s: %w", target, err)
			}
			if info.Mode().Perm()&0o001 == 0 {
				return fmt.Errorf("postgres refuses to run as root, user namespaces are refused here, and user %d cannot enter %s on the way to %s: "+
					"run as an ordinary user, or move it", nobody, parent, target)
			}
			if parent == filepath.Dir(parent) {
				break
			}
		}
	}
	return nil
}
