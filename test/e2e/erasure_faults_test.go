package e2e

// This file erases while something else is going on: writers that are held up with what they have opened, rebuilds that
// are under way, and nodes that are killed in the middle.

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lateWriter is a way to ClickHouse that stops at the point where texts have been opened and are about to be inserted.
type lateWriter struct {
	address string
	mu      sync.Mutex
	armed   bool
	stopped int // connections that were
	moving  *sync.Cond
}

// heldUp lets everything pass until it is armed, and from then on holds each connection that begins an insert into a
// table with texts.
func heldUp(t *testing.T, dsn string) (*lateWriter, string) {
	t.Helper()
	target, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("the address of ClickHouse is no URL")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &lateWriter{address: target.Host}
	w.moving = sync.NewCond(&w.mu)
	t.Cleanup(func() {
		listener.Close()
		w.arm(false)
	})
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go w.serve(near)
		}
	}()
	target.Host = listener.Addr().String()
	return w, "NIDO_CLICKHOUSE_URL=" + target.String()
}

func (w *lateWriter) arm(armed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = armed
	w.moving.Broadcast()
}

func (w *lateWriter) held() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

func (w *lateWriter) serve(near net.Conn) {
	defer near.Close()
	far, err := net.DialTimeout("tcp", w.address, 5*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(near, far)
		near.Close()
	}()
	buffer := make([]byte, 1<<20)
	for {
		n, err := near.Read(buffer)
		if err != nil {
			return
		}
		insert := slices.ContainsFunc([]string{".messages", ".conversations", ".requests"}, func(table string) bool {
			return bytes.Contains(buffer[:n], []byte("INSERT INTO {db:Identifier}"+table))
		})
		if insert {
			w.wait()
		}
		if _, err := far.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *lateWriter) wait() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.armed {
		return
	}
	w.stopped++
	for w.armed {
		w.moving.Wait()
	}
}

func TestNothingComesBackThroughThoseWhoAreLate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, engines := startEngines(t, dir)
	key := bootstrap(t, engines)
	late, way := heldUp(t, variable(t, engines, "NIDO_CLICKHOUSE_URL"))
	projector := startNode(t, engines, "projector", way)
	node := startNode(t, engines, "api,sweeper")
	p := planted{
		installation: installation{engines: engines, node: node, root: newClient(t, node.base, key)}, dir: dir,
		text: "mi secreto es zarzamora7q de Ñuñoa", word: "zarzamora7q",
	}
	agent := p.root.createAgent("Tarde")
	p.fill(t, agent.ID, 20)
	await(t, 30*time.Second, "ClickHouse", func() bool { return p.statistics() == 40 })

	// The projectors read keys, open the sentence, and are held before they can insert it: as long as one likes.
	late.arm(true)
	p.root.chat(agent.ID, "tarde", p.text)
	await(t, 30*time.Second, "the projectors to be held", func() bool { return late.held() >= 2 })
	erasure := p.root.erase("/api/conversations/tarde?agentId=" + agent.ID)
	p.root.awaitErased(t, erasure)
	p.isGone(t)

	// And a node dies that has taken up an erasure: another one, where it was done before the node could be killed.
	db := p.postgres(t)
	interrupted, tries := false, 0
	for ; !interrupted && tries < 5; tries++ {
		conversation := fmt.Sprintf("fill-%d", tries)
		p.root.chat(agent.ID, conversation, p.text)
		second := p.root.erase("/api/conversations/" + conversation + "?agentId=" + agent.ID)
		await(t, 30*time.Second, "the keys to be destroyed", func() bool {
			return count(t, db, `SELECT count(*) FROM nido.erasures WHERE id = '`+second.ID+`' AND keys_destroyed_at IS NOT NULL`) == 1
		})
		p.node.stop(syscall.SIGKILL, 20*time.Second)
		interrupted = count(t, db, `SELECT count(*) FROM nido.erasures WHERE id = '`+second.ID+`' AND done_at IS NOT NULL`) == 0
		p.node = startNode(t, engines, "api,sweeper")
		p.root = newClient(t, p.node.base, key)
		p.root.awaitErased(t, second)
	}
	if !interrupted {
		t.Fatal("each erasure was done before its node could be killed")
	}

	// Now they go on, with what they opened long ago: ClickHouse refuses it, and they read the keys again.
	late.arm(false)
	await(t, 30*time.Second, "the projectors to catch up", func() bool { return p.statistics() == 42+2*tries })
	p.isGone(t)
	mustOperate(t, engines, "verify")
	if projector.isGone() {
		t.Error("the projector ended")
	}
}

