package kafka

import (
	"reflect"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
)

// What lies in the topic was perhaps written by somebody else: it is read whole or not at all, and what was read is written
// as it was.
func FuzzDecode(f *testing.F) {
	commit := domain.Commit{
		Stream: "agent-a1", Base: 3, Command: "cmd_1", Account: "acc_1", Actor: domain.Actor{Kind: "key", ID: "k"}, Time: time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC),
		Events: []domain.Stored{{Type: "agent.paused", Schema: 1, Data: []byte(`{}`)}},
	}
	written, err := Encode(commit)
	if err != nil {
		f.Fatal(err)
	}
	header := written.Metadata
	f.Add([]byte(commit.Stream), []byte(written.Payload), header[headerID], header[headerTime], header[headerAccount])
	f.Add([]byte("-"), []byte(`{"base":-1,"events":[{}]}`), "", "yesterday", "")
	f.Add([]byte("a-b"), []byte(`{"base":9223372036854775807,"base":1,"events":null}`), ".1", "0000-01-01T00:00:00Z", "\xff")
	f.Fuzz(func(t *testing.T, key, payload []byte, id, at, account string) {
		msg := message.NewMessage("", payload)
		msg.Metadata = message.Metadata{
			headerSpec: specVersion, headerType: commitType, headerSource: source, headerContent: contentType, headerID: id, headerTime: at, headerAccount: account,
			headerSubject: string(key), headerPartitionKey: string(key),
		}
		read, err := decode(key, msg)
		if err != nil {
			return
		}
		again, err := Encode(read)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		reread, err := decode(key, again)
		if err != nil || !reflect.DeepEqual(compacted(t, read), compacted(t, reread)) {
			t.Errorf("%v: %+v became %+v", err, read, reread)
		}
	})
}

// compacted is a commit whose events' data is as an encoder writes it.
func compacted(t *testing.T, commit domain.Commit) domain.Commit {
	t.Helper()
	written, err := Encode(commit)
	if err != nil {
		t.Fatal(err)
	}
	read, err := decode([]byte(commit.Stream), written)
	if err != nil {
		t.Fatal(err)
	}
	return read
}
