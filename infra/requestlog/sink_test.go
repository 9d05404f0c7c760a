package requestlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/infra/clickhouse"
	"github.com/nidohq/nido/infra/enginestest"
	"github.com/nidohq/nido/projections"
)

var update = flag.Bool("update", false, "write the golden file of the current bundle version")

func newSink(t *testing.T, keys *ring) (*Sink, *projections.Logs) {
	t.Helper()
	client, err := clickhouse.Open(t.Context(), clickhouse.Config{DSN: enginestest.ClickHouse(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	requests := projections.NewRequests(client, client.Database)
	if err := requests.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return NewSink(requests, keys, slog.New(slog.DiscardHandler)), projections.NewLogs(client, client.Database)
}

// publish sends requests through a queue, in bundles of two.
func publish(t *testing.T, keys *ring, requests ...projections.Request) [][]byte {
	kafka := &topic{}
	synctest.Test(t, func(t *testing.T) {
		queue, stop := startQueue(t, Config{BundleEntries: 2, MaxEntries: 6}, kafka, keys)
		for _, r := range requests {
			queue.Record(r)
		}
		stop()
	})
	return kafka.payloads
}

func listed(t *testing.T, logs *projections.Logs, account string) string {
	t.Helper()
	list, err := logs.List(t.Context(), account, projections.LogFilter{Limit: 100}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ids(list)
}

func TestSink(t *testing.T) {
	t.Run("writes what the queue recorded, and its gaps", func(t *testing.T) {
		keys := newRing()
		var story []projections.Request
		for i := range 8 {
			story = append(story, numbered(i))
		}
		payloads := publish(t, keys, story...)
		sink, logs := newSink(t, keys)
		if err := sink.Apply(t.Context(), 3, -1, 10, []byte("hash"), payloads); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, logs, "acc_one"); got != "5 4 3 2 1 0" {
			t.Errorf("listed %s", got)
		}
		gaps, err := logs.Gaps(t.Context(), "acc_one", time.Time{}, time.Time{})
		// The queue may publish between two losses, which makes two gaps of them. The newest comes first.
		lost := int64(0)
		for _, gap := range gaps {
			lost += gap.Lost
		}
		if err != nil || lost != 2 || !gaps[len(gaps)-1].From.Equal(story[6].At) || gaps[0].Node != "node-1" {
			t.Errorf("gaps %+v, %v", gaps, err)
		}
		if offset, hash, err := sink.Checkpoint(t.Context(), 3); err != nil || offset != 10 || string(hash) != "hash" {
			t.Errorf("checkpoint %d %q %v", offset, hash, err)
		}
		got, found, err := logs.Get(t.Context(), "acc_one", story[4].ID)
		if err != nil || !found || string(got.RequestBody.Text) != "hello" || got.RequestBody.Bytes != 5 {
			t.Errorf("one of them: %+v, %v", got, err)
		}
	})
	t.Run("writes a bundle once that comes again in another batch", func(t *testing.T) {
		keys := newRing()
		payloads := publish(t, keys, numbered(0), numbered(1), numbered(2), numbered(3))
		sink, logs := newSink(t, keys)
		for _, step := range []struct {
			after, last int64
			payloads    [][]byte
		}{{-1, 0, payloads[:1]}, {0, 2, payloads}, {2, 3, payloads[1:]}} {
			if err := sink.Apply(t.Context(), 0, step.after, step.last, nil, step.payloads); err != nil {
				t.Fatal(err)
			}
		}
		if got := listed(t, logs, "acc_one"); got != "3 2 1 0" {
			t.Errorf("listed %s", got)
		}
	})
	t.Run("keeps the impersonal half of what was erased on the way", func(t *testing.T) {
		keys := newRing()
		chat := numbered(1)
		chat.Owner, chat.ConversationID, chat.Path = "conversation-agt_a.mac", "conv-of-jane", "/api/v1/chat"
		other := numbered(0)
		payloads := publish(t, keys, other, chat)
		keys.destroyed["dk_"+chat.Owner] = true
		sink, logs := newSink(t, keys)
		if err := sink.Apply(t.Context(), 0, -1, 0, nil, payloads); err != nil {
			t.Fatal(err)
		}
		got, found, err := logs.Get(t.Context(), "acc_one", chat.ID)
		if err != nil || !found || !got.Erased || got.Status != 200 || len(got.RequestBody.Text) != 0 || got.ConversationID+got.Path != "" {
			t.Errorf("the erased one: %+v, %v", got, err)
		}
		if kept, _, err := logs.Get(t.Context(), "acc_one", other.ID); err != nil || kept.Erased || string(kept.RequestBody.Text) != "hello" {
			t.Errorf("the other one: %+v, %v", kept, err)
		}
	})
	t.Run("notes what it cannot read as a gap and goes on", func(t *testing.T) {
		keys := newRing()
		payloads := publish(t, keys, numbered(0), numbered(1))
		sink, logs := newSink(t, keys)
		for after := range int64(2) {
			broken := [][]byte{{bundleVersion, 200}, payloads[0], nil, []byte("\x02 from the future")}
			if err := sink.Apply(t.Context(), 0, after-1, after, nil, broken[:4-after]); err != nil {
				t.Fatal(err)
			}
		}
		gaps, err := logs.Gaps(t.Context(), "acc_one", time.Time{}, time.Time{})
		if err != nil || len(gaps) != 3 || gaps[0].Why != "undecodable" {
			t.Errorf("gaps %+v, %v", gaps, err)
		}
		if got := listed(t, logs, "acc_one"); got != "1 0" {
			t.Errorf("listed %s", got)
		}
	})
}

// goldenRequest has every field, so that one that is added without thought for older bundles shows.
func goldenRequest() projections.Request {
	return projections.Request{
		ID: "req_golden", At: time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC), Account: "acc_one", KeyID: "key_1", AgentID: "agt_1",
		ConversationID: "conv-1", Method: "POST", Route: "/api/v1/chat", Path: "/api/v1/chat", Query: "a=b", Status: 200,
		Latency: 1234567 * time.Microsecond, FirstToken: 89 * time.Millisecond, ErrorCode: "none", Model: "echo", InputTokens: 12, OutputTokens: 34,
		ClientRequestID: "mine", RemoteIP: "127.0.0.1", UserAgent: "curl/8", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		RequestHeaders:  []projections.Header{{Name: "Accept", Value: "*/*"}},
		ResponseHeaders: []projections.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "Set-Cookie", Value: "[redacted]"}},
		RequestBody:     projections.Body{Text: []byte(`{"message":"¡hola!"}`), Bytes: 21},
		ResponseBody:    projections.Body{Text: []byte("not JSON \xff\x00"), Truncated: true, Bytes: 4711},
	}
}

