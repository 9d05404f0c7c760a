package model

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/commands"
)

// A provider may send anything: its reply is bounded, valid text, or an error.
func FuzzCompletionStream(f *testing.F) {
	for _, body := range []string{
		"data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hola\"},\"finish_reason\":null}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
		"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n\r\ndata: [DONE]",
		": ping\n\nevent: x\nid: 3\ndata: {\"error\":{\"message\":\"m\",\"code\":429}}\n\n",
		"data:{\"choices\":[{\"delta\":{\"content\":[{\"type\":\"text\",\"text\":\"\xff\"}]}}]}\ndata:\n\n", "data: [DONE]\n\n", "data", "\n\n\n", "data: " + strings.Repeat("x", 5000),
		"data: {\"choices\":[{\"delta\":{\"content\":\"\\ud800\"},\"finish_reason\":\"length\"}]}\n\n",
	} {
		f.Add([]byte(body))
	}
	const limit = 1 << 12
	f.Fuzz(func(t *testing.T, body []byte) {
		text := ""
		r := &reply{
			yield: func(chunk commands.Chunk, err error) bool {
				if text += chunk.Text; err != nil {
					t.Errorf("told of %v", err)
				}
				return true
			},
			sent: func() {}, pass: &pass{}, call: &call{}, limit: limit, patience: time.NewTimer(time.Hour), first: time.Hour, idle: time.Hour,
		}
		defer r.patience.Stop()
		events := newEventReader(bytes.NewReader(body), maxEvent(limit))
		defer events.free()
		if err := readCompletionStream(t.Context(), events, r); err == nil && !r.ended && r.finish == "" {
			t.Errorf("%q is taken for a whole reply", body)
		}
		if len(text) > limit || !utf8.ValidString(text) {
			t.Errorf("%q was said", text)
		}
	})
}
