package model

// This file stands at the unhappy end of an upstream call: what went wrong, in the API's terms.
//
// Nothing that a provider says in its own words gets into an error: it may repeat the prompt or the key. What does is
// its status, the type of its error where that is a plain word, and what the network says.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/nidohq/nido/commands"
)

// The codes of a commands.ModelError.
const (
	upstreamError       = "upstream_error"
	upstreamTimeout     = "upstream_timeout"
	upstreamRateLimited = "upstream_rate_limited"
	upstreamRejected    = "upstream_rejected"
	upstreamBusy        = "upstream_busy"
	upstreamUnavailable = "upstream_unavailable"
	modelNotFound       = "model_not_found"
)

const (
	maxErrorBody     = 64 << 10       // bytes
	statusOverloaded = 529            // Anthropic's
	longestAfter     = 24 * time.Hour // is what is passed on of what a provider asks for
)

// The time-outs of a commands.ModelError.
const (
	connectTimeout = "connect"
	firstTimeout   = "first_token"
	idleTimeout    = "idle"
	totalTimeout   = "total"
)

// fault is a ModelError, or another error where the caller itself ended the call, and what to do about it.
type fault struct {
	model      *commands.ModelError
	caller     error
	again      bool // the same provider may answer the same call
	elsewhere  bool // another provider may
	answered   bool // the provider is well: it has only refused this call
	retryAfter time.Duration
}

// outcome names the fault for those who count.
func (f *fault) outcome() string {
	if f.caller != nil {
		return callCancelled
	}
	return f.model.Code
}

func (f *fault) Error() string { return f.err().Error() }

func (f *fault) err() error {
	if f.caller != nil {
		return f.caller
	}
	return f.model
}

// blame says why an attempt failed: the caller ended it, patience ran out, the provider said so, or the network broke.
func blame(ctx, calling context.Context, err error, reply *reply) *fault {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		f := timedOut(totalTimeout, fmt.Errorf("the whole call took too long: %w", context.Cause(ctx)))
		f.elsewhere = false // the caller's own time is up
		return f
	case ctx.Err() != nil:
		return &fault{caller: endedByCaller(ctx)}
	case errors.Is(context.Cause(calling), errTotal):
		return timedOut(totalTimeout, errTotal)
	case calling.Err() != nil && reply.generating:
		return timedOut(idleTimeout, fmt.Errorf("no further token within %v", reply.idle))
	case calling.Err() != nil:
		return timedOut(firstTimeout, fmt.Errorf("no first token within %v", reply.first))
	}
	if fault, ok := errors.AsType[*fault](err); ok {
		return fault
	}
	return broken(err)
}

// endedByCaller is context.Canceled, and why, where the caller said so.
func endedByCaller(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("model call: %w: %w", ctx.Err(), cause)
	}
	return fmt.Errorf("model call: %w", ctx.Err())
}

func timedOut(which string, err error) *fault {
	return &fault{elsewhere: true, model: &commands.ModelError{Code: upstreamTimeout, Retryable: true, Timeout: which, Err: err}}
}

// broken is a connection that could not be made or broke. Only errors whose text is the network's own keep it.
func broken(err error) *fault {
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &fault{elsewhere: true, model: &commands.ModelError{Code: upstreamError, Err: certificate}}
	}
	f := &fault{again: true, elsewhere: true, model: &commands.ModelError{Code: upstreamError, Retryable: true}}
	operation, isOperation := errors.AsType[*net.OpError](err)
	network, isNetwork := errors.AsType[net.Error](err)
	switch {
	case isOperation:
		f.model.Err = operation
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.model.Err = fmt.Errorf("the provider closed the connection: %w", io.ErrUnexpectedEOF)
	default:
		f.model.Err = fmt.Errorf("the connection to the provider broke (%T)", root(err))
	}
	if isNetwork && network.Timeout() {
		f.model.Code = upstreamTimeout
		if isOperation && operation.Op == "dial" || strings.Contains(err.Error(), "TLS handshake timeout") {
			f.model.Timeout = connectTimeout
		}
	}
	return f
}

func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// incomplete is a reply that ended before the provider said that it was complete.
func incomplete() *fault {
	return &fault{again: true, elsewhere: true, model: &commands.ModelError{
		Code: upstreamError, Status: http.StatusOK, Retryable: true, Err: errors.New("the reply ended too early"),
	}}
}

