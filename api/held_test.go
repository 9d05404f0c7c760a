package api

// Streams that last, on a real server with connections in memory: so the clock is the test's.

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

// lasting is a world behind Go's server.
type lasting struct {
	*world
	client  *http.Client
	dialled int
	ctx     context.Context // of the turn that was begun last
}

func newLasting(t *testing.T) *lasting {
	l := &lasting{world: newWorld(t)}
	l.begun = make(chan *commands.Live, 1)
	l.send = func(ctx context.Context, _ commands.Turn) (commands.Reply, error) {
		l.ctx = ctx
		return commands.Reply{MessageID: "msg_1"}, nil
	}
	front := NewReturned()
	l.server.config.Returned = NewReturned()
	server := NewServer("", l.server, Patience{})
	go func() { _ = server.Serve(front) }()
	go func() { _ = server.Serve(l.server.config.Returned) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		l.dialled++
		ours, theirs := net.Pipe()
		front.give(theirs, nil)
		return ours, nil
	}}
	l.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		ended, stop := context.WithCancel(context.Background())
		stop()
		_ = l.server.Finish(ended)
	})
	return l
}

func (l *lasting) ask(t *testing.T, ctx context.Context, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://nido.test/api/v2/agent/agt_1/chat", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+l.key(accountScopes))
	r.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// running counts the streams whose connections have been taken over, and kept those connections.
func (l *lasting) running() int {
	l.server.holds.mu.Lock()
	defer l.server.holds.mu.Unlock()
	return l.server.holds.running
}

func (l *lasting) kept() int {
	l.server.holds.mu.Lock()
	defer l.server.holds.mu.Unlock()
	return len(l.server.holds.all)
}

// hold begins a stream and waits until its connection has been taken over. What it tells can be asked for once it is over.
func (l *lasting) hold(t *testing.T, ctx context.Context) (live *commands.Live, told func() (string, error)) {
	t.Helper()
	answer := l.ask(t, ctx, streamed)
	var text []byte
	var err error
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer answer.Body.Close()
		text, err = io.ReadAll(answer.Body)
	}()
	live = <-l.begun
	live.Say("uno ")
	time.Sleep(lasts) // of synctest's clock, as everywhere in this file
	live.Say("dos ")
	synctest.Wait()
	if l.running() != 1 {
		t.Fatalf("%d connections have been taken over", l.running())
	}
	return live, func() (string, error) {
		<-read
		return string(text), err
	}
}

func TestAStreamThatLastsIsToldToItsEndAndItsConnectionServesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		live, told := l.hold(t, t.Context())
		time.Sleep(2*pingEvery + pingEvery/2) // in which it is silent
		live.Say("tres ")
		synctest.Wait()
		live.Say("cuatro")
		live.End(commands.Reply{ConversationID: "conv_1", Model: "echo"}, nil)
		text, err := told()
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, event := range events(strings.ReplaceAll(text, ": ping\n\n", "")) {
			if event["event"] == "message.delta" {
				said = append(said, event["data"])
			}
		}
		if strings.Join(said, "") != `{"text":"uno "}{"text":"dos "}{"text":"tres "}{"text":"cuatro"}` || strings.Count(text, ": ping") != 2 || !strings.HasSuffix(text, "data: [DONE]\n\n") {
			t.Errorf("%s", text)
		}
		synctest.Wait()
		if line := l.last(); line.Status != 200 || line.ErrorCode != "" || line.ResponseBody.Bytes != int64(len(text)) || line.Latency != lasts+2*pingEvery+pingEvery/2 {
			t.Errorf("the request log has %+v", line)
		}
		for _, idle := range []time.Duration{time.Minute, time.Minute} { // behind a stream, and behind another answer
			time.Sleep(idle)
			go func() { (<-l.begun).End(commands.Reply{}, nil) }()
			answer := l.ask(t, t.Context(), `{"query":"a"}`)
			if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK || l.dialled != 1 {
				t.Errorf("%d, %v on connection %d", answer.StatusCode, err, l.dialled)
			}
			answer.Body.Close()
		}
		if live, told := l.hold(t, t.Context()); true {
			live.End(commands.Reply{}, nil)
			if _, err := told(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(idleTimeout + time.Second)
		if l.kept() != 0 {
			t.Error("a connection is kept on which nothing is asked")
		}
	})
}

func TestAReaderThatLeavesAStreamThatLastsIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		ctx, leave := context.WithCancel(t.Context())
		live, told := l.hold(t, ctx)
		live.Tie(l.ctx)
		if l.ctx.Err() != nil {
			t.Error("its handler's return looked as if it had left")
		}
		leave()
		synctest.Wait()
		if l.ctx.Err() == nil {
			t.Error("not noticed")
		}
		live.End(commands.Reply{Model: "held"}, commands.ErrClientGone)
		if _, err := told(); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if line := l.last(); line.ErrorCode != "request_cancelled" || line.Status != 499 || line.Model != "held" || l.kept() != 0 {
			t.Errorf("the request log has %+v; %d connections are left", line, l.kept())
		}
	})
}

