package e2e

// This file kills one of Postgres' backends. Postgres recovers from that under the same postmaster, and the fold's last
// commits, which did not wait for the disk, are gone, though their commands were answered.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestAPostgresThatRecoveredIsNotServedFromUntilItHasFoldedTheLog(t *testing.T) {
	t.Parallel()
	in := startKillable(t)
	a, b := in.clients[0], in.clients[1]
	// What nobody waits for is written after ten seconds, and so what the crash takes is not left to chance.
	in.execute(`ALTER SYSTEM SET wal_writer_delay = '10s'`, `SELECT pg_reload_conf()`)
	var agents [4]agentView
	for i := range agents {
		agents[i] = a.createAgent(fmt.Sprintf("Recovery %d", i))
	}
	kept := a.issueKey("chat")

	var acknowledged [len(agents)]int
	var revoked keyView
	tries := 0
	for lost := false; !lost; {
		if tries++; tries > 1 {
			in.goOn()
		}
		if tries > 20 {
			t.Fatal("of 20 crashes none took a revocation; there is nothing to see here")
		}
		revoked = a.issueKey("chat")
		for _, node := range in.clients {
			node.with(revoked.Key).must(http.StatusOK, "GET", "/api/me", nil)
		}
		in.execute(`CHECKPOINT`) // the key itself is to outlive it
		lost = in.crashBehind(revoked, agents[:], acknowledged[:])
	}

	// What is not folded waited for the disk: one answer was kept in each try, just before the revocation.
	if finished := countRows(t, in.env, `SELECT count(*) FROM nido.idempotency WHERE finished_at IS NOT NULL`); finished != tries {
		t.Errorf("%d kept answers are left of %d", finished, tries)
	}
	codes := in.lookWith(revoked.Key, agents[0].ID, 3*time.Second)
	t.Logf("while Postgres was behind: %v; acknowledged before: %v", codes, acknowledged)
	if len(codes) != 1 || codes["503 unavailable"] < 100 {
		t.Error("a node answered from a Postgres that had lost commits, or nobody asked")
	}
	areUnreadyForAnotherServer(t, in.nodes[:2])
	in.goOn()
	for _, node := range []*client{a, b} {
		if got := node.with(revoked.Key).must(http.StatusUnauthorized, "GET", "/api/me", nil); got.code() != "revoked_api_key" {
			t.Errorf("%s", got.body)
		}
		node.with(kept.Key).must(http.StatusOK, "GET", "/api/me", nil)
		for i, agent := range agents {
			var read agentView
			node.must(http.StatusOK, "GET", "/api/agents/"+agent.ID, nil).into(t, &read)
			if read.Version < 1+acknowledged[i] {
				t.Errorf("agent %d stands at %d after %d changes that were acknowledged", i, read.Version, acknowledged[i])
			}
		}
		node.chat(agents[0].ID, "after", "hola")
	}
	mustOperate(t, in.env, "verify")
}

// crashBehind revokes a key under load and kills a backend as soon as that is answered, with the projectors held still. It
// counts the changes of agents that were answered, and reports whether Postgres came back without the revocation.
func (in *killable) crashBehind(key keyView, agents []agentView, acknowledged []int) (lost bool) {
	in.t.Helper()
	doomed, err := pgx.Connect(in.t.Context(), variable(in.t, in.env, "NIDO_POSTGRES_URL"))
	if err != nil {
		in.t.Fatal(err)
	}
	defer doomed.Close(context.Background())
	loading, enough := context.WithCancel(in.t.Context())
	defer enough()
	var load sync.WaitGroup
	var changed atomic.Int64
	for i, agent := range agents {
		load.Go(func() {
			for loading.Err() == nil {
				name := fmt.Sprintf("Recovery %d, %d times", i, acknowledged[i])
				got, err := in.clients[i%2].do(loading, "PATCH", "/api/agents/"+agent.ID, map[string]any{"name": name})
				if err == nil && got.status == http.StatusOK {
					acknowledged[i]++
					changed.Add(1)
				}
			}
		})
	}
	await(in.t, time.Minute, "load", func() bool { return changed.Load() > 50 })
	in.clients[0].must(http.StatusCreated, "POST", "/api/agents", map[string]any{"name": "Once", "model": "echo"}, "Idempotency-Key", key.ID)
	in.clients[0].must(http.StatusOK, "POST", "/api/keys/"+key.ID+"/revoke", map[string]any{"reason": "leaked"})
	for _, projector := range in.nodes[2:] {
		projector.signal(syscall.SIGSTOP)
	}
	if err := syscall.Kill(int(doomed.PgConn().PID()), syscall.SIGKILL); err != nil {
		in.t.Fatal(err)
	}
	enough()
	load.Wait()
	var valid bool
	await(in.t, time.Minute, "Postgres to recover", func() bool {
		db, err := pgx.Connect(in.t.Context(), variable(in.t, in.env, "NIDO_POSTGRES_URL"))
		if err != nil {
			return false // it is still ending its backends, or recovers
		}
		defer db.Close(context.Background())
		return db.QueryRow(in.t.Context(), `SELECT revoked_at IS NULL FROM read.keys WHERE public_id = $1`, strings.TrimPrefix(key.ID, "key_")).Scan(&valid) == nil
	})
	return valid
}

// goOn lets the projectors run, and waits until every node serves.
func (in *killable) goOn() {
	in.t.Helper()
	for _, projector := range in.nodes[2:] {
		projector.signal(syscall.SIGCONT)
	}
	for _, node := range in.nodes {
		node.awaitReady(time.Minute)
	}
}

// lookWith has both nodes asked with a key for a while, and counts the answers.
func (in *killable) lookWith(key, agent string, span time.Duration) map[string]int {
	in.t.Helper()
	var mu sync.Mutex
	codes := map[string]int{}
	looking, enough := context.WithTimeout(in.t.Context(), span)
	defer enough()
	inParallel(8, 8, func(i int) {
		own := in.clients[i%2].with(key)
		for looking.Err() == nil {
			method, path, body := "GET", "/api/me", any(nil)
			if i%4 < 2 {
				method, path, body = "POST", chatPath(agent), chatBody("", "hola")
			}
			got, err := own.do(in.t.Context(), method, path, body)
			if err != nil {
				in.t.Error(err)
				return
			}
			mu.Lock()
			codes[fmt.Sprintf("%d %s", got.status, got.code())]++
			mu.Unlock()
		}
	})
	return codes
}

// execute runs statements on Postgres, from outside of every node.
func (in *killable) execute(statements ...string) {
	in.t.Helper()
	db, err := pgx.Connect(in.t.Context(), variable(in.t, in.env, "NIDO_POSTGRES_URL"))
	if err != nil {
		in.t.Fatal(err)
	}
	defer db.Close(context.Background())
	for _, statement := range statements {
		if _, err := db.Exec(in.t.Context(), statement); err != nil {
			in.t.Fatalf("%s: %v", statement, err)
		}
	}
}