// garbled is a reply that is not what the protocol says.
func garbled(what string) *fault {
	return &fault{elsewhere: true, model: &commands.ModelError{Code: upstreamError, Status: http.StatusOK, Err: errors.New(what)}}
}

func replyTooLarge() *fault {
	f := garbled("the reply is too large")
	f.answered = true
	return f
}

// refused is an answer that is no success.
func refused(response *http.Response, body []byte) *fault {
	kind, explained := kindOf(body)
	f := judge(response.StatusCode, kind, explained)
	f.model.Status = response.StatusCode
	f.retryAfter = retryAfter(response.Header, time.Now())
	f.model.RetryAfter = min(f.retryAfter, longestAfter)
	if response.Header.Get("X-Should-Retry") == "false" {
		f.again = false
	}
	return f
}

// failedMidway is an error that came as an event of a stream.
func failedMidway(event []byte) *fault {
	kind, _ := kindOf(event)
	status := map[string]int{
		"invalid_request_error": http.StatusBadRequest, "authentication_error": http.StatusUnauthorized,
		"permission_error": http.StatusForbidden, "not_found_error": http.StatusNotFound,
		"model_not_found": http.StatusNotFound, "request_too_large": http.StatusRequestEntityTooLarge,
		"rate_limit_error": http.StatusTooManyRequests, "rate_limit_exceeded": http.StatusTooManyRequests,
		"insufficient_quota": http.StatusTooManyRequests, "overloaded_error": statusOverloaded,
		"timeout_error": http.StatusGatewayTimeout,
	}[kind]
	if number, err := strconv.Atoi(kind); err == nil && number >= 400 && number < 600 {
		status = number
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	f := judge(status, kind, true)
	f.model.Status = http.StatusOK
	return f
}

// judge turns a status and the type of an error into the API's terms. A 404 without an explanation is a wrong address,
// not a wrong model.
func judge(status int, kind string, explained bool) *fault {
	text := fmt.Sprintf("the provider answered %d %s", status, http.StatusText(status))
	if kind != "" {
		text += " (" + kind + ")"
	}
	f := &fault{elsewhere: true, model: &commands.ModelError{Code: upstreamError, Err: errors.New(text)}}
	switch {
	case kind == "model_not_found", status == http.StatusNotFound && explained:
		f.model.Code = modelNotFound
		f.answered = true
	case status == http.StatusTooManyRequests:
		f.model.Code = upstreamRateLimited
		f.answered = true
		f.again = kind != "insufficient_quota" // waiting does not fill an empty account
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		f.model.Code = upstreamTimeout
		f.again = true
	case status == http.StatusConflict, status >= 500 && status != http.StatusNotImplemented:
		f.again = true
	case status >= 400 && status < 500 && status != http.StatusNotFound:
		f.model.Code = upstreamRejected
		f.answered = true
		// Whom we are is what another provider may see otherwise; what is asked for is the same.
		f.elsewhere = status == http.StatusUnauthorized || status == http.StatusPaymentRequired || status == http.StatusForbidden
	}
	f.model.Retryable = f.again
	return f
}

// kindOf finds the type of an error: OpenAI's and Anthropic's {"error": {"type", "code"}}, or the same fields at the top,
// as some servers have them. A code says more than a type.
func kindOf(body []byte) (kind string, explained bool) {
	if !gjson.ValidBytes(body) {
		return "", false
	}
	document := gjson.ParseBytes(body)
	if inner := document.Get("error"); inner.Exists() {
		document = inner
	}
	if document.Type == gjson.String {
		return "", true
	}
	for _, name := range []string{"code", "type"} {
		if kind := document.Get(name).String(); plainWord(kind) {
			return kind, true
		}
	}
	return "", document.Get("message").Exists()
}

// plainWord says whether a text is an identifier, and so cannot be a piece of a prompt or a key.
func plainWord(text string) bool {
	for _, c := range []byte(text) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return text != "" && len(text) <= 40
}

// retryAfter reads how long the provider wants to be left alone; 0 means that it does not say.
func retryAfter(header http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(header.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return time.Duration(min(ms, 1e9) * float64(time.Millisecond))
	}
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 1e6) * float64(time.Second))
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
