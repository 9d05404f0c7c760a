package backup

// This file stands at the end of a backup: the list of its files, without which they are none.

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nidohq/nido/infra/keyring"
)

// Format is how files and manifest are written. Another one is another number, and readers for the old ones stay.
const Format = 1

const (
	manifestName = "manifest.json"
	// partialName is the log's part of a backup that has not finished: a first backup of a large log that is interrupted
	// goes on there. It is never taken for a backup.
	partialName = "unfinished.json"
)

var (
	// ErrNoBackup: there is no manifest. Either it is another directory, or the first backup into it did not finish.
	ErrNoBackup = errors.New("there is no finished backup")
	// ErrDamaged: the backup is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrFormat: another version of Nido wrote it.
	ErrFormat = errors.New("the backup's format is unknown")
)

// Manifest is a backup.
type Manifest struct {
	Format    int        `json:"format"`
	ID        string     `json:"id"` // of this run
	Began     time.Time  `json:"began"`
	Taken     time.Time  `json:"taken"`     // when the log's ends were read: what was acknowledged before is in it
	Prefix    string     `json:"prefix"`    // of the topics; control records name them
	MasterKey string     `json:"masterKey"` // its check value, in base64
	Log       []Topic    `json:"log"`
	Tables    []Table    `json:"tables"` // of Postgres' schema nido
	Requests  RequestLog `json:"requests"`
	MAC       string     `json:"mac"` // HMAC-SHA256 of this document with an empty mac, in base64
}

// Topic is a topic of the log.
type Topic struct {
	Name       string      `json:"name"` // "control" or "events"
	Partitions []Partition `json:"partitions"`
}

// Partition is a partition from its beginning to an end.
type Partition struct {
	Partition int32     `json:"partition"`
	End       int64     `json:"end"`            // the next offset
	Last      string    `json:"last,omitempty"` // fingerprint of the last record, in hex
	Segments  []Segment `json:"segments"`       // one behind the other
}

// Segment is some records of a partition.
type Segment struct {
	First   int64 `json:"first"` // offset
	Records int64 `json:"records"`
	File
}

// Table is a table of Postgres, or ClickHouse's gaps.
type Table struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns,omitempty"`
	Rows    int64    `json:"rows"`
	File
}

// RequestLog is ClickHouse's part.
type RequestLog struct {
	Taken  time.Time `json:"taken"`
	Days   []Day     `json:"days"`
	Gaps   *Table    `json:"gaps,omitempty"`
	Behind int64     `json:"behind"` // bundles that had not reached ClickHouse
}

// Day is a day of the request log, in UTC.
type Day struct {
	Day    string `json:"day"` // 2026-11-21
	Rows   int64  `json:"rows"`
	Digest string `json:"digest"` // of the rows' identities, before they were copied
	File
}

// File is one file of the backup.
type File struct {
	Name   string `json:"file"` // relative to the manifest
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// topic returns a part of the log; a topic that is not there has no partitions.
func (m *Manifest) topic(name string) Topic {
	for _, topic := range m.Log {
		if topic.Name == name {
			return topic
		}
	}
	return Topic{Name: name}
}

// partition returns what has been copied of a partition.
func (t Topic) partition(number int32) Partition {
	for _, partition := range t.Partitions {
		if partition.Partition == number {
			return partition
		}
	}
	return Partition{Partition: number}
}

// records is how many records a topic has.
func (t Topic) records() (sum int64) {
	for _, partition := range t.Partitions {
		sum += partition.End
	}
	return sum
}

// files are all files of the backup.
func (m *Manifest) files() (files []File) {
	for _, topic := range m.Log {
		for _, partition := range topic.Partitions {
			for _, segment := range partition.Segments {
				files = append(files, segment.File)
			}
		}
	}
	for _, table := range m.Tables {
		files = append(files, table.File)
	}
	for _, day := range m.Requests.Days {
		files = append(files, day.File)
	}
	if m.Requests.Gaps != nil {
		files = append(files, m.Requests.Gaps.File)
	}
	return files
}

// Events is how many records of the events topic there are.
func (m *Manifest) Events() int64 { return m.topic(eventsTopic).records() }

// Bytes is how large the files are together.
func (m *Manifest) Bytes() (sum int64) {
	for _, file := range m.files() {
		sum += file.Bytes
	}
	return sum
}

// Load reads the manifest of a directory and makes sure that it was written with this master key and not changed since.
func Load(dir string, keys keyring.BackupKeys) (*Manifest, error) {
	return load(dir, manifestName, keys)
}

func load(dir, name string, keys keyring.BackupKeys) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoBackup, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	var known struct {
		Format    int    `json:"format"`
		MasterKey string `json:"masterKey"`
	}
	if err := json.Unmarshal(data, &known); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	if known.Format != Format {
		return nil, fmt.Errorf("%w: it is %d, this version of nido knows %d", ErrFormat, known.Format, Format)
	}
	if known.MasterKey != base64.StdEncoding.EncodeToString(keys.Check) {
		return nil, fmt.Errorf("%w: the backup was made with another one", keyring.ErrMasterKey)
	}
	m := &Manifest{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
	}
	mac, err := m.authenticate(keys)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(mac), []byte(m.MAC)) {
		return nil, fmt.Errorf("%w: %s has been changed", ErrDamaged, name)
	}
	return m, m.check()
}

// check is what every manifest satisfies: readers need not look again.
func (m *Manifest) check() error {
	for _, file := range m.files() {
		if !filepath.IsLocal(file.Name) || file.Bytes <= 0 || len(file.SHA256) != hex.EncodedLen(sha256.Size) {
			return fmt.Errorf("%w: the manifest has a file %q of %d bytes", ErrDamaged, file.Name, file.Bytes)
		}
	}
	for _, topic := range m.Log {
		for i, partition := range topic.Partitions {
			next := int64(0)
			for _, segment := range partition.Segments {
				if segment.First != next || segment.Records <= 0 {
					return fmt.Errorf("%w: %s, partition %d: the segment behind offset %d begins at %d", ErrDamaged, topic.Name, partition.Partition, next-1, segment.First)
				}
				next += segment.Records
			}
			if next != partition.End || partition.Partition != int32(i) {
				return fmt.Errorf("%w: %s, partition %d: the segments end at %d, the partition at %d", ErrDamaged, topic.Name, partition.Partition, next, partition.End)
			}
		}
	}
	return nil
}

func (m *Manifest) authenticate(keys keyring.BackupKeys) (string, error) {
	bare := *m
	bare.MAC = ""
	data, err := json.Marshal(&bare)
	if err != nil {
		return "", fmt.Errorf("write the manifest: %w", err)
	}
	mac := hmac.New(sha256.New, keys.Manifest)
	mac.Write(data)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// save puts a manifest in place, whole or not at all, behind everything that it names.
func (m *Manifest) save(dir, name string, keys keyring.BackupKeys) (err error) {
	m.Format, m.MasterKey = Format, base64.StdEncoding.EncodeToString(keys.Check)
	if m.MAC, err = m.authenticate(keys); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := syncFolders(dir); err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, name), append(data, '\n'))
}