func TestErasingDuringRebuilds(t *testing.T) {
	t.Parallel()
	p := plant(t)
	agent := p.root.createAgent("Obra")
	const filled = 300
	p.fill(t, agent.ID, filled)
	for n := range 12 {
		p.root.chat(agent.ID, fmt.Sprintf("secreto-%d", n), p.text)
	}
	await(t, 30*time.Second, "ClickHouse", func() bool { return p.statistics() == 2*(filled+12) })
	erase := func(n int) erasureView {
		return p.root.erase(fmt.Sprintf("/api/conversations/secreto-%d?agentId=%s", n, agent.ID))
	}
	analytics := p.clickhouse(t)
	clickhouse := launch(t, append(slices.Clone(p.engines), throughTunnel(t, variable(t, p.engines, "NIDO_CLICKHOUSE_URL"))), "rebuild", "clickhouse", "--batch", "20", "--grace", "2s")
	await(t, 30*time.Second, "the rebuild of ClickHouse to begin", func() bool {
		var rows uint64
		return analytics.QueryRow(t.Context(), `SELECT count() FROM nido_2.messages`).Scan(&rows) == nil && rows > 0
	})
	var erasures []erasureView
	for n := range 6 {
		erasures = append(erasures, erase(n))
	}
	postgres := launch(t, p.engines, "rebuild", "postgres", "--batch", "5")
	for n := 6; n < 12; n++ {
		erasures = append(erasures, erase(n))
	}
	for _, erasure := range erasures {
		p.root.awaitErased(t, erasure)
	}
	p.isGone(t)
	for _, rebuild := range []*process{clickhouse, postgres} {
		await(t, time.Minute, "the rebuild to end", rebuild.isGone)
		if rebuild.err != nil {
			t.Errorf("a rebuild ended with %v\n%s", rebuild.err, rebuild.tail())
		}
	}
	p.isGone(t)
	mustOperate(t, p.engines, "verify")
}

func TestAnErasedAccountIsRefusedAtOnceAndGoneSoon(t *testing.T) {
	t.Parallel()
	p := plant(t)
	id, own := p.root.customer("scale")
	agent := own.createAgent("Cierre")
	more := own.issueKey("chat", "conversations:read")
	for n := range 30 {
		own.chat(agent.ID, fmt.Sprintf("%s-%d", p.word, n), p.text)
	}
	beside := p.root.createAgent("Vecino")
	p.root.chat(beside.ID, "vecina", "esto queda")
	await(t, 30*time.Second, "the sentence in ClickHouse", func() bool { return len(p.inClickHouse(t)) == 3 })

	erasure := p.root.erase("/api/accounts/" + id)
	for _, key := range []string{own.key, more.Key} {
		for _, path := range []string{"/api/conversations", "/api/me"} {
			if got, err := own.with(key).do(t.Context(), "GET", path, nil); err != nil || got.status != http.StatusForbidden && got.status != http.StatusUnauthorized {
				t.Errorf("%s: %v, status %d: %s", path, err, got.status, got.body)
			}
		}
		wants(t, own.with(key), http.StatusForbidden, "account_suspended", "POST", chatPath(agent.ID), chatBody("x", "hola"))
	}
	wants(t, p.root, http.StatusConflict, "account_erased", "POST", "/api/accounts/"+id+"/resume", nil)
	p.root.awaitErased(t, erasure)
	p.isGone(t)
	account := p.root.must(http.StatusOK, "GET", "/api/accounts/"+id, nil).object(t)
	if account["name"] != "" || account["erasedAt"] == nil || account["suspended"] != true {
		t.Errorf("the account is %v", account)
	}
	if again := p.root.erase("/api/accounts/" + id); again.ID != erasure.ID {
		t.Errorf("erased again as %s", again.ID)
	}
	types := map[string]int{}
	for _, event := range logged(t, p.engines, "--account", id) {
		if event.Outcome == "accepted" {
			types[event.Type]++
		}
	}
	if types["account.erased"] != 1 || types["conversation.erased"] != 30 || types["key.revoked"] != 2 || types["agent.deleted"] != 1 {
		t.Errorf("the log has %v", types)
	}
	db := p.postgres(t)
	for table, where := range map[string]string{"read.conversations": "account", "nido.idempotency": "account", "read.hosts": "account"} {
		if left := count(t, db, `SELECT count(*) FROM `+table+` WHERE `+where+` = '`+id+`'`); left != 0 {
			t.Errorf("%d rows are left in %s", left, table)
		}
	}
	if said := p.root.messages(beside.ID, "vecina"); len(said) != 2 || said[0].Text != "esto queda" {
		t.Errorf("a neighbour reads %+v", said)
	}
	mustOperate(t, p.engines, "verify")
}
