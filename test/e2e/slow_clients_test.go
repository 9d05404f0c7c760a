package e2e

// This file has clients that send and read slowly, or not at all, while others want to be served.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func TestSlowClientsAreLetGoOfAndHinderNobody(t *testing.T) {
	t.Parallel()
	n := startTortured(t, headerPatience, bodyPatience)
	rest, _ := n.goroutines()
	const slow = 200
	const head = "POST /api/agents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer "

	t.Run("heads and bodies that come a byte at a time", func(t *testing.T) {
		var late, told atomic.Int64
		others, took := make(chan struct{}), []time.Duration{}
		go func() { // everybody else is served meanwhile
			defer close(others)
			for range 50 {
				started := time.Now()
				got, err := n.stranger.do(t.Context(), "GET", "/api/me", nil)
				took = append(took, time.Since(started))
				if err != nil || got.status != http.StatusOK {
					t.Errorf("somebody else: %d, %v after %v", got.status, err, took)
				}
			}
		}()
		inParallel(slow, slow, func(i int) {
			connection := n.dial()
			defer connection.Close()
			text, limit := head, headerPatience
			if i%2 == 1 {
				text, limit = head+n.key+"\r\nContent-Length: 5000\r\n\r\n{", bodyPatience
			}
			if _, err := io.WriteString(connection, text); err != nil {
				t.Error(err)
				return
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for ticks := time.NewTicker(200 * time.Millisecond); ; <-ticks.C {
					if _, err := io.WriteString(connection, "x"); err != nil {
						ticks.Stop()
						return
					}
				}
			}()
			started := time.Now()
			answered, _ := io.ReadAll(connection) // to its end, or until it is reset
			if time.Since(started) > limit+10*time.Second {
				late.Add(1)
			}
			if i%2 == 1 && bytes.Contains(answered, []byte(`"request_timeout"`)) {
				told.Add(1)
			}
			connection.Close()
			<-done
		})
		<-others
		if slices.Sort(took); took[len(took)/2] > time.Second { // most of them: on a busy machine one may wait for its turn
			t.Errorf("everybody else waits %v", took)
		}
		if late.Load() > 0 || told.Load() < slow/4 {
			t.Errorf("%d of %d connections were held too long, %d of %d bodies told", late.Load(), slow, told.Load(), slow/2)
		}
	})

	t.Run("connections that say nothing", func(t *testing.T) {
		connection := n.dial()
		defer connection.Close()
		started := time.Now()
		if text, err := io.ReadAll(connection); len(text) > 0 || time.Since(started) > headerPatience+10*time.Second {
			t.Errorf("%q, %v after %v", text, err, time.Since(started))
		}
	})

	t.Run("a client that closes its half has left", func(t *testing.T) {
		withinASecond(t, "leaving the model alone", func() time.Duration {
			cut := n.model.Stats().Cut
			connection := n.dial()
			defer connection.Close()
			body := `{"query":"hang"}`
			if _, err := fmt.Fprintf(connection, "POST /api/v2/agent/%s/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", n.agent, n.key, len(body), body); err != nil {
				t.Fatal(err)
			}
			await(t, 5*time.Second, "the model to be asked", func() bool { return n.model.Stats().Active == 1 })
			left := time.Now()
			if err := connection.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			await(t, 5*time.Second, "the model's call to be cut", func() bool { return n.model.Stats().Cut == cut+1 && n.model.Stats().Active == 0 })
			return time.Since(left)
		})
	})

	t.Run("streams whose clients leave hold nothing", func(t *testing.T) {
		cut := n.model.Stats().Cut
		for range 15 {
			told := n.stranger.open("POST", "/api/v2/agent/"+n.agent+"/chat", map[string]any{"query": "hang", "streaming": true})
			told.until("message.delta")
			told.leave()
		}
		await(t, 20*time.Second, "the model's calls to be cut", func() bool { return n.model.Stats().Cut == cut+15 && n.model.Stats().Active == 0 })
	})

	t.Run("a reader that pauses gets the rest", func(t *testing.T) {
		connection := n.dial()
		defer connection.Close()
		if err := connection.SetReadBuffer(2 << 10); err != nil {
			t.Fatal(err)
		}
		body := `{"query":"slowly","streaming":true}`
		if _, err := fmt.Fprintf(connection, "POST /api/v2/agent/%s/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", n.agent, n.key, len(body), body); err != nil {
			t.Fatal(err)
		}
		await(t, 20*time.Second, "the reply to end unread", func() bool { return n.model.Stats().Active == 0 && n.model.Stats().Requests > 16 })
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || !bytes.HasSuffix(text, []byte("data: [DONE]\n\n")) || bytes.Count(text, []byte("event: turn.completed")) != 1 {
			t.Errorf("%v\n%s", err, text)
		}
	})
	t.Run("nothing is left behind", func(t *testing.T) { n.t = t; n.awaitRest(rest) })
}
