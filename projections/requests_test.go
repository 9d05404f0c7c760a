package projections_test

// This file stands at the request log: what is kept out of it, and every way of finding something in it.

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"pgregory.net/rapid"

	"github.com/nidohq/nido/projections"
)

const (
	requestsLiveKey = "ha_live_abcDEF123456" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345" + "00wxyz"
	requestsHint    = "ha_live_abc…wxyz"
)

func TestRedaction(t *testing.T) {
	t.Run("keeps of a header what is no secret", func(t *testing.T) {
		got := projections.RedactHeaders(http.Header{
			"Authorization": {"Bearer " + requestsLiveKey}, "X-Api-Key": {requestsLiveKey, "sk-other"}, "Cookie": {"session=1"},
			"Set-Cookie": {"a=1", "b=2"}, "Proxy-Authorization": {"Basic dXNlcg=="}, "X-Session-Token": {"t"}, "X-Client-Secret": {"s"},
			"X-Password-Hash": {"p"}, "Webhook-Signature": {"v1,abc"}, "Content-Type": {"application/json"}, "X-Debug": {"used " + requestsLiveKey},
		})
		want := []projections.Header{
			{"Authorization", "Bearer " + requestsHint}, {"Content-Type", "application/json"}, {"Cookie", "[redacted]"},
			{"Proxy-Authorization", "[redacted]"}, {"Set-Cookie", "[redacted]"}, {"Set-Cookie", "[redacted]"},
			{"Webhook-Signature", "[redacted]"}, {"X-Api-Key", requestsHint}, {"X-Api-Key", "[redacted]"}, {"X-Client-Secret", "[redacted]"},
			{"X-Debug", "used " + requestsHint}, {"X-Password-Hash", "[redacted]"}, {"X-Session-Token", "[redacted]"},
		}
		if !slices.Equal(got, want) {
			t.Errorf("\n got %v\nwant %v", got, want)
		}
	})
	t.Run("shows nothing of a credential that is not all key", func(t *testing.T) {
		for _, value := range []string{"Basic " + requestsLiveKey, "Bearer x" + requestsLiveKey, "Bearer a " + requestsLiveKey, "Bearer", ""} {
			got := projections.RedactHeaders(http.Header{"Authorization": {value}})
			if got[0].Value != "[redacted]" {
				t.Errorf("%q became %q", value, got[0].Value)
			}
		}
	})
	t.Run("leaves hints in bodies", func(t *testing.T) {
		for body, want := range map[string]string{
			`{"key":"` + requestsLiveKey + `","id":"key_1"}`:                     `{"key":"` + requestsHint + `","id":"key_1"}`,
			`{"key":"` + requestsLiveKey[:40]:                                    `{"key":"ha_live_abc…`,
			`{"keyHint":"` + requestsHint + `"}`:                                 `{"keyHint":"` + requestsHint + `"}`,
			`{"secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","url":"https:"}`: `{"secret":"whsec_…LaSw","url":"https:"}`,
			`nothing here, ha_ nor whsec_`:                                       `nothing here, ha_ nor whsec_`,
		} {
			if got := string(projections.RedactBody([]byte(body))); got != want {
				t.Errorf("%s became %s, want %s", body, got, want)
			}
		}
	})
	t.Run("leaves no key in any body", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			key := rapid.StringMatching(`ha_(live|test)_[0-9A-Za-z]{50}`).Draw(rt, "key")
			around := rapid.SliceOfN(rapid.String(), 2, 2).Draw(rt, "around")
			redacted := projections.RedactBody([]byte(around[0] + key + around[1]))
			if bytes.Contains(redacted, []byte(key[20:52])) {
				rt.Fatalf("the secret is still in %q", redacted)
			}
			if again := projections.RedactBody(redacted); !bytes.Equal(again, redacted) {
				rt.Fatalf("%q became %q", redacted, again)
			}
		})
	})
}

// requestsBegin is when the log's story begins.
var requestsBegin = time.Date(2026, 2, 27, 0, 0, 0, 0, time.UTC)

// requestsID is an id of that time which ends with a number.
func requestsID(at time.Time, number int) string {
	id := projections.NewRequestID(at)
	return id[:len(id)-16] + fmt.Sprintf("%016d", number)
}

