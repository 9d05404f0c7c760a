package e2e

// This file speaks HTTP by hand, badly: what no client library sends, and what proxies and servers have read differently.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nidohq/nido/infra/model/modeltest"
)

const (
	headerPatience = time.Second
	bodyPatience   = 2 * time.Second
)

// tortured is a node with two accounts: a stranger speaks, and must never be told of the victim.
type tortured struct {
	t        *testing.T
	address  string
	operator string
	root     *client
	stranger *client
	key      string // the stranger's
	slug     string // of the stranger's agent
	agent    string
	victim   agentView
	model    *modeltest.Server
}

func startTortured(t *testing.T, header, body time.Duration) tortured {
	t.Helper()
	model := modeltest.New(modeltest.Options{Reply: spoken})
	t.Cleanup(model.Close)
	dir, operator := t.TempDir(), freeAddress(t)
	node := startDev(t, dir, "NIDO_MODEL_BASE_URL="+model.OpenAI(), "NIDO_OPERATOR_LISTEN="+operator,
		"NIDO_HEADER_TIMEOUT="+header.String(), "NIDO_BODY_TIMEOUT="+body.String())
	root := newClient(t, node.base, rootKey(t, dir))
	_, stranger := root.customer("scale")
	_, victim := root.customer("scale")
	own := stranger.createAgent("Propio")
	return tortured{
		t: t, address: strings.TrimPrefix(node.base, "http://"), operator: operator, root: root, stranger: stranger, key: stranger.key,
		slug: own.Slug, agent: own.ID, victim: victim.createAgent("Ajeno secreto"), model: model,
	}
}

// dial opens a connection that gives up after a while.
func (n tortured) dial() *net.TCPConn {
	n.t.Helper()
	connection, err := net.DialTimeout("tcp", n.address, 2*time.Second)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := connection.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	return connection.(*net.TCPConn)
}

// say sends bytes as they are, and reads the answers that are expected and any beyond them, until the node closes the
// connection or is silent.
func (n tortured) say(text string, expected int) (answers []answer) {
	n.t.Helper()
	connection := n.dial()
	defer connection.Close()
	go func() { _, _ = io.WriteString(connection, text) }() // a node that refuses early closes in the middle of it
	reader := bufio.NewReader(connection)
	method := strings.SplitN(text, " ", 2)[0]
	for {
		if len(answers) >= expected {
			_ = connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // a kept connection is silent then
		}
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			return answers
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			n.t.Errorf("%.200s: half an answer: %v", text, err)
		}
		answers = append(answers, answer{status: response.StatusCode, header: response.Header, body: body})
	}
}

