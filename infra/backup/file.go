package backup

// This file stands between the copies and the disk: a file is compressed, sealed, counted, and has its name only when it
// is whole.

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/nidohq/nido/infra/keyring"
)

// suffix is of all files but the manifest.
const suffix = ".zst.age"

// seal is both sides of age's envelope: it wraps and unwraps the key of a file under one that is derived from the master
// key. The rest, which is sealing a stream so that nothing can be cut off or swapped, is age's.
type seal struct{ aead cipher.AEAD }

// stanza is how age's header calls our way of wrapping.
const stanza = "nido.backup"

func newSeal(keys keyring.BackupKeys) (seal, error) {
	block, err := aes.NewCipher(keys.Files)
	if err != nil {
		return seal{}, fmt.Errorf("use the backup's key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return seal{}, fmt.Errorf("use the backup's key: %w", err)
	}
	return seal{aead}, nil
}

// Wrap implements age.Recipient.
func (s seal) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: stanza, Body: s.aead.Seal(nil, nil, fileKey, []byte(stanza))}}, nil
}

// Unwrap implements age.Identity.
func (s seal) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, found := range stanzas {
		if found.Type != stanza {
			continue
		}
		if key, err := s.aead.Open(nil, nil, found.Body, []byte(stanza)); err == nil {
			return key, nil
		}
	}
	return nil, age.ErrIncorrectIdentity
}

// folder is where files are written to or read from.
type folder struct {
	path string
	seal seal
}

func openFolder(path string, keys keyring.BackupKeys) (folder, error) {
	sealing, err := newSeal(keys)
	return folder{path: path, seal: sealing}, err
}

// output is a file that is being written.
type output struct {
	name    string // relative, with slashes
	path    string
	file    *os.File
	out     *bufio.Writer
	hash    hash.Hash
	bytes   int64
	sealing io.WriteCloser
	zip     *zstd.Encoder
}

// create begins a file. Nobody takes it for one of the backup's before close, and the manifest, have named it.
func (f folder) create(name string) (_ *output, err error) {
	o := &output{name: name + suffix, hash: sha256.New()}
	o.path = filepath.Join(f.path, filepath.FromSlash(o.name))
	if err := os.MkdirAll(filepath.Dir(o.path), 0o700); err != nil {
		return nil, fmt.Errorf("write %s: %w", o.name, err)
	}
	if o.file, err = os.OpenFile(o.path+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, fmt.Errorf("write %s: %w", o.name, err)
	}
	o.out = bufio.NewWriterSize(o.file, 256<<10)
	if o.sealing, err = age.Encrypt(counted{o}, f.seal); err == nil {
		o.zip, err = zstd.NewWriter(o.sealing, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	}
	if err != nil {
		o.abort()
		return nil, fmt.Errorf("write %s: %w", o.name, err)
	}
	return o, nil
}

// counted is the way of the sealed bytes.
type counted struct{ *output }

func (c counted) Write(data []byte) (int, error) {
	c.hash.Write(data)
	c.bytes += int64(len(data))
	return c.out.Write(data)
}

// Write takes plain bytes.
func (o *output) Write(data []byte) (int, error) { return o.zip.Write(data) }

// close makes the file durable and gives it its name.
func (o *output) close() (File, error) {
	err := o.zip.Close()
	if err == nil {
		err = o.sealing.Close()
	}
	if err == nil {
		err = o.out.Flush()
	}
	if err == nil {
		err = o.file.Sync()
	}
	if err != nil {
		o.abort()
		return File{}, fmt.Errorf("write %s: %w", o.name, err)
	}
	if err := errors.Join(o.file.Close(), os.Rename(o.path+temporary, o.path)); err != nil {
		return File{}, fmt.Errorf("write %s: %w", o.name, err)
	}
	return File{Name: o.name, Bytes: o.bytes, SHA256: hex.EncodeToString(o.hash.Sum(nil))}, nil
}

// abort gives the file up. What is left of it, if anything, the next run sweeps.
func (o *output) abort() {
	_ = o.file.Close()
	_ = os.Remove(o.path + temporary)
}

// input is a file that is being read.
type input struct {
	File
	file *os.File
	raw  *bufio.Reader // the sealed bytes, counted and hashed as they go
	hash hash.Hash
	read int64
	zip  *zstd.Decoder
	tell func(bytes int)
}

// open begins to read a file; tell, which may be nil, hears how many of its bytes have been read.
func (f folder) open(file File, tell func(bytes int)) (*input, error) {
	in := &input{File: file, hash: sha256.New(), tell: tell}
	var err error
	if in.file, err = os.Open(filepath.Join(f.path, filepath.FromSlash(file.Name))); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	in.raw = bufio.NewReaderSize(hashed{in}, 256<<10)
	plain, err := age.Decrypt(in.raw, f.seal)
	if err == nil {
		in.zip, err = zstd.NewReader(plain, zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		return nil, errors.Join(in.damaged(err), in.file.Close())
	}
	return in, nil
}

// hashed is the way of the sealed bytes.
type hashed struct{ *input }

func (h hashed) Read(data []byte) (int, error) {
	n, err := h.file.Read(data)
	h.hash.Write(data[:n])
	h.read += int64(n)
	if h.tell != nil {
		h.tell(n)
	}
	return n, err
}

// Read gives plain bytes.
func (in *input) Read(data []byte) (int, error) {
	n, err := in.zip.Read(data)
	if err != nil && !errors.Is(err, io.EOF) {
		err = in.damaged(err)
	}
	return n, err
}

// finish reads what is left and compares the file with what the manifest says.
func (in *input) finish() error {
	_, err := io.Copy(io.Discard, in)
	if err == nil {
		_, err = io.Copy(io.Discard, in.raw)
	}
	switch {
	case err != nil:
		return err
	case in.read != in.Bytes:
		return in.damaged(fmt.Errorf("it has %d bytes instead of %d", in.read, in.Bytes))
	case hex.EncodeToString(in.hash.Sum(nil)) != in.SHA256:
		return in.damaged(errors.New("it has another SHA-256"))
	}
	return nil
}

func (in *input) damaged(err error) error { return fmt.Errorf("%w: %s: %w", ErrDamaged, in.Name, err) }

func (in *input) close() error {
	if in.zip != nil {
		in.zip.Close()
	}
	return in.file.Close()
}

// each opens a file, has it read, and makes sure that all of it was what had been written.
func (f folder) each(file File, tell func(bytes int), read func(io.Reader) error) error {
	in, err := f.open(file, tell)
	if err != nil {
		return err
	}
	if err = read(in); err == nil {
		err = in.finish()
	}
	return errors.Join(err, in.close())
}
