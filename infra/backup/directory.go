package backup

// This file stands at the directory: what is written has its name durably or not at all, and what is left over goes.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// temporary is what files are called while they are written.
const temporary = ".part"

// writeWhole writes a small file durably.
func writeWhole(path string, content []byte) error {
	file, err := os.OpenFile(path+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(path+temporary, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolders makes the names of all files durable. What else lies in the directory may be closed to us, as a disk's
// lost+found is.
func syncFolders(dir string) error {
	for _, name := range folders {
		if err := syncFolder(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncFolder(dir)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err == nil {
		err = errors.Join(folder.Sync(), folder.Close())
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// folders are what a backup's files lie in.
var folders = []string{"log", "tables", "requests"}

// sweep removes what no manifest names: leftovers of runs that were cut off, and what this run has replaced. Files that
// are none of this backup's stay, also those of another one in a folder beside these.
func (m *Manifest) sweep(dir string) error {
	named := map[string]bool{}
	for _, file := range m.files() {
		named[file.Name] = true
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "." || slices.Contains(folders, name)):
			return nil
		case entry.IsDir():
			return fs.SkipDir
		}
		ours := strings.HasSuffix(name, suffix) || strings.HasSuffix(name, temporary) || name == partialName
		if !ours || named[filepath.ToSlash(name)] {
			return nil
		}
		return os.Remove(path)
	})
}
