package kafka

// This file stands at the commit in the log, while brokers come and go.

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
)

func TestAnAppendWhoseContextEndsHasAnUnknownOutcome(t *testing.T) {
	brokers := startEmbedded(t, 1)
	_, log := brokers.open(1)
	release := make(chan struct{})
	asked := make(chan struct{}, 1)
	brokers.hold(release, asked)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := log.Append(ctx, someCommit(1)); ended <- err }()
	<-asked
	cancel()
	if err := <-ended; !errors.Is(err, commands.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrUnknownOutcome", err)
	}
	close(release)
	if _, err := log.Append(ctx, someCommit(2)); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("an append after its context got %v, want ErrUnavailable", err)
	}
}

func TestAnAcknowledgementWithoutAnOffsetIsAnUnknownOutcome(t *testing.T) {
	brokers := startEmbedded(t, 1)
	_, log := brokers.open(1)
	brokers.answerDuplicate()
	if _, err := log.Append(t.Context(), someCommit(1)); !errors.Is(err, commands.ErrUnknownOutcome) {
		t.Errorf("got %v, want ErrUnknownOutcome", err)
	}
}

func TestAppendsFailFastWhileTheBrokerIsAwayAndWorkAgainWithoutRestart(t *testing.T) {
	brokers := startBrokers(t, 1)
	cluster, log := brokers.open(1)
	brokers.append(log, 0, 3)
	brokers.stop()
	fails := func(what string, ask func(i int) error) {
		t.Helper()
		var took []time.Duration
		for i := range 8 {
			begun := time.Now()
			err := ask(i)
			took = append(took, time.Since(begun))
			if err == nil {
				t.Fatalf("%s %d got an answer while the broker is away", what, i)
			}
			t.Logf("%s %d: %v after %v", what, i, err, took[i])
		}
		// Not each of them: on a busy machine one may wait for its turn. The client library's own patience is 12 s.
		if slices.Sort(took); took[len(took)/2] > time.Second || took[len(took)-1] > 5*time.Second {
			t.Errorf("%s failed after %v", what, took)
		}
	}
	fails("append", func(i int) error {
		_, err := log.Append(t.Context(), someCommit(100+i))
		if err != nil && !errors.Is(err, commands.ErrUnknownOutcome) && !errors.Is(err, commands.ErrUnavailable) {
			t.Errorf("append %d while the broker is away: %v", i, err)
		}
		return err
	})
	fails("ends", func(int) error { _, err := cluster.Ends(t.Context()); return err })
	brokers.start()
	begun := time.Now()
	var position domain.Position
	poll(t, "an append succeeds again", func() bool {
		var err error
		position, err = log.Append(t.Context(), someCommit(200))
		return err == nil
	})
	if took := time.Since(begun); took > 8*time.Second { // the client library would refuse for ten
		t.Errorf("it took %v after the broker came back", took)
	} else {
		t.Logf("appended at %+v, %v after the broker came back", position, took)
	}
	if _, err := cluster.Ends(t.Context()); err != nil {
		t.Errorf("ends: %v", err)
	}
	var read []domain.Position
	if err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error { read = append(read, recorded.Position); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(read, position) || len(read) < 4 {
		t.Errorf("the log has %v, want the first three and %v", read, position)
	}
}

func TestEveryAcknowledgedCommitIsWhereTheAcknowledgementSaidThroughOutages(t *testing.T) {
	brokers := startBrokers(t, 3)
	cluster, log := brokers.open(3)
	var mu sync.Mutex
	acknowledged := map[domain.Position]string{}
	var next, doubtful int
	enough := make(chan struct{})
	var wait sync.WaitGroup
	for range 32 {
		wait.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				mu.Lock()
				next++
				commit := someCommit(next)
				mu.Unlock()
				position, err := log.Append(t.Context(), commit)
				mu.Lock()
				if err == nil {
					if other, taken := acknowledged[position]; taken {
						t.Errorf("%s and %s were both acknowledged at %+v", other, commit.Command, position)
					}
					acknowledged[position] = commit.Command
				} else {
					doubtful++
				}
				mu.Unlock()
			}
		})
	}
	outages := 3
	if brokers.remote != nil {
		outages = 1 // a real node takes ten seconds to come back
	}
	for range outages {
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
		before := count()
		poll(t, "some commits are acknowledged", func() bool { return count() > before+200 })
		brokers.stop()
		failed := func() int { mu.Lock(); defer mu.Unlock(); return doubtful }
		already := failed()
		poll(t, "appends fail", func() bool { return failed() > already })
		brokers.start()
	}
	close(enough)
	wait.Wait()
	inLog := map[domain.Position]string{}
	times := map[string]int{}
	err := cluster.ReadAll(t.Context(), func(recorded domain.Recorded) error {
		inLog[recorded.Position] = recorded.Command
		times[recorded.Command]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for position, command := range acknowledged {
		if inLog[position] != command {
			t.Errorf("at %+v is %q, acknowledged was %q", position, inLog[position], command)
		}
	}
	for command, count := range times {
		if count != 1 {
			t.Errorf("%s is in the log %d times", command, count)
		}
	}
	t.Logf("%d acknowledged, %d failed, %d in the log", len(acknowledged), doubtful, len(inLog))
}

func TestACloseWaitsForAppendsAndRefusesLaterOnes(t *testing.T) {
	brokers := startBrokers(t, 1)
	_, log := brokers.open(1)
	brokers.append(log, 0, 10)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), someCommit(1)); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestOpenHonoursItsContextWhereNobodyAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { ignore(silent.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	config := (&brokers{addrs: []string{silent.Addr().String()}}).config()
	if _, err := Open(ctx, config); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
