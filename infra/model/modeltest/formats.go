package modeltest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
)

// openAI writes chat completions.
type openAI struct{}

func (openAI) whole(reply Reply, text string, in, out int) []byte {
	usage := ""
	if in >= 0 {
		usage = `,"usage":` + openAIUsage(in, out)
	}
	return fmt.Appendf(nil, `{"id":"chatcmpl-mock","object":"chat.completion","created":%d,"model":%s,"choices":[{"index":0,`+
		`"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":%s}]%s}`,
		created, quote(reply.Model), quote(text), quote(cmp.Or(reply.Finish, "stop")), usage)
}

func (openAI) failure(status int, kind string) []byte {
	kind = cmp.Or(kind, map[bool]string{true: "server_error", false: "invalid_request_error"}[status >= 500])
	return fmt.Appendf(nil, `{"error":{"message":"the mock was told to fail","type":%s,"param":null,"code":%s}}`,
		quote(kind), quote(kind))
}

func (openAI) begin(reply Reply, _ int) []byte {
	return openAIChunk(reply, `{"role":"assistant","content":""}`, "null")
}

func (openAI) token(reply Reply, text string) []byte {
	return openAIChunk(reply, `{"content":`+quote(text)+`}`, "null")
}

func (openAI) streamFailure(kind string) []byte {
	return fmt.Appendf(nil, "data: {\"error\":{\"message\":\"the mock was told to fail\",\"type\":%s}}\n\n",
		quote(cmp.Or(kind, "server_error")))
}

func (openAI) end(reply Reply, in, out int) []byte {
	events := openAIChunk(reply, `{}`, quote(cmp.Or(reply.Finish, "stop")))
	if in >= 0 {
		events = fmt.Appendf(events, `data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":%d,"model":%s,`+
			`"service_tier":"default","system_fingerprint":"fp_mock","choices":[],"usage":%s}`+"\n\n",
			created, quote(reply.Model), openAIUsage(in, out))
	}
	return append(events, "data: [DONE]\n\n"...)
}

func openAIChunk(reply Reply, delta, finish string) []byte {
	return fmt.Appendf(nil, `data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":%d,"model":%s,`+
		`"service_tier":"default","system_fingerprint":"fp_mock","choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}`+"\n\n",
		created, quote(reply.Model), delta, finish)
}

func openAIUsage(in, out int) string {
	return fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, in, out, in+out)
}

// anthropic writes messages.
type anthropic struct{}

func (anthropic) whole(reply Reply, text string, in, out int) []byte {
	return fmt.Appendf(nil, `{"id":"msg_mock","type":"message","role":"assistant","model":%s,"content":[{"type":"text","text":%s}],`+
		`"stop_reason":%s,"stop_sequence":null%s}`, quote(reply.Model), quote(text), stopReason(reply), anthropicUsage(in, out))
}

func (anthropic) failure(status int, kind string) []byte {
	kinds := map[int]string{
		http.StatusUnauthorized: "authentication_error", http.StatusForbidden: "permission_error",
		http.StatusNotFound: "not_found_error", http.StatusTooManyRequests: "rate_limit_error", 529: "overloaded_error",
	}
	fallback := "invalid_request_error"
	if status >= 500 {
		fallback = "api_error"
	}
	return fmt.Appendf(nil, `{"type":"error","error":{"type":%s,"message":"the mock was told to fail"}}`,
		quote(cmp.Or(kind, kinds[status], fallback)))
}

func (anthropic) begin(reply Reply, in int) []byte {
	message := fmt.Sprintf(`{"type":"message_start","message":{"id":"msg_mock","type":"message","role":"assistant","model":%s,`+
		`"content":[],"stop_reason":null,"stop_sequence":null%s}}`, quote(reply.Model), anthropicUsage(in, 1))
	events := anthropicEvent("message_start", message)
	events = append(events, anthropicEvent("content_block_start",
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)...)
	return append(events, anthropicEvent("ping", `{"type":"ping"}`)...)
}

func (anthropic) token(_ Reply, text string) []byte {
	return anthropicEvent("content_block_delta",
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":`+quote(text)+`}}`)
}

func (anthropic) streamFailure(kind string) []byte {
	return anthropicEvent("error", `{"type":"error","error":{"type":`+quote(cmp.Or(kind, "api_error"))+
		`,"message":"the mock was told to fail"}}`)
}

func (anthropic) end(reply Reply, in, out int) []byte {
	usage := ""
	if in >= 0 {
		usage = fmt.Sprintf(`,"usage":{"output_tokens":%d}`, out)
	}
	events := anthropicEvent("content_block_stop", `{"type":"content_block_stop","index":0}`)
	events = append(events, anthropicEvent("message_delta",
		`{"type":"message_delta","delta":{"stop_reason":`+stopReason(reply)+`,"stop_sequence":null}`+usage+`}`)...)
	return append(events, anthropicEvent("message_stop", `{"type":"message_stop"}`)...)
}

// stopReason says in Anthropic's words why a reply ends.
func stopReason(reply Reply) string {
	words := map[string]string{"": "end_turn", "stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
	return quote(cmp.Or(words[reply.Finish], reply.Finish))
}

func anthropicEvent(name, data string) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data)
}

func anthropicUsage(in, out int) string {
	if in < 0 {
		return ""
	}
	return fmt.Sprintf(`,"usage":{"input_tokens":%d,"output_tokens":%d}`, in, out)
}

// quote writes a JSON string.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("modeltest: a string does not marshal: " + err.Error())
	}
	return string(quoted)
}
