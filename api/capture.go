package api

// This file stands around every request: the line that the request log gets, with bounded bodies and without secrets.

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/projections"
)

// maxLoggedBytes bounds how much of a body the request log keeps.
const maxLoggedBytes = 64 << 10

// logMargin is captured beyond that, so that a secret that lies across the cut is found whole.
const logMargin = 256

// RequestLog takes what is known of every answered request. It must not block.
type RequestLog interface {
	Record(request projections.Request)
}

// capture is the response writer of an exchange: it sees status and body as they go out.
type capture struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	x       *exchange
	started time.Time
	status  int
	bytes   int64
	body    []byte
}

func (s *Server) startCapture(w http.ResponseWriter, r *http.Request, x *exchange, now time.Time) *capture {
	x.record = projections.Request{
		ID: x.id, At: now, Method: r.Method, Path: r.URL.Path, Query: unspoken(r.URL.RawQuery),
		ClientRequestID: short(r.Header.Get("X-Request-Id")), RemoteIP: addressText(x.client), UserAgent: short(r.UserAgent()),
		Trace: traceOf(r),
	}
	return &capture{ResponseWriter: w, server: s, request: r, x: x, started: time.Now()}
}

// unspoken takes out of a query what was looked for: words of what people said, and what clients call a conversation. The
// line that says so belongs to the account, and would outlive the erasure of what it was about.
func unspoken(query string) string {
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, _, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(name); err == nil && (name == "q" || name == "conversationId") {
			parts[i] = name + "=" + projections.Redacted
		}
	}
	return strings.Join(parts, "&")
}

// Unwrap lets http.ResponseController reach the connection.
func (c *capture) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *capture) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *capture) Write(part []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	if room := maxLoggedBytes + logMargin - len(c.body); room > 0 && c.x.caller.Account != "" && !c.x.streams {
		c.body = append(c.body, part[:min(room, len(part))]...)
	}
	written, err := c.ResponseWriter.Write(part)
	c.bytes += int64(written)
	return written, err
}

// leave is what the request's goroutine does at last.
func (c *capture) leave() {
	if !c.x.taken {
		c.finish()
	}
}

// finish hands the line over. A request of which nobody knows whose it is has no reader, and is not kept.
func (c *capture) finish() {
	for _, do := range c.x.behind {
		do()
	}
	c.observe()
	record, op := &c.x.record, c.x.op
	if record.Account == "" || op == nil {
		return
	}
	for _, mark := range c.x.fading {
		c.server.config.Deprecations.Used(c.x.caller.Account, c.x.caller.PublicID, mark.item(), record.At)
	}
	record.Status, record.Latency = c.status, time.Since(c.started)
	if entries[record.ErrorCode].Status == 499 {
		record.Status = 499
	}
	record.RequestHeaders = projections.RedactHeaders(c.request.Header)
	record.ResponseHeaders = projections.RedactHeaders(c.ResponseWriter.Header())
	record.RequestBody.Bytes, record.ResponseBody.Bytes = int64(len(c.x.body)), c.bytes
	if !c.x.refused {
		record.RequestBody = logged(c.x.body, int64(len(c.x.body)), op.secrets)
	}
	if op.logAnswer {
		if c.x.streams { // its last event says it all
			c.body = c.x.said
		}
		record.ResponseBody = logged(c.body, c.bytes, op.secrets)
	}
	c.server.config.RequestLog.Record(*record)
}

// logged is what the log keeps of a body.
func logged(body []byte, size int64, secrets [][]string) projections.Body {
	kept := projections.Body{Bytes: size, Truncated: size > maxLoggedBytes}
	body = body[:min(len(body), maxLoggedBytes+logMargin)]
	if len(secrets) > 0 {
		var ok bool
		if body, ok = withoutSecrets(body, secrets); !ok {
			return projections.Body{Bytes: size, Truncated: size > 0} // what cannot be read cannot be cleared of secrets
		}
	}
	body = projections.RedactBody(body)
	kept.Text = slices.Clone(body[:min(len(body), maxLoggedBytes)])
	return kept
}

// withoutSecrets replaces the fields that openapi.yaml marks x-nido-secret. It reports whether the body could be read.
func withoutSecrets(body []byte, secrets [][]string) ([]byte, bool) {
	if len(body) == 0 {
		return body, true
	}
	value, err := decodeAny(body)
	if err != nil {
		return nil, false
	}
	found := false
	for _, path := range secrets {
		found = redact(value, path) || found
	}
	if !found {
		return body, true
	}
	clean, err := json.Marshal(value)
	return clean, err == nil
}

func redact(value any, path []string) (found bool) {
	switch value := value.(type) {
	case map[string]any:
		inner, there := value[path[0]]
		switch {
		case !there:
			return false
		case len(path) > 1:
			return redact(inner, path[1:])
		}
		if _, nested := inner.(map[string]any); nested {
			return false // another shape of the same name: OpenedAccount's key is an object
		}
		value[path[0]] = projections.Redacted
		return true
	case []any:
		if path[0] != "*" || len(path) < 2 {
			return false
		}
		for _, item := range value {
			found = redact(item, path[1:]) || found
		}
	}
	return found
}

// addressText is empty for an address that is not known.
func addressText(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	return address.String()
}

// short bounds what a client sends along, and takes out keys before it cuts: half a key would not be known as one.
func short(text string) string {
	const most = 256
	if !printable(text) {
		return ""
	}
	text = projections.RedactText(text)
	return strings.ToValidUTF8(text[:min(len(text), most)], "") // the cut may lie within a character
}
