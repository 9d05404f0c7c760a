package api

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/errors.md anew")

func TestEveryCodeIsDocumented(t *testing.T) {
	const page = "../docs/errors.md"
	if *update {
		if err := os.WriteFile(page, []byte(ErrorsPage()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != ErrorsPage() {
		t.Error("docs/errors.md differs from the catalogue: go test ./api -run TestEveryCodeIsDocumented -update")
	}
	seen := map[string]bool{}
	for _, entry := range catalogue {
		if seen[entry.Code] || entry.English == "" || entry.Spanish == "" || entry.Advice == "" || entry.Status < 400 {
			t.Errorf("the entry of %s is not whole, or there twice", entry.Code)
		}
		seen[entry.Code] = true
	}
}

// Whatever the rest of the product refuses with must be in the catalogue: it would be an internal error otherwise.
func TestEveryCodeOfTheProductIsInTheCatalogue(t *testing.T) {
	codes := []*regexp.Regexp{
		regexp.MustCompile(`domain\.Refuse\("([a-z_]+)"|\bRefuse\("([a-z_]+)"`),
		regexp.MustCompile(`RefuseField\([^,]+, "([a-z_]+)"`),
		regexp.MustCompile(`ModelError\{Code: "([a-z_]+)"`),
	}
	found := 0
	for _, folder := range []string{"../domain", "../commands", "../projections", "../infra/model", "."} {
		err := filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, pattern := range append(codes, regexp.MustCompile(`problem\("([a-z_]+)"\)`), regexp.MustCompile(`Problem\{Code: "([a-z_]+)"`)) {
				for _, match := range pattern.FindAllStringSubmatch(string(source), -1) {
					found++
					if code := strings.Join(match[1:], ""); entries[code].Code == "" {
						t.Errorf("%s: the code %s is not in the catalogue", path, code)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 40 {
		t.Errorf("only %d uses of codes were found: the patterns are out of date", found)
	}
}
