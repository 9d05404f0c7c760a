package requestlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/projections"
)

var begin = time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)

// numbered is a request at a time of its own, whose id ends with its number.
func numbered(i int) projections.Request {
	id := projections.NewRequestID(begin.Add(time.Duration(i) * time.Second))
	return projections.Request{ID: id[:len(id)-16] + fmt.Sprintf("%016d", i), At: begin.Add(time.Duration(i) * time.Second), Account: "acc_one", Status: 200,
		RequestBody: projections.Body{Text: []byte("hello")}}
}

func ids(requests []projections.Request) string {
	var list []string
	for _, request := range requests {
		list = append(list, cmp.Or(strings.TrimLeft(request.ID[max(len(request.ID)-16, 0):], "0"), "0"))
	}
	return strings.Join(list, " ")
}

// startQueue starts a queue inside a bubble; what it returns closes it and waits.
func startQueue(t *testing.T, config Config, publisher Publisher, keys Keys) (*Queue, func()) {
	t.Helper()
	config.Node = "node-1"
	queue, err := NewQueue(config, publisher, keys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go queue.Run(t.Context())
	return queue, func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := queue.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestQueue(t *testing.T) {
	t.Run("publishes what came together in one bundle, soon", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{}, newRing()
			queue, stop := startQueue(t, Config{}, kafka, keys)
			for i := range 10 {
				queue.Record(numbered(i))
			}
			time.Sleep(60 * time.Millisecond) // the bubble's clock, not the machine's
			synctest.Wait()
			if got, _ := kafka.read(t, keys); ids(got) != "0 1 2 3 4 5 6 7 8 9" || len(kafka.payloads) != 1 {
				t.Errorf("%d bundles with %s", len(kafka.payloads), ids(got))
			}
			if entries, size := queue.Waiting(); entries != 0 || size != 0 {
				t.Errorf("%d entries of %d bytes still wait", entries, size)
			}
			stop()
		})
	})
	t.Run("does not let a full bundle wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka := &topic{}
			queue, stop := startQueue(t, Config{BundleEntries: 4, Linger: time.Hour}, kafka, newRing())
			for i := range 8 {
				queue.Record(numbered(i))
			}
			synctest.Wait()
			if len(kafka.payloads) != 2 {
				t.Errorf("%d bundles before the linger is over, want 2", len(kafka.payloads))
			}
			stop()
		})
	})
	t.Run("flushes when it is closed, and takes nothing after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{}, newRing()
			queue, stop := startQueue(t, Config{BundleEntries: 2, Linger: time.Hour}, kafka, keys)
			for i := range 5 {
				queue.Record(numbered(i))
			}
			stop()
			queue.Record(numbered(5))
			if got, _ := kafka.read(t, keys); ids(got) != "0 1 2 3 4" || queue.Lost() != 1 {
				t.Errorf("published %s, lost %d", ids(got), queue.Lost())
			}
		})
	})
	t.Run("says so when it cannot flush in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka := &topic{down: true}
			queue, err := NewQueue(Config{Node: "n"}, kafka, newRing(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			run, end := context.WithCancel(t.Context())
			go queue.Run(run)
			queue.Record(numbered(1))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := queue.Close(ctx); err == nil || !strings.Contains(err.Error(), "1 entries are lost") {
				t.Errorf("close: %v", err)
			}
			end()
			synctest.Wait()
		})
	})
}