// Every version of the bundle that was ever written stays readable: its golden file is kept for ever.
func TestBundlesOfEveryVersionAreRead(t *testing.T) {
	name := filepath.Join("testdata", "bundle_v1.bin")
	gaps := []gap{{ID: "gap_1", Account: "acc_two", Node: "node-1", Lost: 5, From: begin, To: begin.Add(time.Minute), Why: "queue_full"}}
	if *update {
		e, half := split(goldenRequest())
		plain, err := half.plain(goldenRequest().RequestBody.Text, goldenRequest().ResponseBody.Text)
		if err != nil {
			t.Fatal(err)
		}
		text := ringKey("dk_golden").Seal(plain)
		e.DataKey, e.SealedBytes = text.Key, len(text.Data)
		stranger, open := split(projections.Request{ID: "req_stranger", At: begin, Path: "/nowhere", Status: 404})
		stranger.Open = &open
		bundle, err := encodeBundle(newCompressor(), []entry{e, stranger}, [][]byte{text.Data, nil}, gaps)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bundle, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	found, told := (&topic{payloads: [][]byte{golden}}).read(t, newRing())
	if len(found) != 2 || len(told) != 1 || told[0] != projections.Gap(gaps[0]) {
		t.Fatalf("read %d requests and gaps %+v", len(found), told)
	}
	whole := goldenRequest()
	whole.DataKey = "dk_golden"
	if got, want := fmt.Sprintf("%+v", found[0]), fmt.Sprintf("%+v", whole); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if found[1].Path != "/nowhere" || found[1].Status != 404 {
		t.Errorf("the one without account: %+v", found[1])
	}
}

func TestBrokenBundlesAreErrors(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "bundle_v1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for length := range golden {
		if _, _, err := decodeBundle(golden[:length]); err == nil {
			t.Fatalf("%d of %d bytes are no bundle", length, len(golden))
		}
	}
	// The document says which bytes are whose; one that lies is refused.
	data, err := json.Marshal(document{Entries: []entry{{ID: "a", SealedBytes: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	compressed := newCompressor().EncodeAll(data, nil)
	if _, _, err := decodeBundle(append([]byte{bundleVersion, byte(len(compressed))}, compressed...)); err == nil || !strings.Contains(err.Error(), "sealed text") {
		t.Errorf("a negative length: %v", err)
	}
	liar := entry{ID: "a"}
	half, err := personal{Request: &body{Kept: 1 << 40}}.plain(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := liar.join(half, false); err == nil {
		t.Error("a body longer than the text was read")
	}
}

func BenchmarkRecordAndEncode(b *testing.B) {
	request := goldenRequest()
	request.Sealer = ringKey("dk_bench")
	request.RequestBody.Text, request.ResponseBody.Text = bytes.Repeat([]byte("a word "), 90), bytes.Repeat([]byte("an answer "), 60)
	queue, err := NewQueue(Config{Node: "bench", MaxEntries: 1 << 30, MaxBytes: 1 << 50}, &topic{}, newRing(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		queue.Record(request)
		if len(queue.waiting) == 500 {
			next, _ := queue.take(b.Context())
			if _, err := queue.encode(b.Context(), next); err != nil {
				b.Fatal(err)
			}
			queue.passed(next)
		}
	}
}
