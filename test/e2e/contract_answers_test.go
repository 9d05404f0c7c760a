package e2e

// This file holds an answer against the document: status, headers, media type and body, events of streams included.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// judge says what is wrong with an answer, or "".
func (c *contract) judge(in request, got answer) string {
	c.mu.Lock()
	if c.count[in.op.String()] == nil {
		c.count[in.op.String()] = map[int]int{}
	}
	c.count[in.op.String()][got.status]++
	c.mu.Unlock()
	if !strings.HasPrefix(got.header.Get("X-Request-Id"), "req_") {
		return "it has no X-Request-Id"
	}
	documented := in.op.spec.Responses.Status(got.status)
	allowed := fmt.Sprint(got.status)
	switch {
	case got.status == http.StatusInternalServerError:
		return "this is our mistake, whatever was asked"
	case documented == nil:
		return "status " + allowed + " is not documented"
	case (got.status == http.StatusServiceUnavailable || got.status == http.StatusGatewayTimeout) && in.op.spec.OperationID != "getReady":
		return "a node that is well cannot answer this"
	case in.wrong && got.status < 400:
		return "it should have been refused"
	case in.fault == "" && refusesForm(in, got):
		return "the document allows it"
	}
	for name, header := range documented.Value.Headers {
		if fault := fits(header.Value.Schema.Value, headerValue(header.Value.Schema.Value, got.header.Get(name))); got.header.Get(name) != "" && fault != nil {
			return fmt.Sprintf("header %s: %v", name, fault)
		}
	}
	if in.method == http.MethodHead || len(documented.Value.Content) == 0 {
		if len(got.body) > 0 {
			return "it has a body"
		}
		return ""
	}
	kind := got.header.Get("Content-Type")
	media := documented.Value.Content.Get(kind)
	switch {
	case media == nil:
		return "the media type " + kind + " is not documented"
	case kind == "text/event-stream":
		return c.judgeStream(in, got)
	case strings.HasPrefix(kind, "text/"):
		return ""
	}
	if fault := fitsJSON(media.Schema.Value, got.body); fault != nil {
		return fmt.Sprintf("the body: %v", fault)
	}
	if got.status >= 400 && kind == "application/json" && in.op.spec.OperationID != "getReady" {
		return c.judgeError(got)
	}
	return ""
}

// refusesForm reports whether a request was refused for a form that the document allows. What it means may be refused: a
// text of spaces, a time zone that does not exist, an end before its beginning.
func refusesForm(in request, got answer) bool {
	switch got.status {
	case http.StatusUnauthorized, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	case http.StatusBadRequest:
		field := fieldOf(got)
		return in.method != http.MethodHead && !meant[field] && !strings.HasPrefix(field, "messages.")
	}
	return false
}

// meant are the fields whose values may be wrong though their form is right.
var meant = map[string]bool{
	"message": true, "query": true, "messages": true, "tz": true, "from": true, "to": true, "expiresAt": true, "ipAllow": true, "agentId": true, "cursor": true,
	"Last-Event-ID": true, "agentIds": true, "name": true, "model": true, "metadata": true, "metadata.conversation_id": true,
}

func fieldOf(got answer) string {
	var envelope struct {
		Error struct{ Param string }
		Param string // of RFC 9457's form
	}
	if json.Unmarshal(got.body, &envelope) != nil {
		return "?"
	}
	return envelope.Error.Param + envelope.Param
}

func (c *contract) judgeError(got answer) string {
	var envelope struct {
		Error struct {
			Code, RequestID string
			Retryable       bool
		}
	}
	if err := json.Unmarshal(got.body, &envelope); err != nil {
		return err.Error()
	}
	e := envelope.Error
	switch {
	case !strings.Contains(c.catalogue, "## "+e.Code+"\n"):
		return "the catalogue does not know " + e.Code
	case e.RequestID != got.header.Get("X-Request-Id") && got.header.Get("Idempotent-Replayed") == "":
		return "it names another request"
	case e.Retryable != (got.header.Get("Retry-After") != ""):
		return "Retry-After does not say what retryable says"
	case got.status == http.StatusUnauthorized && got.header.Get("WWW-Authenticate") == "":
		return "401 without WWW-Authenticate"
	case got.status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "":
		return "405 without Allow"
	case got.status == http.StatusTooManyRequests && (got.header.Get("RateLimit") == "" || got.header.Get("X-RateLimit-Reset") == ""):
		return "429 without the limits"
	}
	return ""
}

// judgeStream reads the events and holds their data against the schemas that the document has for them.
func (c *contract) judgeStream(in request, got answer) string {
	text, ended := strings.CutSuffix(string(got.body), "data: [DONE]\n\n")
	if !ended {
		return "the stream does not end with [DONE]"
	}
	ends := 0
	for block := range strings.SplitSeq(strings.TrimSuffix(text, "\n\n"), "\n\n") {
		name, data := "", ""
		for line := range strings.SplitSeq(block, "\n") {
			switch field, value, _ := strings.Cut(line, ": "); field {
			case "event":
				name = value
			case "data":
				data += value
			case "id", "retry", "":
			default:
				return fmt.Sprintf("line %q is no event's", line)
			}
		}
		if data == "" {
			continue
		}
		schema := eventSchema(in, name, data)
		if schema == "" {
			return fmt.Sprintf("event %q is not documented", name)
		}
		if fault := fitsJSON(c.document.Components.Schemas[schema].Value, []byte(data)); fault != nil {
			return fmt.Sprintf("event %q, %s: %v", name, data, fault)
		}
		if schema == "TurnReply" || schema == "ErrorEnvelope" || strings.Contains(data, `"finish_reason":"`) {
			ends++
		}
	}
	if ends != 1 {
		return fmt.Sprintf("the stream has %d ends", ends)
	}
	return ""
}

// eventSchema is what the document calls an event's data.
func eventSchema(in request, name, data string) string {
	switch {
	case !in.op.isOpenAI():
		return map[string]string{
			"turn.started": "TurnStarted", "message.delta": "MessageDelta", "turn.completed": "TurnReply", "turn.cancelled": "TurnReply",
			"turn.failed": "ErrorEnvelope",
		}[name]
	case strings.HasPrefix(data, `{"error":`):
		return "ErrorEnvelope"
	}
	return "CompletionChunk"
}

func fitsJSON(schema *openapi3.Schema, body []byte) error {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return fits(schema, value)
}

func fits(schema *openapi3.Schema, value any) error {
	return schema.VisitJSON(value, openapi3.VisitAsResponse(), openapi3.EnableFormatValidation())
}

// headerValue is a header as its schema's type.
func headerValue(schema *openapi3.Schema, text string) any {
	if number, err := strconv.ParseFloat(text, 64); err == nil && !schema.Type.Includes("string") {
		return number
	}
	return text
}
