package modeltest

import (
	"cmp"
	"net/http"
	"time"
)

var (
	streamTrue = []byte(`"stream":true`)
	usageTrue  = []byte(`"include_usage":true`)
)

// format writes a protocol's documents and events.
type format interface {
	whole(reply Reply, text string, in, out int) []byte
	failure(status int, kind string) []byte
	begin(reply Reply, in int) []byte
	token(reply Reply, text string) []byte
	streamFailure(kind string) []byte
	// end says that the reply is complete, with the usage unless the input count is negative.
	end(reply Reply, in, out int) []byte
}

// canned is an unscripted reply's bytes.
type canned struct{ whole, stream, streamWithUsage []byte }

const cannedInput = 12 // tokens of the prompt, as the unscripted reply says

func prebuild(format format, reply Reply) canned {
	text, stream := "", format.begin(reply, cannedInput)
	for _, token := range reply.Tokens {
		text += token
		stream = append(stream, format.token(reply, token)...)
	}
	n := len(reply.Tokens)
	stream = stream[:len(stream):len(stream)] // so that both appends copy
	return canned{
		whole:           format.whole(reply, text, cannedInput, n),
		stream:          append(stream, format.end(reply, -1, n)...),
		streamWithUsage: append(stream, format.end(reply, cannedInput, n)...),
	}
}

// answer plays a reply, and says whether it came to its end.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, format format, asked Request, reply Reply) bool {
	if reply.RetryAfter != "" {
		w.Header().Set("Retry-After", reply.RetryAfter)
	}
	if reply.Hang {
		h.hang(r.Context())
		return false
	}
	if !h.pause(r.Context(), cmp.Or(reply.FirstToken, h.options.FirstToken)) {
		return false
	}
	if reply.Status != 0 && reply.Status != http.StatusOK {
		body := []byte(reply.Body)
		if len(body) == 0 {
			body = format.failure(reply.Status, reply.ErrorType)
		}
		return write(w, "application/json", reply.Status, body)
	}
	if limit := asked.MaxTokens; limit != nil && len(reply.Tokens) > *limit {
		reply.Tokens, reply.Finish = reply.Tokens[:*limit], cmp.Or(reply.Finish, "length")
	}
	in, out := asked.words(), len(reply.Tokens)
	if reply.OmitUsage || asked.Stream && !asked.IncludeUsage {
		in = -1
	}
	switch {
	case reply.Raw != "":
		return write(w, "text/event-stream", http.StatusOK, []byte(reply.Raw))
	case !asked.Stream || reply.NotStreamed:
		text := ""
		for _, token := range reply.Tokens {
			text += token
		}
		return write(w, "application/json", http.StatusOK, format.whole(reply, text, in, out))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	return h.stream(w, r, format, reply, in)
}

// stream writes event after event, each one flushed.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, format format, reply Reply, in int) bool {
	send := func(event []byte) bool {
		if _, err := w.Write(event); err != nil {
			return false
		}
		return http.NewResponseController(w).Flush() == nil
	}
	if !send(format.begin(reply, in)) {
		return false
	}
	pause := cmp.Or(reply.BetweenTokens, h.options.BetweenTokens)
	for i, token := range reply.Tokens {
		if i > 0 && !h.pause(r.Context(), pause) || !send(format.token(reply, token)) {
			return false
		}
		switch i + 1 {
		case reply.HangAfter:
			h.hang(r.Context())
			return false
		case reply.DropAfter:
			panic(http.ErrAbortHandler) // how a handler cuts its connection
		case reply.ErrorAfter:
			return send(format.streamFailure(reply.ErrorType))
		}
	}
	return reply.OmitEnd || send(format.end(reply, in, len(reply.Tokens)))
}

func write(w http.ResponseWriter, contentType string, status int, body []byte) bool {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err == nil
}

// created is the moment that every answer carries, so that equal requests get equal bytes.
var created = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