func TestHTTPByHand(t *testing.T) {
	t.Parallel()
	n := startTortured(t, 5*time.Second, 5*time.Second) // what comes at once is not late on a busy machine
	rest, _ := n.goroutines()
	const me = "GET /api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
	create := func(head, body string) string {
		return "POST /api/agents HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n" + head + "\r\n" + body
	}
	get := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
	}
	const agent = `{"name":"a","model":"m"}`
	sized := fmt.Sprintf("Content-Length: %d\r\n", len(agent))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(agent), agent)
	host := func(name string) string {
		return "GET /v1/models HTTP/1.1\r\nHost: " + name + "\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
	}
	for _, c := range []struct {
		name, send string
		want       string // statuses of the answers; a second form is as good
	}{
		// What a proxy and a server may take for requests of different lengths.
		{"two lengths that differ", create("Content-Length: 5\r\n"+sized, agent), "400"},
		{"two lengths that are the same", create(sized+sized, agent), "201|400"},
		{"a list of lengths", create("Content-Length: 5, 6\r\n", agent), "400"},
		{"a signed length", create("Content-Length: +24\r\n", agent), "400"},
		{"a negative length", create("Content-Length: -1\r\n", agent), "400"},
		{"a length of hexadecimal digits", create("Content-Length: 0x18\r\n", agent), "400"},
		{"a length beyond 64 bits", create("Content-Length: 99999999999999999999\r\n", agent), "400"},
		{"length and chunks: the chunks hold, and what is behind them is a request of its own", create("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", chunked) + me, "201 200"},
		{"chunks, and then a length", create("Transfer-Encoding: chunked\r\nContent-Length: 999\r\n", chunked), "201|400"},
		{"a coding that is not known", create("Transfer-Encoding: xchunked\r\n", chunked), "501|400"},
		{"two codings", create("Transfer-Encoding: chunked, identity\r\n", chunked), "501|400"},
		{"chunks twice", create("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked), "501|400"},
		{"a space before the colon", create("Transfer-Encoding : chunked\r\n", chunked), "400"},
		{"a header without a colon", create("nonsense\r\n", agent), "400"},
		{"a folded header", create("X-Folded: a\r\n b\r\n"+sized, agent), "201|400"},
		{"a folded first header", "GET /api/me HTTP/1.1\r\n Host: localhost\r\n\r\n", "400"},
		{"a bare CR in a header", create("X-Odd: a\rX-More: b\r\n"+sized, agent), "400"},
		{"NUL in a header", create("X-Odd: a\x00b\r\n"+sized, agent), "400"},
		{"bare LFs", strings.ReplaceAll(get("/api/me"), "\r\n", "\n"), "200|400"},
		{"chunk extensions", create("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;a=\"b\"\r\n%s\r\n0;c\r\n\r\n", len(agent), agent)), "201"},
		{"a chunk extension without an end", create("Transfer-Encoding: chunked\r\n", "5;"+strings.Repeat("x", 100_000)+"\r\n"), "400"},
		{"a chunk's length that is none", create("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), "400"},
		{"a chunk's length beyond 64 bits", create("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"), "400"},
		{"a chunk that is longer than it says", create("Transfer-Encoding: chunked\r\n", "3\r\n"+agent+"\r\n0\r\n\r\n"), "400"},
		{"a trailer does not let in", "POST /api/agents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n" + strings.TrimSuffix(chunked, "\r\n") + "Authorization: Bearer {KEY}\r\n\r\n", "401"},
		{"a body of a GET is no request", "GET /api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Length: " + strconv.Itoa(len("GET /livez HTTP/1.1\r\n\r\n")) + "\r\n\r\nGET /livez HTTP/1.1\r\n\r\n", "400"},
		// Hosts and targets.
		{"no host", "GET /api/me HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n", "400"},
		{"two hosts", "GET /api/me HTTP/1.1\r\nHost: localhost\r\nHost: {SLUG}.localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n", "400"},
		{"a host of bad characters", "GET /api/me HTTP/1.1\r\nHost: a b/c\r\n\r\n", "400"},
		{"a host in capitals, with a dot and a port", host("{SLUG}.LocalHost.:8080"), "200"},
		{"another's host", host("{VICTIM}.localhost"), "404"},
		{"a host below a host", host("x.{SLUG}.localhost"), "404"},
		{"an absolute target counts, not the header", "GET http://{VICTIM}.localhost/v1/models HTTP/1.1\r\nHost: {SLUG}.localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n", "404"},
		{"HTTP/1.0 without a host", "GET /api/me HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n", "200"},
		{"HTTP/0.9", "GET /api/me\r\n\r\n", "400"},
		{"HTTP/3", "GET /api/me HTTP/3.0\r\nHost: localhost\r\n\r\n", "505|400"},
		{"HTTP/2 without having asked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400|505|404"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400|"},
		{"two slashes", get("//api//agents"), "404"},
		{"two slashes are no host", get("//{VICTIM}.localhost/v1/models"), "404"},
		{"a dot", get("/./api/agents"), "404"},
		{"two dots", get("/api/x/../agents"), "404"},
		{"two dots in disguise", get("/api/agents/%2e%2e/accounts"), "404"},
		{"a slash in disguise", get("/api%2fagents"), "404|200"},
		{"a slash in an id", get("/api/agents/{VICTIMID}%2fversions"), "404"},
		{"a parameter of a segment", get("/api/agents;x=y"), "404"},
		{"NUL in disguise", get("/api/agents/%00"), "404"},
		{"broken UTF-8 in disguise", get("/api/agents/%ff"), "404"},
		{"another's agent in disguise", get("/api/agents/%61gt_{VICTIMREST}"), "404"},
		{"a broken escape", get("/api/agents/%zz"), "400"},
		{"a space in the target", get("/api/ag ents"), "400"},
		{"a target without a slash", get("api/me"), "400"},
		{"a fragment", get("/api/me#x"), "404|400|200"},
		{"a long target", get("/api/agents?cursor=" + strings.Repeat("a", 50_000)), "431|414"},
		// Methods.
		{"HEAD", "HEAD /api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n", "200"},
		{"OPTIONS", "OPTIONS /api/me HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "405"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "404"},
		{"TRACE", "TRACE /api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n", "405"},
		{"CONNECT", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "404|405"},
		{"a method of 10,000 letters", strings.Repeat("X", 10_000) + " /api/me HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "405"},
		// Sizes.
		{"a head of 64 KiB", create("X-Large: "+strings.Repeat("x", 64<<10)+"\r\n"+sized, agent), "431"},
		{"2,000 headers", create(strings.Repeat("X-A: b\r\n", 2000)+"Connection: close\r\n"+sized, agent), "201"},
		{"20,000 headers", create(strings.Repeat("X-A: b\r\n", 20_000)+sized, agent), "431"},
		{"a body that says it is too large", create("Content-Length: 1073741824\r\n", ""), "413"},
		{"a body of 2 MiB in chunks", create("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 2<<20, strings.Repeat(" ", 2<<20))), "413"},
		{"100,000 brackets", create("Connection: close\r\nContent-Length: 100000\r\n", strings.Repeat("[", 100_000)), "400"},
		{"broken UTF-8 in the body", create("Connection: close\r\nContent-Length: 25\r\n", strings.Replace(agent, `"a"`, "\"a\xff\"", 1)), "400"},
		// What is waited for.
		{"100-continue", create("Expect: 100-continue\r\nConnection: close\r\n"+sized, agent), "100 201"},
		{"100-continue for what is too large", create("Expect: 100-continue\r\nContent-Length: 1073741824\r\n", ""), "413"},
		{"100-continue without a key", "POST /api/agents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n" + sized + "\r\n", "401"},
		{"another expectation", create("Expect: miracles\r\n"+sized, agent), "417"},
		{"three requests at once", me + strings.Replace(me, "{KEY}", "nobody", 1) + me, "200 401 200"},
		{"a refusal, and then a request", "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n" + me, "404 200"},
		{"an upgrade to HTTP/2", "GET /api/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n
			n.t = t
			send := strings.NewReplacer("{KEY}", n.key, "{SLUG}", n.slug, "{VICTIM}", n.victim.Slug, "{VICTIMID}", n.victim.ID, "{VICTIMREST}", strings.TrimPrefix(n.victim.ID, "agt_")).Replace(c.send)
			expected := 0
			for want := range strings.SplitSeq(c.want, "|") {
				expected = max(expected, len(strings.Fields(want)))
			}
			answers := n.say(send, expected)
			var statuses []string
			for _, got := range answers {
				statuses = append(statuses, strconv.Itoa(got.status))
				n.checkAnswer(got)
			}
			got := strings.Join(statuses, " ")
			for want := range strings.SplitSeq(c.want, "|") {
				if got == want {
					return
				}
			}
			t.Errorf("answered with %q, not with %q: %+v", got, c.want, answers)
		})
	}
	t.Run("nothing is left behind", func(t *testing.T) { n.t = t; n.awaitRest(rest) })
}

// checkAnswer wants what holds for every answer: no mistake of ours, nothing of the victim's, and the envelope where it comes
// from a handler and not from the protocol.
func (n tortured) checkAnswer(got answer) {
	n.t.Helper()
	if got.status == http.StatusInternalServerError {
		n.t.Errorf("500: %s", got.body)
	}
	for _, secret := range []string{n.victim.ID, n.victim.Name, `"` + n.victim.Slug + `"`} {
		if bytes.Contains(got.body, []byte(secret)) {
			n.t.Errorf("the stranger is told of %q: %s", secret, got.body)
		}
	}
	byHandler := strings.HasPrefix(got.header.Get("X-Request-Id"), "req_")
	if got.status >= 400 && byHandler && got.code() == "" {
		n.t.Errorf("%d without the envelope: %s", got.status, got.body)
	}
	if !byHandler && got.status != http.StatusContinue && len(got.body) > 200 {
		n.t.Errorf("%d not by a handler: %s", got.status, got.body)
	}
}

// atWork matches the stack of a goroutine that a client's connection has, or a turn.
var atWork = regexp.MustCompile(`nido/api\.|nido/commands\.|net/http\.\(\*(conn|connReader)\)`)

// goroutines is how many of those the node has, and where they stand.
func (n tortured) goroutines() (count int, stacks string) {
	n.t.Helper()
	response, err := http.Get("http://" + n.operator + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		n.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		n.t.Fatalf("%d %v", response.StatusCode, err)
	}
	for stack := range strings.SplitSeq(string(text), "\n\n") {
		if many, _, found := strings.Cut(stack, " @ "); found && atWork.MatchString(stack) {
			alike, err := strconv.Atoi(many[strings.LastIndex(many, "\n")+1:])
			if err != nil {
				n.t.Fatalf("%v: %s", err, stack)
			}
			count, stacks = count+alike, stacks+stack+"\n\n"
		}
	}
	return count, stacks
}

// awaitRest waits until the node holds nothing for connections that are gone; a few come and go by themselves.
func (n tortured) awaitRest(rest int) {
	n.t.Helper()
	n.root.http.CloseIdleConnections()
	var stacks string
	defer func() {
		if n.t.Failed() {
			n.t.Logf("there still are\n%s", stacks)
		}
	}()
	await(n.t, 20*time.Second, fmt.Sprintf("the goroutines at work to be %d again, or nearly", rest), func() (rested bool) {
		count, text := n.goroutines()
		stacks = text
		return count <= rest+4
	})
}
