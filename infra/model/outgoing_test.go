package model

// This file tests how a request's body is sent, and that it is let go of afterwards.

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// written counts what is written to a connection, by calls.
type written struct {
	net.Conn
	times *atomic.Int64
}

func (w written) Write(p []byte) (int, error) {
	w.times.Add(1)
	return w.Conn.Write(p)
}

func TestARequestIsOnePacketWhereItFitsAndItsBodyIsLetGoOf(t *testing.T) {
	received := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		received <- string(body)
		_, _ = io.WriteString(w, "ok") // a client that left has failed already
	}))
	t.Cleanup(server.Close)
	var times atomic.Int64
	transport := newTransport(Config{})
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return written{conn, &times}, err
	}
	t.Cleanup(transport.CloseIdleConnections)

	text := strings.Repeat("hello ", 200)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request, sent, err := newOpenAI(server.URL, "key").request(ctx, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	first := sent.first
	response, err := newSender(transport, 1<<20).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := <-received; got != text {
		t.Errorf("the server got %q", got)
	}
	if times.Load() != 1 {
		t.Errorf("it was written in %d pieces", times.Load())
	}
	for { // whoever sent it may be a moment behind the answer
		sent.mu.Lock()
		over := sent.first == nil
		sent.mu.Unlock()
		if over {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the body is held although it has been sent")
		}
		runtime.Gosched()
	}
	if first.Size() != 0 {
		t.Errorf("%d bytes of the body are held although they have been sent", first.Size())
	}
	sent.drop()
	if _, err := sent.again(); !errors.Is(err, errReplied) || sent.text != nil {
		t.Errorf("the body is held behind the answer: %v", err)
	}
}

func TestABodyIsReadAgainUntilItsRequestIsAnswered(t *testing.T) {
	request, sent, err := newOpenAI("http://provider", "").request(t.Context(), []byte("the whole conversation"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again, err := request.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(again); err != nil || string(text) != "the whole conversation" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if sent.first != nil {
		t.Error("the reader of an earlier attempt could be taken away from who still reads it")
	}
}