// requestsStory is twelve requests of one account across the end of a month, half a day apart, and one of another account.
func requestsStory() []projections.Request {
	var story []projections.Request
	for i := range 12 {
		story = append(story, projections.Request{
			ID: requestsID(requestsBegin.Add(time.Duration(i)*12*time.Hour), i), At: requestsBegin.Add(time.Duration(i) * 12 * time.Hour), Account: "acc_one",
			KeyID: fmt.Sprint("key_", i%2), AgentID: fmt.Sprint("agt_", i%3), ConversationID: fmt.Sprint("conv-", i/4),
			Method: []string{"GET", "POST"}[i%2], Route: "/api/x/{id}", Path: fmt.Sprintf("/api/x/%d", i), Status: 200 + 100*(i%4),
			Latency: time.Duration(i) * 10 * time.Millisecond,
		})
	}
	chat := &story[5]
	*chat = projections.Request{
		ID: chat.ID, At: chat.At, Account: chat.Account, KeyID: chat.KeyID, AgentID: chat.AgentID, ConversationID: chat.ConversationID,
		Method: chat.Method, Route: "/api/v1/chat", Path: "/api/v1/chat", Query: "a=b&c=%27", Status: 429, Latency: 1500 * time.Microsecond,
		FirstToken: 700 * time.Microsecond, ErrorCode: "rate_limited", Model: "echo", InputTokens: 3, OutputTokens: 4,
		ClientRequestID: "mine'1", RemoteIP: "2001:db8::1", UserAgent: "curl/8", Trace: "00-1-2-01",
		RequestHeaders:  []projections.Header{{"Accept", "*/*"}, {"Cookie", "[redacted]"}},
		ResponseHeaders: []projections.Header{{"Content-Type", "application/json"}},
		RequestBody:     projections.Body{Text: []byte(`{"query":"¿Cuáles son los horarios de atenci\u00f3n?\nGracias"}`), Bytes: 61},
		ResponseBody:    projections.Body{Text: []byte(`{"response":"De lunes a viernes, 東京 too"`), Truncated: true, Bytes: 9000},
	}
	story[6].RequestBody.Text = []byte("el horario de los viernes")
	return append(story, projections.Request{
		ID: requestsID(requestsBegin.Add(time.Hour), 99), At: requestsBegin.Add(time.Hour), Account: "acc_two", RequestBody: projections.Body{Text: []byte("viernes")},
	})
}

func newRequestsLog(t testing.TB) (*projections.Requests, *projections.Logs) {
	t.Helper()
	conn, database := clickhouseConn(t)
	requests := projections.NewRequests(conn, database)
	for range 2 { // every start does it
		if err := requests.Prepare(t.Context()); err != nil {
			t.Fatalf("prepare: %v", err)
		}
	}
	return requests, projections.NewLogs(conn, database)
}

func requestsInsert(t testing.TB, log *projections.Requests, after int64, requests ...projections.Request) {
	t.Helper()
	batch := projections.RequestBatch{After: after, Last: after + 1, Hash: []byte{1}, Requests: requests}
	err := log.Begin(t.Context(), &batch)
	if err == nil {
		err = log.Insert(t.Context(), batch)
	}
	if err != nil {
		t.Fatalf("insert: %v", err)
	}
}

func logsIDs(t testing.TB, logs *projections.Logs, account string, filter projections.LogFilter, after *projections.LogKey) string {
	t.Helper()
	if filter.Limit == 0 {
		filter.Limit = 100
	}
	list, err := logs.List(t.Context(), account, filter, after)
	if err != nil {
		t.Fatalf("list %+v: %v", filter, err)
	}
	var ids []string
	for _, request := range list {
		ids = append(ids, request.ID[len(request.ID)-2:])
	}
	return strings.Join(ids, " ")
}

