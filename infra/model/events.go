package model

// This file stands below a streamed reply: the lines of a text/event-stream become events.

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"time"
)

// eventReader reads the data of server-sent events. Comments, names and ids of events are passed over.
type eventReader struct {
	lines *bufio.Reader
	body  io.Reader
	// What comes encrypted is read in pieces as the server wrote them, and only a read that had to wait says that there is no
	// more. In the clear a read brings all that came, as far as it fits.
	pieces bool
	waited bool   // the last read
	filled bool   // the last read, all the room that there was
	long   []byte // a line that does not fit into the buffer
	data   []byte
	limit  int
}

const keptBuffer = 16 << 10 // bytes; what grew larger is not kept for the next call

// atOnce is how long a read takes at most that need not wait.
const atOnce = 200 * time.Microsecond

// lineBuffer is what each reply under way holds; most lines are shorter.
const lineBuffer = 1 << 10

var eventReaders = sync.Pool{New: func() any { return &eventReader{lines: bufio.NewReaderSize(nil, lineBuffer)} }}

func newEventReader(body io.Reader, limit int) *eventReader {
	r := eventReaders.Get().(*eventReader)
	r.body, r.limit, r.pieces, r.waited, r.filled = body, limit, false, false, false
	r.lines.Reset(r)
	return r
}

func (r *eventReader) free() {
	r.lines.Reset(nil)
	r.body = nil
	if cap(r.data) > keptBuffer || cap(r.long) > keptBuffer {
		r.data, r.long = nil, nil
	}
	eventReaders.Put(r)
}

// next returns the data of the next event, which is good until the next call. An event that the end of the body cuts
// short counts as one: some servers leave the last empty line out.
func (r *eventReader) next() ([]byte, error) {
	r.data = r.data[:0]
	found := false
	for {
		line, err := r.line()
		if len(line) == 0 && found && (err == nil || errors.Is(err, io.EOF)) {
			return r.data, nil
		}
		if value, ok := dataOf(line); ok {
			if found {
				r.data = append(r.data, '\n')
			}
			found = true
			if r.data = append(r.data, value...); len(r.data) > r.limit {
				return nil, replyTooLarge()
			}
		}
		if errors.Is(err, io.EOF) && found {
			return r.data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// drained tells whether the next event has most likely not come yet. It may be wrong now and then: whoever rests for that
// finds more than one event then.
func (r *eventReader) drained() bool {
	if r.lines.Buffered() > 0 {
		return false
	}
	return r.waited || !r.pieces && !r.filled
}

// Read notes what a look at the network brought.
func (r *eventReader) Read(p []byte) (n int, err error) {
	if !r.pieces {
		n, err = r.body.Read(p)
		r.filled = n == len(p)
		return n, err
	}
	began := time.Now()
	n, err = r.body.Read(p)
	r.waited = time.Since(began) > atOnce
	return n, err
}

// line reads one line without its end.
func (r *eventReader) line() ([]byte, error) {
	line, err := r.lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		r.long = r.long[:0]
		for errors.Is(err, bufio.ErrBufferFull) {
			if r.long = append(r.long, line...); len(r.long) > r.limit {
				return nil, replyTooLarge()
			}
			line, err = r.lines.ReadSlice('\n')
		}
		r.long = append(r.long, line...)
		line = r.long
	}
	line = bytes.TrimSuffix(line, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'}), err
}

func dataOf(line []byte) ([]byte, bool) {
	value, ok := bytes.CutPrefix(line, []byte("data"))
	if !ok {
		return nil, false
	}
	if len(value) == 0 {
		return nil, true
	}
	if value[0] != ':' {
		return nil, false
	}
	return bytes.TrimPrefix(value[1:], []byte{' '}), true
}
