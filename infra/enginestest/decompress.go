package enginestest

// This file stands behind ClickHouse's files and Kafka's records: what is in them, for tests that look for a text.

import (
	"bytes"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// The compressed blocks of ClickHouse's files: a checksum, a method, both sizes, the data.
const (
	blockChecksum = 16
	blockHeader   = 9 // the compressed size counts it
	methodLZ4     = 0x82
)

var (
	zstdMagic   = []byte{0x28, 0xb5, 0x2f, 0xfd}
	zstdDecoder = func() *zstd.Decoder {
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.IgnoreChecksum(true))
		if err != nil {
			panic(err) // wrong options
		}
		return decoder
	}()
)

// Decompressed is everything in a file that can be decompressed, wherever it begins: blocks of ClickHouse's, and frames of
// zstd whatever is around them.
func Decompressed(data []byte) (plain []byte) {
	for rest := data; len(rest) > blockChecksum+blockHeader; {
		method := rest[blockChecksum]
		size := int(binary.LittleEndian.Uint32(rest[blockChecksum+1:]))
		original := int(binary.LittleEndian.Uint32(rest[blockChecksum+5:]))
		if size <= blockHeader || size > len(rest)-blockChecksum || original < 0 || original > 1<<28 {
			break // no block, or the end of them
		}
		if method == methodLZ4 {
			block := make([]byte, original)
			if n, err := lz4.UncompressBlock(rest[blockChecksum+blockHeader:blockChecksum+size], block); err == nil {
				plain = append(plain, block[:n]...)
			}
		}
		rest = rest[blockChecksum+size:]
	}
	for at := 0; ; {
		next := bytes.Index(data[at:], zstdMagic)
		if next < 0 {
			return plain
		}
		at += next
		frame, _ := zstdDecoder.DecodeAll(data[at:], nil) // what follows the frame is not one
		plain = append(plain, frame...)
		at += len(zstdMagic)
	}
}
