package api

// This file stands where a request is read: how large its head and body may be, how long they may take, and how the server that
// listens is set for that.

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// maxHeaderBytes bounds a request's line and headers.
const maxHeaderBytes = 32 << 10

// maxBodyBytes bounds a request's body.
const maxBodyBytes = 1 << 20

// headerBytes is about what the request's line and headers were on the wire.
func headerBytes(r *http.Request) int {
	size := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size
}

// printable reports whether a text can be kept: UTF-8 without NUL.
func printable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

// Patience bounds how long a client may take to say what it wants.
type Patience struct {
	// Header is for the request's head, from its first byte or the connection's beginning. Default 5 seconds.
	Header time.Duration
	// Whole is for head and body together. Default 30 seconds.
	Whole time.Duration
}

// idleTimeout is how long a connection is kept on which nothing is asked.
const idleTimeout = 2 * time.Minute

// NewServer returns an HTTP server with the limits that Nido runs under. Write deadlines are set per route.
func NewServer(addr string, handler http.Handler, patience Patience) *http.Server {
	return &http.Server{
		Addr: addr, Handler: handler,
		ReadHeaderTimeout: cmp.Or(patience.Header, 5*time.Second),
		ReadTimeout:       cmp.Or(patience.Whole, 30*time.Second),
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    8 * maxHeaderBytes, // what has more gets net/http's own answer, which is not JSON
		// OPTIONS * is a route like any that there is not; the server's own answer has no id.
		DisableGeneralOptionsHandler: true,
	}
}

// checkBodyHeaders refuses by its headers a body that would not be taken.
func (s *Server) checkBodyHeaders(r *http.Request, op *operation) error {
	switch {
	case r.ContentLength > maxBodyBytes:
		return problem("payload_too_large")
	case op.body == nil, r.ContentLength == 0:
		return nil
	}
	media, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, coding := strings.ToLower(parameters["charset"]), strings.ToLower(r.Header.Get("Content-Encoding"))
	switch {
	case err != nil, media != "application/json":
		return problem("unsupported_media_type")
	case charset != "" && charset != "utf-8":
		return &Problem{Code: "unsupported_media_type", Field: "Content-Type", English: "The body must be in UTF-8.", Spanish: "El cuerpo debe estar en UTF-8."}
	case coding != "" && coding != "identity":
		return &Problem{Code: "unsupported_media_type", Field: "Content-Encoding", English: "The body must not be compressed.", Spanish: "El cuerpo no debe estar comprimido."}
	}
	return nil
}

// readBody reads the body to its end, with which the server's time-out for reading ends and it begins to watch the
// connection: a client that goes away from then on cancels the request's context.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, op *operation) error {
	x := exchangeOf(r)
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		switch _, tooLarge := errors.AsType[*http.MaxBytesError](err); {
		case tooLarge:
			return err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return &Problem{Code: "request_timeout", cause: err}
		}
		if _, broken := errors.AsType[net.Error](err); broken || errors.Is(err, io.ErrUnexpectedEOF) || r.Context().Err() != nil {
			return &Problem{Code: "request_cancelled", cause: err} // the connection broke in the middle
		}
		return invalid("", "The body's framing is not valid.", "El enmarcado del cuerpo no es válido.") // of its chunks
	}
	if op.body == nil && len(bytes.TrimSpace(body)) > 0 {
		if text := bytes.TrimSpace(body); !bytes.Equal(text, []byte("{}")) {
			return invalid("", "This route takes no body.", "Esta ruta no lleva cuerpo.")
		}
	}
	x.body = body
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}
