package conversation_test

import (
	"errors"
	"testing"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// An event of the log is read, or it is undecodable; what was read is written so that it reads the same.
func FuzzCodec(f *testing.F) {
	for name, schema := range conversation.Aggregate.Codec.Types() {
		f.Add(name, schema, []byte(`{}`))
		f.Add(name, schema, []byte(`{"turn":"t","text":{"key":"k","data":"AA=="},"usage":{"inputTokens":1}}`))
		f.Add(name, schema+1, []byte(`null`))
	}
	f.Fuzz(func(t *testing.T, name string, schema int, data []byte) {
		event, err := conversation.Aggregate.Codec.Decode(domain.Stored{Type: name, Schema: schema, Data: data})
		if err != nil {
			if !errors.Is(err, domain.ErrUndecodable) {
				t.Errorf("%v is not told as undecodable", err)
			}
			return
		}
		written, err := conversation.Aggregate.Codec.Encode([]conversation.Event{event})
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := conversation.Aggregate.Codec.Decode(written[0]); err != nil || written[0].Type != name {
			t.Errorf("%s became %s: %v", name, written[0].Type, err)
		}
	})
}
