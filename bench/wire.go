//go:build linux

package main

// This file is the load generator's HTTP client: as little as speaks HTTP/1.1 to our own processes, since its work
// comes off the same cores as theirs.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// wire is one connection, made anew after a fault.
type wire struct {
	addr   string
	conn   net.Conn
	reader *bufio.Reader
	out    []byte
	answer bytes.Buffer
	mark   []byte    // what the first token of a stream looks like
	first  time.Time // when it was there
}

const exchangeTimeout = 30 * time.Second

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close() // whatever it says, we are done with it
		w.conn = nil
	}
}

// connect makes the connection, unless there is one.
func (w *wire) connect() (err error) {
	if w.conn != nil {
		return nil
	}
	if w.conn, err = net.DialTimeout("tcp", w.addr, 5*time.Second); err != nil {
		w.conn = nil
		return err
	}
	w.reader = bufio.NewReaderSize(w.conn, 8<<10)
	return nil
}

// exchange sends a request and reads the answer, which is valid until the next one.
func (w *wire) exchange(j *job, body []byte) (status int, answer []byte, err error) {
	w.mark, w.first = []byte(j.First), time.Time{}
	if err := w.connect(); err != nil {
		return 0, nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	host := j.Host
	if host == "" {
		host = w.addr
	}
	w.out = fmt.Appendf(w.out[:0], "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", j.Method, j.Path, host, len(body))
	if j.Key != "" {
		w.out = fmt.Appendf(w.out, "Authorization: Bearer %s\r\n", j.Key)
	}
	w.out = append(append(w.out, "\r\n"...), body...)
	if err := w.conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := w.conn.Write(w.out); err != nil {
		return 0, nil, err
	}
	return w.read()
}

func (w *wire) read() (status int, answer []byte, err error) {
	line, err := w.reader.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	fields := strings.Fields(string(line))
	if len(fields) < 2 {
		return 0, nil, fmt.Errorf("the answer begins with %q", line)
	}
	if status, err = strconv.Atoi(fields[1]); err != nil {
		return 0, nil, err
	}
	length, chunked := int64(0), false
	for {
		line, err := w.reader.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		switch {
		case len(name) == 0:
			w.answer.Reset()
			if chunked {
				err = w.chunks()
			} else {
				_, err = io.CopyN(&w.answer, w.reader, length)
			}
			return status, w.answer.Bytes(), err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, nil, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
}

func (w *wire) chunks() error {
	for {
		line, err := w.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		length, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(&w.answer, w.reader, length); err != nil {
			return err
		}
		if len(w.mark) > 0 && w.first.IsZero() && bytes.Contains(w.answer.Bytes(), w.mark) {
			w.first = time.Now()
		}
		if _, err := w.reader.Discard(2); err != nil || length == 0 {
			return err
		}
	}
}
