//go:build linux

package main

// This file is the process that holds streams open: it begins them at a pace that others can follow, says so when every
// one of them has had its first token, and then does nothing but read until its standard input ends.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// holdPatience bounds the beginning of all streams.
const holdPatience = 3 * time.Minute

// How often a stream is begun anew, and when: on a busy machine Go's reverse proxy breaks one off now and then whose answer
// begins while the request is still being sent, and a node refuses what it cannot do.
const (
	holdAttempts = 20
	holdPause    = 250 * time.Millisecond
)

// held is a process that holds streams.
type held struct {
	cmd  *exec.Cmd
	hold io.WriteCloser
}

// holdStreams begins as many streams as the job has connections, at its rate, and returns when all of them speak.
func holdStreams(ctx context.Context, job job) (*held, error) {
	h := &held{cmd: exec.CommandContext(ctx, "/proc/self/exe", roleFlag, "hold")}
	h.cmd.Stderr = os.Stderr
	var err error
	if h.hold, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("hold streams: %w", err)
	}
	if err := json.NewEncoder(h.hold).Encode(job); err != nil {
		return nil, errors.Join(err, h.release())
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("hold streams: %w", errors.Join(err, h.release()))
	}
	return h, nil
}

// release lets go of all streams.
func (h *held) release() error { return errors.Join(h.hold.Close(), h.cmd.Wait()) }

// hold is that process.
func hold(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var job job
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), holdPatience)
	defer cancel()
	began, spoke := time.Now(), make(chan error, job.Connections)
	for i := range job.Connections {
		time.Sleep(time.Until(began.Add(time.Duration(float64(i) / job.Rate * float64(time.Second)))))
		go func() {
			var err error
			for range holdAttempts {
				if err = job.holdOne(i); err == nil {
					break
				}
				time.Sleep(holdPause) // a node that has too much to do says so
			}
			spoke <- err
		}()
	}
	for range job.Connections {
		select {
		case err := <-spoke:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return errors.New("not all streams have begun to speak")
		}
	}
	if _, err := fmt.Fprintln(out, "all of them speak"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, lines) // until the other side closes
	return err
}

// holdOne returns when the stream has said its first token, and leaves somebody behind who reads the rest.
func (j *job) holdOne(number int) error {
	conn, err := net.DialTimeout("tcp", j.Addr, 5*time.Second)
	if err != nil {
		return err
	}
	body := bytes.ReplaceAll([]byte(j.Body), []byte("{n}"), fmt.Appendf(nil, "%s-%d", j.Name, number))
	request := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", j.Method, j.Path, j.Addr, len(body))
	if j.Key != "" {
		request = fmt.Appendf(request, "Authorization: Bearer %s\r\n", j.Key)
	}
	if _, err := conn.Write(append(append(request, "\r\n"...), body...)); err != nil {
		return err
	}
	var seen []byte
	part := make([]byte, 2<<10)
	for !bytes.Contains(seen, []byte(j.First)) {
		n, err := conn.Read(part)
		if err != nil {
			return fmt.Errorf("a stream ended after %q: %w", seen[max(0, len(seen)-400):], err)
		}
		if seen = append(seen, part[:n]...); !bytes.HasPrefix(seen, []byte("HTTP/1.1 200 ")) {
			return errors.Join(fmt.Errorf("a stream begins with %q", seen), conn.Close())
		}
	}
	go func() {
		for {
			if _, err := conn.Read(part); err != nil {
				return // the process ends
			}
		}
	}()
	return nil
}
