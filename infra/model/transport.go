package model

// This file stands between a provider's client and the network.

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"time"
)

// newTransport is the one transport of all providers. Connections in use are not bounded: admission bounds turns, and a
// turn that waits for a connection would look like a slow provider.
func newTransport(c Config) *http.Transport {
	dialer := &net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  c.Proxy,
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true, // a DialContext of one's own would switch it off
		TLSHandshakeTimeout:    c.ConnectTimeout,
		MaxIdleConns:           c.MaxIdleConns,
		MaxIdleConnsPerHost:    c.MaxIdleConns,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// Each call holds one of both while its reply comes. A token's event is a few hundred bytes, and what is larger passes
		// by the buffer anyway; most requests are one write.
		ReadBufferSize:     1 << 10,
		WriteBufferSize:    2 << 10,
		DisableCompression: true, // a compressed stream arrives in lumps
		// One HTTP/2 connection carries many calls: a dead one must not hold them all until they run out of patience.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
}

// sender sends a request and turns every answer that is no success into a fault, so that no more than a few kilobytes
// of an error's body are read and none of it gets into an error's text. It does not follow redirects: a prompt goes
// where the configuration says, or nowhere. It is the HTTP client that the SDK is given.
type sender struct {
	client   http.Client
	maxEvent int // bytes of one line of a reply
}

func newSender(transport *http.Transport, maxEvent int) *sender {
	return &sender{maxEvent: maxEvent, client: http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Do sends the request once.
func (s *sender) Do(request *http.Request) (*http.Response, error) {
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		defer response.Body.Close()
		// What cannot be read of an error's body is no second error: the status says enough.
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
		return nil, refused(response, body)
	}
	response.Body = &lineGuard{ReadCloser: response.Body, limit: s.maxEvent}
	return response, nil
}

// lineGuard refuses lines that are longer than any sensible reply, for readers that would buffer them whole.
type lineGuard struct {
	io.ReadCloser
	limit, line int
}

// Read reads and measures.
func (g *lineGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if end := bytes.LastIndexByte(p[:n], '\n'); end >= 0 {
		g.line = n - end - 1
	} else {
		g.line += n
	}
	if g.line > g.limit {
		return 0, replyTooLarge()
	}
	return n, err
}