func TestASlowReaderOfAStreamThatLastsIsLetGoOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		answer := l.ask(t, t.Context(), streamed)
		defer answer.Body.Close()
		live := <-l.begun
		live.Tie(l.ctx)
		for _, want := range []string{"uno", "dos"} {
			live.Say(want)
			for seen := ""; !strings.Contains(seen, want); {
				part := make([]byte, 4<<10)
				n, err := answer.Body.Read(part)
				if err != nil {
					t.Fatal(err)
				}
				seen += string(part[:n])
			}
			time.Sleep(lasts)
		}
		live.Say("tres") // which nobody reads
		time.Sleep(slowest + time.Second)
		if line := l.last(); line.ErrorCode != "request_cancelled" || l.running() != 0 {
			t.Errorf("noted as %q, %d are left", line.ErrorCode, l.running())
		}
		if _, tied := live.Cancelled(t.Context()); tied {
			t.Error("its reader's leaving would have cancelled it")
		}
	})
}

func TestAStreamThatLastsSaysNothingToAReaderWhoKnowsOfMoreThanThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := commands.NewLive("turn_9", "conv-1", "agt_1", "msg_9", noon)
		told := httptest.NewRecorder()
		r := withExchange(httptest.NewRequest(http.MethodGet, "/", http.NoBody), &exchange{})
		w := newWorld(t)
		turn := ofThisNode(live)
		h := &held{server: w.server, tells: &telling{
			server: w.server, ctx: t.Context(), w: told, r: r, turn: turn, from: 100, out: newTurnEvents(w.server, told, r, turn, false),
		}}
		h.hears = h.hear
		live.Await(100, h.hears)
		live.Say("short")
		synctest.Wait()
		if told.Body.Len() != 0 {
			t.Errorf("it was told %q", told.Body)
		}
	})
}

func TestANodeThatStopsWaitsForStreamsThatLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		live, told := l.hold(t, t.Context())
		time.AfterFunc(5*time.Second, func() { live.End(commands.Reply{}, nil) })
		began := time.Now()
		patient, giveUp := context.WithTimeout(t.Context(), time.Minute)
		defer giveUp()
		if err := l.server.Finish(patient); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if text, err := told(); err != nil || !strings.HasSuffix(text, "data: [DONE]\n\n") {
			t.Errorf("%v behind %s", err, text)
		}
		synctest.Wait()
		if l.kept() != 0 {
			t.Error("its connection would have had another request")
		}
	})
}

func TestStreamsThatLastTooLongForANodeThatStopsAreBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		_, told := l.hold(t, t.Context())
		impatient, giveUp := context.WithTimeout(t.Context(), time.Second)
		defer giveUp()
		if err := l.server.Finish(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if text, err := told(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v behind %s", err, text)
		}
		if err := l.server.Finish(t.Context()); err != nil || l.last().ErrorCode != "request_cancelled" || l.ctx.Err() == nil {
			t.Errorf("%v, noted as %q", err, l.last().ErrorCode)
		}
	})
}

// failing is a request log that has a fault.
type failing struct{}

func (failing) Record(projections.Request) { panic("a fault of ours") }

func TestAFaultOfOursEndsOneStreamThatLastsAndNotTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLasting(t)
		l.server.config.RequestLog = failing{}
		live, told := l.hold(t, t.Context())
		live.End(commands.Reply{}, nil)
		if _, err := told(); err != nil {
			t.Error(err) // its end was out
		}
		synctest.Wait()
		if l.kept() != 0 || !strings.Contains(l.logged.String(), "a fault of ours") {
			t.Errorf("%d connections are left; %s", l.kept(), l.logged)
		}
	})
}

func TestAConnectionComesBackAsItWasHoweverOften(t *testing.T) {
	back := NewReturned()
	ours, theirs := net.Pipe()
	defer ours.Close()
	conn := theirs
	for _, unread := range []string{"o", "n", "i"} { // of which nobody reads anything in between
		go back.give(conn, []byte(unread))
		var err error
		if conn, err = back.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_, _ = ours.Write([]byte("do"))
		_ = ours.Close()
	}()
	if text, err := io.ReadAll(conn); err != nil || string(text) != "inodo" {
		t.Errorf("%s, %v", text, err)
	}
	if conn.(*returned).Conn != theirs { //nolint:errcheck // it is what Accept returns
		t.Error("each time has left something around it")
	}
}
