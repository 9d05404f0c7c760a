package backup

// This file tests how a backup lies on the disk: what is written today must be read for ever, and nothing else.

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
)

// The flag only ever adds: backups like the golden files lie somewhere, and no flag can take that back.
var update = flag.Bool("update", false, "write the golden files that are missing; those that exist stay as they are")

// oldKeys are the ones that the golden files were written with.
func oldKeys(t *testing.T) keyring.BackupKeys { return keysOf(t, 'k') }

func keysOf(t *testing.T, letter byte) keyring.BackupKeys {
	t.Helper()
	keys, err := keyring.ForBackup(bytes.Repeat([]byte{letter}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func openDir(t *testing.T, dir string, keys keyring.BackupKeys) folder {
	t.Helper()
	opened, err := openFolder(dir, keys)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// write makes a file of the backup.
func (f folder) write(t *testing.T, name string, content []byte) File {
	t.Helper()
	out, err := f.create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(content); err != nil {
		t.Fatal(err)
	}
	file, err := out.close()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (f folder) content(file File) (content []byte, err error) {
	err = f.each(file, nil, func(from io.Reader) (err error) {
		content, err = io.ReadAll(from)
		return err
	})
	return content, err
}

// What the golden segment was when it was written.
const (
	goldenSegmentBytes  = 258
	goldenSegmentSHA256 = "e627c44beef8192ebf84f2027ccbac7a93c32f1e84ab8a0e5f59754c9136a172"
)

var goldenRecords = []kafka.Raw{
	{Offset: 0, Time: time.UnixMilli(1_773_489_600_123).UTC(), Key: []byte("agent-agt_1"), Value: []byte(`{"base":0}`), Headers: []kafka.RawHeader{
		{Name: []byte("ce_id"), Value: []byte("cmd_1.0")}, {Name: []byte("x"), Value: []byte{}}, {Name: []byte("x"), Value: nil},
	}},
	{Offset: 1, Time: time.UnixMilli(-1).UTC(), Key: nil, Value: []byte{}, Headers: []kafka.RawHeader{}},
	{Offset: 2, Time: time.UnixMilli(0).UTC(), Key: []byte{}, Value: nil, Headers: []kafka.RawHeader{{Name: []byte{}, Value: []byte{0, 255}}}},
}

func goldenManifest() *Manifest {
	at := time.Date(2026, 3, 14, 12, 0, 0, 123e6, time.UTC)
	file := func(name string, bytes int64) File {
		return File{Name: name + suffix, Bytes: bytes, SHA256: strings.Repeat("0123456789abcdef", 4)}
	}
	return &Manifest{
		ID: "20260314T120000Z-abcdefgh", Began: at, Taken: at.Add(time.Second), Prefix: "nido",
		Log: []Topic{
			{Name: "control", Partitions: []Partition{{End: 1, Last: "aa", Segments: []Segment{{Records: 1, File: file("log/control-0-00000000000000000000", 300)}}}}},
			{Name: "events", Partitions: []Partition{
				{End: 12, Last: "bb", Segments: []Segment{
					{Records: 10, File: file("log/events-0-00000000000000000000", 4000)}, {First: 10, Records: 2, File: file("log/events-0-00000000000000000010", 700)},
				}},
				{Partition: 1},
			}},
		},
		Tables: []Table{{Name: "data_keys", Columns: []string{"id", "owner"}, Rows: 3, File: file("tables/data_keys-20260314T120000Z-abcdefgh.csv", 500)}},
		Requests: RequestLog{
			Taken: at.Add(2 * time.Second), Behind: 1,
			Days: []Day{{Day: "2026-03-14", Rows: 42, Digest: "FACCAD49F0747B3A", File: file("requests/2026-03-14-20260314T120000Z-abcdefgh.native", 5000)}},
			Gaps: &Table{Name: "gaps", Rows: 1, File: file("requests/gaps-20260314T120000Z-abcdefgh.native", 200)},
		},
	}
}

func TestAManifestIsWrittenAndReadAsItAlwaysWas(t *testing.T) {
	golden, dir := filepath.Join("testdata", "manifest.v1.json"), t.TempDir()
	if err := goldenManifest().save(dir, manifestName, oldKeys(t)); err != nil {
		t.Fatal(err)
	}
	today, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(golden); errors.Is(err, os.ErrNotExist) && *update {
		if err := os.WriteFile(golden, today, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("read the golden file (-update writes a missing one): %v", err)
	}
	if !bytes.Equal(kept, today) {
		t.Errorf("today's manifest is\n%s\nand not\n%s", today, kept)
	}
	if err := os.WriteFile(filepath.Join(dir, manifestName), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := Load(dir, oldKeys(t))
	if err != nil {
		t.Fatal(err)
	}
	want := goldenManifest()
	want.Format, want.MasterKey, want.MAC = Format, read.MasterKey, read.MAC
	if !reflect.DeepEqual(read, want) {
		t.Errorf("read\n%+v\nnot\n%+v", read, want)
	}

	for what, change := range map[string]struct {
		old, new string
		want     error
	}{
		"a later end":      {`"end": 12`, `"end": 11`, ErrDamaged},
		"another hash":     {`"sha256": "0123`, `"sha256": "1123`, ErrDamaged},
		"a field more":     {`"prefix":`, `"surprise": 1, "prefix":`, ErrDamaged},
		"another format":   {`"format": 1`, `"format": 2`, ErrFormat},
		"a half":           {string(kept[len(kept)/2:]), ``, ErrDamaged},
		"a missing one":    {string(kept), ``, ErrDamaged},
		"another key's":    {`"masterKey": "`, `"masterKey": "A`, keyring.ErrMasterKey},
		"a file elsewhere": {`"file": "log/control`, `"file": "../control`, ErrDamaged},
	} {
		changed := strings.Replace(string(kept), change.old, change.new, 1)
		if err := os.WriteFile(filepath.Join(dir, manifestName), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, oldKeys(t)); !errors.Is(err, change.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Load(t.TempDir(), oldKeys(t)); !errors.Is(err, ErrNoBackup) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := load("testdata", "manifest.v1.json", keysOf(t, 'x')); !errors.Is(err, keyring.ErrMasterKey) {
		t.Errorf("another master key: %v", err)
	}
}

func TestASegmentIsReadAsItAlwaysWas(t *testing.T) {
	golden := filepath.Join("testdata", "segment.v1"+suffix)
	from := openDir(t, "testdata", oldKeys(t))
	if _, err := os.Stat(golden); errors.Is(err, os.ErrNotExist) && *update {
		var content []byte
		for _, record := range goldenRecords {
			content = appendFrame(content, record)
		}
		t.Logf("written: %+v", from.write(t, "segment.v1", content))
	}
	segment := Segment{Records: 3, File: File{Name: "segment.v1" + suffix, Bytes: goldenSegmentBytes, SHA256: goldenSegmentSHA256}}
	var read []kafka.Raw
	err := from.each(segment.File, nil, func(content io.Reader) error {
		return eachRecord(content, segment, func(record kafka.Raw) error { read = append(read, record); return nil })
	})
	if err != nil || !reflect.DeepEqual(read, goldenRecords) {
		t.Errorf("%v, read\n%+v\nnot\n%+v", err, read, goldenRecords)
	}
	for what, other := range map[string]Segment{
		"one record less": {Records: 2, File: segment.File}, "one record more": {Records: 4, File: segment.File}, "another beginning": {First: 1, Records: 3, File: segment.File},
	} {
		err := from.each(segment.File, nil, func(content io.Reader) error {
			return eachRecord(content, other, func(kafka.Raw) error { return nil })
		})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEveryRecordComesBackAsItWas(t *testing.T) {
	text := func(t *rapid.T, name string) []byte {
		if rapid.IntRange(0, 4).Draw(t, name+" none") == 0 {
			return nil
		}
		return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		var written []byte
		var records []kafka.Raw
		for range rapid.IntRange(0, 5).Draw(t, "records") {
			record := kafka.Raw{
				Offset: rapid.Int64Min(0).Draw(t, "offset"), Time: time.UnixMilli(rapid.Int64Range(-1e15, 1e15).Draw(t, "time")).UTC(),
				Key: text(t, "key"), Value: text(t, "value"), Headers: []kafka.RawHeader{},
			}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				record.Headers = append(record.Headers, kafka.RawHeader{Name: text(t, "name"), Value: text(t, "value")})
			}
			records, written = append(records, record), appendFrame(written, record)
		}
		from := bufio.NewReader(bytes.NewReader(written))
		for _, want := range records {
			if read, err := readFrame(from); err != nil || !reflect.DeepEqual(read, want) {
				t.Fatalf("%v, read %+v, not %+v", err, read, want)
			}
		}
		if _, err := readFrame(from); !errors.Is(err, io.EOF) {
			t.Fatalf("behind the last one: %v", err)
		}
		if len(written) > 0 { // what is cut off anywhere is either whole records or an error
			cut := bufio.NewReader(bytes.NewReader(written[:rapid.IntRange(0, len(written)-1).Draw(t, "cut")]))
			whole := 0
			for err := error(nil); err == nil; whole++ {
				_, err = readFrame(cut)
			}
			if whole > len(records) {
				t.Fatalf("%d records in a part of %d", whole-1, len(records))
			}
		}
	})
}

func TestAFileThatIsNotWhatWasWrittenIsRefused(t *testing.T) {
	dir := t.TempDir()
	to := openDir(t, dir, oldKeys(t))
	content := bytes.Repeat([]byte("a sentence that is worth a backup; "), 10_000)
	for i := range content {
		content[i] ^= byte(i * i >> 3) // else it is a few bytes
	}
	file := to.write(t, "log/x", content)
	if read, err := to.content(file); err != nil || !bytes.Equal(read, content) {
		t.Fatalf("%v, %d bytes", err, len(read))
	}
	path := filepath.Join(dir, filepath.FromSlash(file.Name))
	sealed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("sentence")) || int64(len(sealed)) != file.Bytes {
		t.Errorf("%d bytes, in plain: %v", len(sealed), bytes.Contains(sealed, []byte("sentence")))
	}
	damaged := map[string][]byte{
		"nothing": {}, "one byte more": append(bytes.Clone(sealed), 0), "one byte less": sealed[:len(sealed)-1],
		"the first half": sealed[:len(sealed)/2], "without its last chunk": sealed[:len(sealed)-len(sealed)%(64<<10+16)],
	}
	for _, at := range []int{0, 40, 120, 300, len(sealed) / 2, len(sealed) - 1} {
		changed := bytes.Clone(sealed)
		changed[at] ^= 1
		damaged["byte "+string(rune('a'+len(damaged)))] = changed
	}
	for what, bad := range damaged {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := to.content(file); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), file.Name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(path, sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDir(t, dir, keysOf(t, 'x')).content(file); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
	other := file
	other.SHA256 = strings.Repeat("0", 64)
	if _, err := to.content(other); !errors.Is(err, ErrDamaged) {
		t.Errorf("another hash: %v", err)
	}
}

func TestOnlyWhatABackupNamesIsLeftInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	to := openDir(t, dir, oldKeys(t))
	m := &Manifest{Tables: []Table{{Name: "data_keys", File: to.write(t, "tables/data_keys-2", []byte("x"))}}}
	to.write(t, "tables/data_keys-1", []byte("x"))
	cut, err := to.create("log/events-0-1")
	if err != nil {
		t.Fatal(err)
	}
	defer cut.abort()
	to.write(t, "older/log/events-0-1", []byte("x")) // a copy of the directory that somebody keeps beside it
	for _, name := range []string{partialName, manifestName, "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.sweep(dir); err != nil {
		t.Fatal(err)
	}
	var left []string
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left = append(left, entry.Name())
		}
		return err
	})
	if want := []string{manifestName, "notes.txt", "events-0-1" + suffix, "data_keys-2" + suffix}; err != nil || !reflect.DeepEqual(left, want) {
		t.Errorf("%v, left %v, not %v", err, left, want)
	}
	if err := isFree(dir); err == nil || !strings.Contains(err.Error(), "notes.txt") {
		t.Errorf("a directory with notes: %v", err)
	}
}
