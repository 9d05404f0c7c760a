package backup

// This file stands at a segment of the log: how a record lies in a file.
//
// A record is its length and then its offset, timestamp, key, value and headers, all numbers being varints as in
// encoding/binary. The timestamp is in milliseconds since 1970. A text is its length and its bytes; the length -1 is none.

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nidohq/nido/infra/kafka"
)

// maxFrame bounds a record that is read: the log takes 4 MiB.
const maxFrame = 2 * kafka.MaxRecordBytes

// appendFrame adds a record to a buffer.
func appendFrame(to []byte, record kafka.Raw) []byte {
	body := make([]byte, 0, record.Bytes()+64+8*len(record.Headers))
	body = binary.AppendVarint(body, record.Offset)
	body = binary.AppendVarint(body, record.Time.UnixMilli())
	body = appendText(body, record.Key)
	body = appendText(body, record.Value)
	body = binary.AppendVarint(body, int64(len(record.Headers)))
	for _, header := range record.Headers {
		body = appendText(body, header.Name)
		body = appendText(body, header.Value)
	}
	to = binary.AppendUvarint(to, uint64(len(body)))
	return append(to, body...)
}

func appendText(to, text []byte) []byte {
	if text == nil {
		return binary.AppendVarint(to, -1)
	}
	to = binary.AppendVarint(to, int64(len(text)))
	return append(to, text...)
}

// errFrame: what is there is no record.
var errFrame = errors.New("a record cannot be read")

// readFrame reads the next record, or io.EOF behind the last one.
func readFrame(from *bufio.Reader) (kafka.Raw, error) {
	length, err := binary.ReadUvarint(from)
	if errors.Is(err, io.EOF) {
		return kafka.Raw{}, io.EOF
	}
	if err != nil {
		return kafka.Raw{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	if length > maxFrame {
		return kafka.Raw{}, fmt.Errorf("%w: it would have %d bytes", errFrame, length)
	}
	frame := frame{rest: make([]byte, length)}
	if _, err := io.ReadFull(from, frame.rest); err != nil {
		return kafka.Raw{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	record := kafka.Raw{Offset: frame.number(), Time: time.UnixMilli(frame.number()).UTC(), Key: frame.text(), Value: frame.text()}
	headers := frame.number()
	if headers < 0 || headers > int64(length) {
		return kafka.Raw{}, fmt.Errorf("%w: it would have %d headers", errFrame, headers)
	}
	record.Headers = make([]kafka.RawHeader, headers)
	for i := range record.Headers {
		record.Headers[i] = kafka.RawHeader{Name: frame.text(), Value: frame.text()}
	}
	if frame.broken || len(frame.rest) > 0 {
		return kafka.Raw{}, errFrame
	}
	return record, nil
}

// frame is a record that is taken apart.
type frame struct {
	rest   []byte
	broken bool
}

func (f *frame) number() int64 {
	number, n := binary.Varint(f.rest)
	if n <= 0 {
		f.broken, f.rest = true, nil
		return 0
	}
	f.rest = f.rest[n:]
	return number
}

func (f *frame) text() []byte {
	length := f.number()
	if f.broken || length < 0 {
		f.broken = f.broken || length < -1
		return nil
	}
	if length > int64(len(f.rest)) {
		f.broken, f.rest = true, nil
		return nil
	}
	text := f.rest[:length:length]
	f.rest = f.rest[length:]
	return text
}