func TestQueueInAnOutage(t *testing.T) {
	t.Run("keeps entries and publishes them in order when Kafka is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{down: true}, newRing()
			queue, stop := startQueue(t, Config{BundleEntries: 3}, kafka, keys)
			for i := range 7 {
				queue.Record(numbered(i))
				time.Sleep(5 * time.Second)
			}
			kafka.set(false)
			stop()
			if got, gaps := kafka.read(t, keys); ids(got) != "0 1 2 3 4 5 6" || len(gaps) != 0 {
				t.Errorf("published %s with gaps %v", ids(got), gaps)
			}
			if kafka.tries > 60 {
				t.Errorf("%d tries in half a minute are too many", kafka.tries)
			}
		})
	})
	t.Run("counts what does not fit, account by account", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{down: true}, newRing()
			queue, stop := startQueue(t, Config{MaxEntries: 5}, kafka, keys)
			for i := range 9 {
				queue.Record(numbered(i))
			}
			other := numbered(20)
			other.Account = "acc_two"
			queue.Record(other)
			if entries, _ := queue.Waiting(); entries != 5 || queue.Lost() != 5 {
				t.Errorf("%d wait, %d are lost", entries, queue.Lost())
			}
			time.Sleep(time.Minute)
			kafka.set(false)
			stop()
			got, gaps := kafka.read(t, keys)
			if ids(got) != "0 1 2 3 4" {
				t.Errorf("published %s", ids(got))
			}
			told := map[string]projections.Gap{}
			for _, g := range gaps {
				if g.ID == "" {
					t.Error("a gap without an id is written twice by a second delivery")
				}
				g.ID = ""
				told[g.Account] = g
			}
			want := map[string]projections.Gap{
				"acc_one": {Account: "acc_one", Node: "node-1", Lost: 4, From: begin.Add(5 * time.Second), To: begin.Add(8 * time.Second), Why: "queue_full"},
				"acc_two": {Account: "acc_two", Node: "node-1", Lost: 1, From: other.At, To: other.At, Why: "queue_full"},
			}
			if len(gaps) != 2 || told["acc_one"] != want["acc_one"] || told["acc_two"] != want["acc_two"] {
				t.Errorf("gaps %+v", gaps)
			}
		})
	})
	t.Run("bounds bytes as well, and takes entries again once there is room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{down: true}, newRing()
			queue, stop := startQueue(t, Config{MaxBytes: 200 << 10}, kafka, keys)
			large := numbered(0)
			large.RequestBody.Text = bytes.Repeat([]byte("x"), 60<<10)
			for range 4 {
				queue.Record(large)
			}
			if queue.Lost() != 1 {
				t.Errorf("three times 60 KiB fit into 200 KiB, lost %d", queue.Lost())
			}
			kafka.set(false)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			queue.Record(numbered(1))
			stop()
			if got, _ := kafka.read(t, keys); ids(got) != "0 0 0 1" || queue.Lost() != 1 {
				t.Errorf("published %s, lost %d", ids(got), queue.Lost())
			}
		})
	})
	t.Run("publishes a bundle again whose acknowledgement was lost, with the same ids", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka := &topic{late: true}
			queue, stop := startQueue(t, Config{}, kafka, newRing())
			queue.Record(numbered(1))
			stop()
			if len(kafka.payloads) != 2 || !bytes.Equal(kafka.payloads[0], kafka.payloads[1]) {
				t.Errorf("%d bundles", len(kafka.payloads))
			}
		})
	})
	t.Run("sends entries without their personal half when data keys cannot be had", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kafka, keys := &topic{}, newRing()
			keys.down = errors.New("no Postgres")
			queue, stop := startQueue(t, Config{KeyPatience: 10 * time.Second}, kafka, keys)
			brings := numbered(2)
			brings.Sealer = ringKey("dk_own")
			queue.Record(numbered(1))
			queue.Record(brings)
			start := time.Now()
			stop()
			if waited := time.Since(start); waited < 10*time.Second || waited > 20*time.Second {
				t.Errorf("the bundle went after %v", waited)
			}
			got, _ := kafka.read(t, keys)
			if ids(got) != "1 2" || len(got[0].RequestBody.Text) != 0 || string(got[1].RequestBody.Text) != "hello" {
				t.Errorf("published %+v", got)
			}
		})
	})
}

