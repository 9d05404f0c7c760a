package modeltest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	defaultTokens   = 20
	defaultKept     = 1_000
	maxRequestBytes = 16 << 20
)

// Options say how the mock answers. The zero value answers every request at once with 20 tokens.
type Options struct {
	// Tokens of the unscripted reply; 0 means 20.
	Tokens int
	// FirstToken is the delay before the first token.
	FirstToken time.Duration
	// BetweenTokens is the delay between two tokens.
	BetweenTokens time.Duration
	// Reply scripts the answer to each request. Nil means the unscripted reply, whose bytes are built once.
	Reply func(Request) Reply
	// Kept is how many requests are remembered, the oldest are forgotten first; 0 means 1,000, a negative number none.
	Kept int
}

// Reply is one scripted answer. The zero value is an empty, complete reply.
type Reply struct {
	Tokens []string // the text, piece by piece
	Model  string   // what the mock says answered; empty means what was asked for

	FirstToken    time.Duration // instead of the option's, where it is not 0
	BetweenTokens time.Duration // likewise

	Status     int    // an error status; 0 means 200
	Body       string // the error's body; empty means one in the provider's format
	RetryAfter string // the Retry-After header, with any status

	Hang        bool   // say nothing at all until the caller goes away
	HangAfter   int    // fall silent after so many tokens, until the caller goes away
	DropAfter   int    // cut the connection after so many tokens
	ErrorAfter  int    // send an error event after so many tokens, and end
	ErrorType   string // its type; empty means a server error
	Finish      string // why it ends, in OpenAI's words; empty means "stop", or "length" where more tokens were scripted than asked for
	OmitUsage   bool   // never tell the usage
	OmitEnd     bool   // end the stream without saying that it is complete
	NotStreamed bool   // answer a request for a stream with one JSON document
	Raw         string // with status 200: the whole body, verbatim, as text/event-stream
}

// Words is a reply with one token per word.
func Words(text string) Reply { return Reply{Tokens: strings.SplitAfter(text, " ")} }

// Failure is a reply with an error status.
func Failure(status int) Reply { return Reply{Status: status} }

// Stats counts what the mock has seen.
type Stats struct {
	Requests    int // begun
	Active      int // being answered now
	Cut         int // whose caller went away before the answer was complete
	Connections int // accepted, counted by Server only
}

// Handler is the mock provider. Any number of requests may be answered at the same time.
type Handler struct {
	options   Options
	openai    canned
	anthropic canned
	released  chan struct{}
	release   func()

	mu      sync.Mutex
	stats   Stats
	changed chan struct{} // closed and replaced by every change of stats
	kept    []Request
	next    int // where the ring of kept requests goes on, once it is full
}

// NewHandler builds a mock provider: POST …/chat/completions and POST …/messages.
func NewHandler(options Options) *Handler {
	if options.Tokens == 0 {
		options.Tokens = defaultTokens
	}
	if options.Kept == 0 {
		options.Kept = defaultKept
	}
	h := &Handler{options: options, released: make(chan struct{}), changed: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.released) })
	h.openai = prebuild(openAI{}, h.unscripted())
	h.anthropic = prebuild(anthropic{}, h.unscripted())
	h.anthropic.stream = h.anthropic.streamWithUsage // which Anthropic tells unasked
	return h
}

// Requests returns what was asked, oldest first, at most Options.Kept of them.
func (h *Handler) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append([]Request{}, h.kept[h.next:]...), h.kept[:h.next]...)
}

// Stats returns the counts now.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// Await returns once the counts are as wanted, or with the context's error.
func (h *Handler) Await(ctx context.Context, wanted func(Stats) bool) error {
	for {
		h.mu.Lock()
		stats, changed := h.stats, h.changed
		h.mu.Unlock()
		if wanted(stats) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("model requests stand at %+v: %w", stats, ctx.Err())
		}
	}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var format format
	var canned *canned
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/chat/completions"):
		format, canned = openAI{}, &h.openai
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/messages"):
		format, canned = anthropic{}, &h.anthropic
	default:
		http.NotFound(w, r)
		return
	}
	h.count(func(stats *Stats) { stats.Requests++; stats.Active++ })
	complete := false
	defer func() {
		h.count(func(stats *Stats) {
			stats.Active--
			if !complete && r.Context().Err() != nil {
				stats.Cut++
			}
		})
	}()
	body, err := readBody(w, r)
	if err != nil {
		http.Error(w, "the request body cannot be read", http.StatusBadRequest)
		return
	}
	asked := Request{Path: r.URL.Path, Header: r.Header, Body: body}
	h.keep(asked)
	if h.options.Reply == nil && h.options.BetweenTokens == 0 {
		complete = h.serveCanned(w, r, canned, body)
		return
	}
	asked = asked.Parsed()
	reply := h.unscripted()
	if h.options.Reply != nil {
		reply = h.options.Reply(asked)
	}
	if reply.Model == "" {
		reply.Model = asked.Model
	}
	complete = h.answer(w, r, format, asked, reply)
}

// unscripted is the reply that nobody wrote.
func (h *Handler) unscripted() Reply {
	reply := Reply{Model: "mock"}
	for i := range h.options.Tokens {
		reply.Tokens = append(reply.Tokens, fmt.Sprintf("word%02d ", i+1))
	}
	return reply
}

// serveCanned writes bytes that were built at start, all at once: the fastest provider there can be.
func (h *Handler) serveCanned(w http.ResponseWriter, r *http.Request, canned *canned, body []byte) bool {
	if !h.pause(r.Context(), h.options.FirstToken) {
		return false
	}
	out, contentType := canned.whole, "application/json"
	if bytes.Contains(body, streamTrue) {
		out, contentType = canned.stream, "text/event-stream"
		if bytes.Contains(body, usageTrue) {
			out = canned.streamWithUsage
		}
	}
	w.Header()["Content-Type"] = []string{contentType}
	_, err := w.Write(out)
	return err == nil
}

// pause waits, and says whether the caller is still there.
func (h *Handler) pause(ctx context.Context, delay time.Duration) bool {
	if delay == 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-h.released:
		return false
	}
}

// hang waits until the caller goes away, or the server closes.
func (h *Handler) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-h.released:
	}
}

func (h *Handler) count(change func(*Stats)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.stats)
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Handler) keep(asked Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.options.Kept < 0:
	case len(h.kept) < h.options.Kept:
		h.kept = append(h.kept, asked)
	default:
		h.kept[h.next] = asked
		h.next = (h.next + 1) % len(h.kept)
	}
}

// readBody reads the whole request, by its announced length where there is one.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength >= 0 && r.ContentLength <= maxRequestBytes {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
}
