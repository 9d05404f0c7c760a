package e2e

// This file is the tests' reader of server-sent events.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// event is one server-sent event as it came.
type event struct {
	id, name, data string
	at             time.Time
}

// stream is an answer that is still coming.
type stream struct {
	t      testing.TB
	header http.Header
	events chan event // closed at the end of the answer
	leave  context.CancelFunc
	retry  string
	seen   []event
}

// open begins a stream. It must be answered with 200.
func (c *client) open(method, path string, body any, headers ...string) *stream {
	c.t.Helper()
	ctx, leave := context.WithCancel(c.t.Context())
	c.t.Cleanup(leave)
	encoded, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(encoded))
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	if method == http.MethodGet {
		request.Body, request.ContentLength = nil, 0
	}
	response, err := c.http.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || kind != "text/event-stream" {
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		c.t.Fatalf("%s %s: %d %s %s", method, path, response.StatusCode, kind, text)
	}
	s := &stream{t: c.t, header: response.Header, events: make(chan event, 4096), leave: leave}
	go s.read(response.Body)
	return s
}

func (s *stream) read(body io.ReadCloser) {
	defer body.Close()
	defer close(s.events)
	var next event
	for lines := bufio.NewScanner(body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			next.id = value
		case "event":
			next.name = value
		case "data":
			next.data = value
		case "retry":
			s.retry = value
		case "":
			if next.data != "" {
				next.at = time.Now()
				s.events <- next
			}
			next = event{}
		}
	}
}

// next waits for the next event; the zero event is the end of the answer.
func (s *stream) next() event {
	s.t.Helper()
	select {
	case e, ok := <-s.events:
		if ok {
			s.seen = append(s.seen, e)
		}
		return e
	case <-time.After(2 * time.Minute):
		s.t.Fatalf("no event for two minutes after %+v", s.seen)
	}
	return event{}
}

// until reads up to an event with this name.
func (s *stream) until(name string) event {
	s.t.Helper()
	for {
		e := s.next()
		if e.name == name {
			return e
		}
		if e.data == "" {
			s.t.Fatalf("the answer ended without %s: %+v", name, s.seen)
		}
	}
}

// rest reads to the end of the answer.
func (s *stream) rest() []event {
	s.t.Helper()
	for s.next().data != "" {
	}
	return s.seen
}

// said is the text of events' deltas.
func said(t testing.TB, events []event) string {
	t.Helper()
	var text strings.Builder
	for _, e := range events {
		if e.name == "message.delta" {
			var delta struct{ Text string }
			if err := json.Unmarshal([]byte(e.data), &delta); err != nil || delta.Text == "" {
				t.Fatalf("%v in %+v", err, e)
			}
			text.WriteString(delta.Text)
		}
	}
	return text.String()
}

// turnOf is the turn that an event is about.
func turnOf(e event) string {
	turn, _, _ := strings.Cut(e.id, ":")
	return turn
}

// resume goes on behind an event, or begins where there is none.
func (c *client) resume(turn, last string) *stream {
	c.t.Helper()
	var headers []string
	if last != "" {
		headers = []string{"Last-Event-ID", last}
	}
	return c.open("GET", "/api/v1/turns/"+turn+"/events", nil, headers...)
}