func TestQueueSeals(t *testing.T) {
	secret := "ha_live_abcDEF123456" + strings.Repeat("S", 32) + "00wxyz"
	request := numbered(1)
	request.ConversationID, request.Path, request.Query = "conv-of-jane", "/api/conversations/conv-of-jane", "key="+secret
	request.RequestHeaders = []projections.Header{{Name: "X-Patient", Value: "jane"}}
	request.RequestBody = projections.Body{Text: []byte(`{"query":"jane is ill","key":"` + secret + `"}`)}
	request.ResponseBody = projections.Body{Text: bytes.Repeat([]byte("jane "), 20<<10), Bytes: 1 << 20}

	publish := func(t *testing.T, keys *ring, requests ...projections.Request) *topic {
		kafka := &topic{}
		synctest.Test(t, func(t *testing.T) {
			queue, stop := startQueue(t, Config{}, kafka, keys)
			for _, r := range requests {
				queue.Record(r)
			}
			stop()
		})
		return kafka
	}
	t.Run("whatever is personal, and no secret comes out again", func(t *testing.T) {
		keys := newRing()
		kafka := publish(t, keys, request)
		raw, _, err := decodeBundle(kafka.payloads[0])
		if err != nil {
			t.Fatal(err)
		}
		if open := fmt.Sprintf("%+v", raw); strings.Contains(open, "jane") || bytes.Contains(kafka.payloads[0], []byte("jane")) {
			t.Errorf("the topic says who it was: %s", open)
		}
		got, _ := kafka.read(t, keys)
		all := fmt.Sprintf("%s %s %s", got[0].Query, got[0].RequestBody.Text, got[0].Path)
		if strings.Contains(all, "SSSS") || got[0].Query != "key=ha_live_abc…wxyz" || !strings.Contains(all, `"key":"ha_live_abc…wxyz"`) {
			t.Errorf("the key is in the log: %s", all)
		}
		if got[0].ConversationID != "conv-of-jane" || got[0].RequestHeaders[0].Value != "jane" {
			t.Errorf("opened: %+v", got[0])
		}
		if body := got[0].ResponseBody; len(body.Text) != 64<<10 || !body.Truncated || body.Bytes != 1<<20 {
			t.Errorf("the answer's body: %d of %d bytes, truncated %v", len(body.Text), body.Bytes, body.Truncated)
		}
	})
	t.Run("under the conversation's key where the entry names one, else under the account's", func(t *testing.T) {
		keys := newRing()
		owned, brought := request, request
		owned.Owner, brought.Sealer = "conversation-agt_a.mac", ringKey("dk_brought")
		kafka := publish(t, keys, request, owned, brought, request)
		raw, _, err := decodeBundle(kafka.payloads[0])
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"dk_acc_one", "dk_conversation-agt_a.mac", "dk_brought", "dk_acc_one"} {
			if raw.Entries[i].DataKey != want {
				t.Errorf("entry %d is sealed under %s, want %s", i, raw.Entries[i].DataKey, want)
			}
		}
		if keys.asked["acc_one"] != 1 {
			t.Errorf("the account's key was asked for %d times", keys.asked["acc_one"])
		}
	})
	t.Run("nothing of an owner who is to be forgotten", func(t *testing.T) {
		keys := newRing()
		keys.destroyed["dk_acc_one"] = true
		got, _ := publish(t, keys, request).read(t, keys)
		if len(got) != 1 || got[0].Status != 200 || got[0].Path != "" || len(got[0].RequestBody.Text) != 0 {
			t.Errorf("published %+v", got)
		}
	})
	t.Run("no body without an account", func(t *testing.T) {
		stranger := request
		stranger.Account = ""
		got, _ := publish(t, newRing(), stranger).read(t, newRing())
		if len(got) != 1 || got[0].Path != request.Path || len(got[0].RequestBody.Text)+len(got[0].ResponseBody.Text) != 0 {
			t.Errorf("published %+v", got)
		}
	})
	t.Run("into a record that Kafka takes, whatever clients send", func(t *testing.T) {
		huge := request
		huge.Path, huge.UserAgent = strings.Repeat("/p", 1<<20), strings.Repeat("u", 1<<20)
		huge.RequestHeaders = nil
		for i := range 1000 {
			huge.RequestHeaders = append(huge.RequestHeaders, projections.Header{Name: fmt.Sprint("X-", i), Value: strings.Repeat("v", 1000)})
		}
		huge.RequestBody.Text = bytes.Repeat([]byte("b"), 1<<20)
		var many []projections.Request
		for range 10 {
			many = append(many, huge)
		}
		keys := newRing()
		kafka := publish(t, keys, many...)
		for _, payload := range kafka.payloads {
			if len(payload) > 1_000_000 {
				t.Errorf("a bundle of %d bytes", len(payload))
			}
		}
		got, _ := kafka.read(t, keys)
		if len(got) != 10 || len(got[0].Path) != 4<<10 || got[0].RequestHeaders[len(got[0].RequestHeaders)-1].Name != "X-Nido-Truncated" {
			t.Errorf("%d entries", len(got))
		}
	})
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	_, err := NewQueue(Config{MaxBytes: -1, Linger: -1}, &topic{}, newRing(), slog.New(slog.DiscardHandler))
	for _, fault := range []string{"Node is empty", "bound is negative", "duration is negative"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%v does not say: %s", err, fault)
		}
	}
}
