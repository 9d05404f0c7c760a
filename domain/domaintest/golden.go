package domaintest

// This file stands at the log: every schema of an event that was ever written has a golden file, kept for ever, and
// today's code reads all of them.

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/nidohq/nido/domain"
)

// The flag only ever adds: what a golden file says has been written to logs, and no flag can take that back.
var update = flag.Bool("update", false, "write the golden files that are missing; those that exist stay as they are")

// Golden is one schema of a stored event, and what reading its golden file must give today.
type Golden[E any] struct {
	Type   string
	Schema int
	Event  E
}

// CheckGolden compares testdata/<type>.v<schema>.json with the codec, and the codec's table with the files.
func CheckGolden[C, E, S any](t *testing.T, aggregate domain.Aggregate[C, E, S], table ...Golden[E]) {
	t.Helper()
	files := map[string]bool{}
	newest := aggregate.Codec.Types()
	for _, golden := range table {
		name := goldenName(golden.Type, golden.Schema)
		if files[name] {
			t.Errorf("%s is listed twice", name)
		}
		files[name] = true
		t.Run(name, func(t *testing.T) { checkFile(t, aggregate, golden, name, golden.Schema == newest[golden.Type]) })
	}
	for stored, schemas := range newest {
		for schema := 1; schema <= schemas; schema++ {
			if name := goldenName(stored, schema); !files[name] {
				t.Errorf("the codec lists %s, which no golden file keeps", name)
			}
		}
	}
	checkNoneLeft(t, files)
}

func goldenName(stored string, schema int) string { return fmt.Sprintf("%s.v%d.json", stored, schema) }

func checkFile[C, E, S any](t *testing.T, aggregate domain.Aggregate[C, E, S], golden Golden[E], name string, newest bool) {
	path := filepath.Join("testdata", name)
	if newest && *update {
		writeMissing(t, path, today(t, aggregate, golden.Event))
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read the golden file (-update writes a missing one): %v", err)
	}
	var stored domain.Stored
	if err := json.Unmarshal(kept, &stored); err != nil {
		t.Fatalf("the golden file is no stored event: %v", err)
	}
	if stored.Type != golden.Type || stored.Schema != golden.Schema {
		t.Fatalf("the golden file holds %s, schema %d", stored.Type, stored.Schema)
	}
	event, err := aggregate.Codec.Decode(stored)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if !reflect.DeepEqual(event, golden.Event) {
		t.Errorf("read\n%#v\nnot\n%#v", event, golden.Event)
	}
	if !newest {
		return
	}
	if now := today(t, aggregate, golden.Event); !bytes.Equal(now, kept) {
		t.Errorf("stored today as\n%s\nand before as\n%s\nA new form is a new schema number, an upcaster and a new golden file.", now, kept)
	}
}

// today is the event's stored form as this code writes it, and a newline.
func today[C, E, S any](t *testing.T, aggregate domain.Aggregate[C, E, S], event E) []byte {
	t.Helper()
	stored, err := aggregate.Codec.Encode([]E{event})
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	data, err := json.Marshal(stored[0])
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	return append(data, '\n')
}

func writeMissing(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// checkNoneLeft finds golden files that nothing reads any more. testdata/rapid holds failed examples, not files of ours.
func checkNoneLeft(t *testing.T, files map[string]bool) {
	t.Helper()
	kept, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range kept {
		if !entry.IsDir() && !files[entry.Name()] {
			t.Errorf("testdata/%s is read by nothing: what was written once must stay readable", entry.Name())
		}
	}
}
