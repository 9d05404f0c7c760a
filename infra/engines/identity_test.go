//go:build linux && amd64 && !noengines

// Below the story: the engines as root, as an ordinary user and as nobody.

package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// visit is the part of the process that runs as an ordinary user: it uses the engines twice.
func visit(dir string) error {
	if os.Geteuid() == 0 {
		return errors.New("the visitor is root")
	}
	ctx := context.Background()
	for n := range 2 {
		e, err := Start(ctx, testConfig(dir))
		if err != nil {
			return err
		}
		if err := errors.Join(write(ctx, e, n, n+1, nil), e.Stop(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// TestAnOrdinaryUserCanRunThem runs them as nobody where the tests are root, in a user namespace where there are some,
// since the checkout may lie where nobody else may look.
func TestAnOrdinaryUserCanRunThem(t *testing.T) {
	dir := sharedDir(t)
	s := &station{Config: testConfig(dir)}
	var err error
	if s.packages, err = locate(s.Packages); err != nil {
		t.Fatal(err)
	}
	visitor := exec.Command("/proc/self/exe")
	visitor.Env = append(os.Environ(), roleVariable+"=visitor", "NIDO_ENGINES_TEST_DIR="+filepath.Join(dir, "data"))
	if os.Geteuid() == 0 {
		who := identity{namespace: s.namespacesWork(t.Context())}
		who.given = !who.namespace
		if err := who.own(dir); err != nil {
			t.Fatal(err)
		}
		visitor.SysProcAttr = who.attributes(syscall.SIGKILL)
	}
	if output, err := visitor.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func TestWithoutNamespacesPostgresRunsAsNobodyOrSaysWhatIsInItsWay(t *testing.T) {
	cfg := testConfig(filepath.Join(sharedDir(t), "data"))
	cfg.refuseNamespaces = true
	found, err := locate(cfg.Packages)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Start(t.Context(), cfg)
	if blocked := firstClosed(t, found.postgres); os.Geteuid() == 0 && blocked != "" {
		if err == nil || !strings.Contains(err.Error(), "cannot enter "+blocked) {
			t.Errorf("%s cannot be entered, got %v", blocked, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(t.Context(), e, 0, 1, nil), e.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	// The next start has namespaces again and takes the files back.
	cfg.refuseNamespaces = false
	if err := write(t.Context(), startEngines(t, cfg), 1, 2, nil); err != nil {
		t.Error(err)
	}
}

func TestAFolderThatNobodyCanEnterIsNamed(t *testing.T) {
	closed := filepath.Join(sharedDir(t), "closed")
	if err := os.MkdirAll(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "data")
	if err := os.MkdirAll(filepath.Join(dir, postgresFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &station{Config: Config{Dir: dir}}
	err := s.openWay(filepath.Join(dir, postgresFolder))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("user %d cannot enter %s on the way", nobody, closed)) {
		t.Errorf("got %v", err)
	}
}

// firstClosed is the folder nearest to a file that others may not pass through.
func firstClosed(t *testing.T, file string) string {
	t.Helper()
	for parent := filepath.Dir(file); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return parent
		}
		if parent == filepath.Dir(parent) {
			return ""
		}
	}
}

// sharedDir is a temporary directory that others may pass through, which t.TempDir's is not.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nido engines")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