func TestRequestLog(t *testing.T) {
	requests, logs := newRequestsLog(t)
	story := requestsStory()
	requestsInsert(t, requests, -1, story...)
	requestsInsert(t, requests, 0, story[3:7]...) // again, in another batch: no token catches that

	for name, c := range map[string]struct {
		filter projections.LogFilter
		want   string
	}{
		"everything, newest first":    {projections.LogFilter{}, "11 10 09 08 07 06 05 04 03 02 01 00"},
		"from a time on":              {projections.LogFilter{From: requestsBegin.Add(5 * 24 * time.Hour)}, "11 10"},
		"before a time":               {projections.LogFilter{To: requestsBegin.Add(24 * time.Hour)}, "01 00"},
		"one key":                     {projections.LogFilter{KeyID: "key_1"}, "11 09 07 05 03 01"},
		"one agent":                   {projections.LogFilter{AgentID: "agt_2"}, "11 08 05 02"},
		"one conversation":            {projections.LogFilter{ConversationID: "conv-1"}, "07 06 05 04"},
		"one status":                  {projections.LogFilter{Status: projections.StatusRange{First: 400, Last: 400}}, "10 06 02"},
		"a class of statuses":         {projections.LogFilter{Status: projections.StatusRange{First: 400, Last: 499}}, "10 06 05 02"},
		"one method":                  {projections.LogFilter{Method: "GET"}, "10 08 06 04 02 00"},
		"a path's beginning":          {projections.LogFilter{Path: "/api/x/1"}, "11 10 01"},
		"a path's beginning, as is":   {projections.LogFilter{Path: "/api/%"}, ""},
		"the slow ones":               {projections.LogFilter{MinLatency: 90 * time.Millisecond}, "11 10 09"},
		"all at once":                 {projections.LogFilter{KeyID: "key_1", AgentID: "agt_2", ConversationID: "conv-1", Method: "POST", Q: "gracias"}, "05"},
		"a limit":                     {projections.LogFilter{Limit: 2}, "11 10"},
		"a limit below one is one":    {projections.LogFilter{Limit: -1}, "11"},
		"a word":                      {projections.LogFilter{Q: "viernes"}, "06 05"},
		"a word in another case":      {projections.LogFilter{Q: "VIERNES"}, "06 05"},
		"a word behind an escape":     {projections.LogFilter{Q: "Gracias"}, "05"},
		"a word with an escaped ó":    {projections.LogFilter{Q: "atención"}, "05"},
		"two words in one body":       {projections.LogFilter{Q: "horario viernes"}, "06"},
		"two words in both bodies":    {projections.LogFilter{Q: "horarios, lunes!"}, "05"},
		"half a word is none":         {projections.LogFilter{Q: "vier"}, ""},
		"signs of one script each":    {projections.LogFilter{Q: "京"}, "05"},
		"signs alone find nothing":    {projections.LogFilter{Q: "¿?"}, ""},
		"spaces alone ask nothing":    {projections.LogFilter{Q: "  ", Limit: 1}, "11"},
		"quotes do not break a query": {projections.LogFilter{KeyID: `' OR 1=1 --`, Path: `\`, Q: `x' OR 'y`}, ""},
	} {
		t.Run("lists "+name, func(t *testing.T) {
			if got := logsIDs(t, logs, "acc_one", c.filter, nil); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("lists page by page what it lists at once, even where requests share an instant", func(t *testing.T) {
		var twins []projections.Request
		for i := range 7 {
			twins = append(twins, projections.Request{ID: fmt.Sprintf("req_twin%d", i), At: requestsBegin, Account: "acc_twins"})
		}
		requestsInsert(t, requests, 1, twins...)
		var pages []string
		var after *projections.LogKey
		for {
			list, err := logs.List(t.Context(), "acc_twins", projections.LogFilter{Limit: 3}, after)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, request := range list {
				pages = append(pages, strings.TrimPrefix(request.ID, "req_"))
			}
			after = &projections.LogKey{At: list[len(list)-1].At, ID: list[len(list)-1].ID}
		}
		if got, want := strings.Join(pages, " "), "twin6 twin5 twin4 twin3 twin2 twin1 twin0"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("fills a page although copies take places in it", func(t *testing.T) {
		if got := logsIDs(t, logs, "acc_one", projections.LogFilter{Limit: 7}, nil); got != "11 10 09 08 07 06 05" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("shows one request whole", func(t *testing.T) {
		got, found, err := logs.Get(t.Context(), "acc_one", story[5].ID)
		if err != nil || !found {
			t.Fatalf("get: %v, %v", found, err)
		}
		if got, want := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", story[5]); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	})
	t.Run("shows nothing for what is no id of its time", func(t *testing.T) {
		for _, id := range []string{"", "req_", "req_none", story[5].ID[4:], story[5].ID + "0", "req_wxyz" + story[5].ID[8:], story[4].ID[:14] + story[5].ID[14:], "req_" + strings.Repeat("v", 26)} {
			if _, found, err := logs.Get(t.Context(), "acc_one", id); found || err != nil {
				t.Errorf("%q: %v, %v", id, found, err)
			}
		}
	})
	t.Run("shows nothing of another account", func(t *testing.T) {
		if got := logsIDs(t, logs, "acc_two", projections.LogFilter{}, nil); got != "99" {
			t.Errorf("acc_two lists %q", got)
		}
		if got := logsIDs(t, logs, "acc_two", projections.LogFilter{Q: "lunes"}, nil); got != "" {
			t.Errorf("acc_two finds %q", got)
		}
		if _, found, err := logs.Get(t.Context(), "acc_two", story[5].ID); found || err != nil {
			t.Errorf("acc_two gets a request of acc_one: %v, %v", found, err)
		}
	})
	t.Run("is up to its newest request", func(t *testing.T) {
		if mark, err := logs.Watermark(t.Context()); err != nil || !mark.Equal(story[11].At) {
			t.Errorf("watermark %v, %v", mark, err)
		}
	})
}

func TestStatusRanges(t *testing.T) {
	for text, want := range map[string]projections.StatusRange{"429": {First: 429, Last: 429}, "4xx": {First: 400, Last: 499}, "5XX": {First: 500, Last: 599}} {
		if got, err := projections.ParseStatus(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "xx", "0xx", "6xx", "42", "600", "-4xx", "4x"} {
		if got, err := projections.ParseStatus(text); err == nil {
			t.Errorf("%q is no status, got %v", text, got)
		}
	}
}

// The words of a question are found wherever they stand in a body, however it is written.
func TestSearchFindsEveryWord(t *testing.T) {
	requests, logs := newRequestsLog(t)
	after := int64(-1)
	rapid.Check(t, func(rt *rapid.T) {
		account := fmt.Sprint("acc_", after)
		text := rapid.StringOf(rapid.RuneFrom([]rune("aáBñ漢字б0 \n\t\"\\'-_.,😀"))).Draw(rt, "text")
		body := text
		if rapid.Bool().Draw(rt, "as JSON") {
			body = requestsASCII(text)
		}
		requestsInsert(t, requests, after, projections.Request{ID: "req_01", At: requestsBegin, Account: account, ResponseBody: projections.Body{Text: []byte(body)}})
		after++
		words := strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune("aáBñ漢字б0", r) })
		if len(words) == 0 || body == text && strings.ContainsRune(text, '\\') {
			return // a bare text with backslashes reads as JSON that it is not
		}
		word := rapid.SampledFrom(words).Draw(rt, "word")
		if got := logsIDs(t, logs, account, projections.LogFilter{Q: strings.ToUpper(word)}, nil); got != "01" {
			rt.Fatalf("%q is not found in %q", word, body)
		}
	})
}

// requestsASCII writes a JSON string as Python's clients do.
func requestsASCII(text string) string {
	var body strings.Builder
	for _, r := range text {
		switch {
		case r == '\n':
			body.WriteString(`\n`)
		case r == '\t':
			body.WriteString(`\t`)
		case r == '"' || r == '\\':
			body.WriteString(`\` + string(r))
		case r > 0xFFFF:
			fmt.Fprintf(&body, `\u%04x\u%04x`, 0xD800+(r-0x10000)>>10, 0xDC00+(r-0x10000)&0x3FF)
		case r > 126:
			fmt.Fprintf(&body, `\u%04x`, r)
		default:
			body.WriteRune(r)
		}
	}
	return `{"response":"` + body.String() + `"}`
}

func TestGapsAreAnAccountsOwnAndNobodysInParticular(t *testing.T) {
	conn, database := clickhouseConn(t)
	requests, logs := projections.NewRequests(conn, database), projections.NewLogs(conn, database)
	if err := requests.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	gaps := []projections.Gap{
		{ID: "gap_1", Account: "acc_one", Node: "n1", Lost: 7, From: requestsBegin, To: requestsBegin.Add(time.Minute), Why: "queue_full"},
		{ID: "gap_2", Account: "acc_two", Node: "n1", Lost: 1, From: requestsBegin, To: requestsBegin, Why: "queue_full"},
		{ID: "gap_3", Node: "n2", Lost: 5, From: requestsBegin.Add(time.Hour), To: requestsBegin.Add(2 * time.Hour), Why: "queue_full"},
	}
	for after := range int64(2) {
		if err := requests.Insert(t.Context(), projections.RequestBatch{After: after - 1, Last: after, Gaps: gaps}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := logs.Gaps(t.Context(), "acc_one", time.Time{}, time.Time{})
	if err != nil || !slices.Equal(got, []projections.Gap{gaps[2], gaps[0]}) {
		t.Errorf("acc_one's gaps: %+v, %v", got, err)
	}
	got, err = logs.Gaps(t.Context(), "acc_one", requestsBegin.Add(30*time.Second), requestsBegin.Add(time.Hour))
	if err != nil || !slices.Equal(got, gaps[:1]) {
		t.Errorf("a gap that only touches the time asked for: %+v, %v", got, err)
	}
	var rows uint64
	if err := conn.QueryRow(t.Context(), `SELECT count() FROM {db:Identifier}.checkpoints`, clickhouse.Named("db", database)).Scan(&rows); err != nil || rows == 0 {
		t.Errorf("no checkpoint was written: %d, %v", rows, err)
	}
}
