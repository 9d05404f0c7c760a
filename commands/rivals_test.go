package commands_test

// This file stands around the whole turn: runs of one request on several nodes, clients that leave, a log that loses,
// withholds and does not confirm, and a sweeper. Whatever happens, in whichever order, a message has one end, and that is
// the one its clients are told.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// retried sends a request again and again under one Idempotency-Key, as a client's library does: on the node that the dice
// say, until one of its runs opens the turn, or another run is found to have done so.
func (r *rivalry) retried(t *testing.T, i byte) {
	meta, message := metaAt(i), fmt.Sprintf("mensaje %d", i)
	for range 40 {
		node := r.nodes[r.roll(len(r.nodes))]
		snapshot, err := r.log.Load(t.Context(), chatStream, meta.Inputs.Command("receive"))
		if err != nil {
			t.Error(err)
			return
		}
		if snapshot.Committed > 0 {
			return // another run's turn, which it follows by the log
		}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		meta.Inputs.Now = time.Now() // it begins when it is sent
		turn := node.turn(t, message)
		turn.Snapshot, turn.Continue, turn.Streamed = snapshot, r.roll(2) == 0, r.roll(2) == 0
		live, err := node.chat.Begin(ctx, meta, turn)
		if err == nil {
			if r.roll(3) == 0 {
				time.AfterFunc(time.Duration(r.roll(500))*time.Millisecond, leave)
			}
			end, err := live.Ended(t.Context())
			if err != nil {
				t.Error(err)
			}
			r.hear(live.Turn, end)
			return
		}
		r.rest(2000)
	}
}

// rivalry is a log, nodes that share it, and the dice.
type rivalry struct {
	log   *memory
	nodes []*talk
	mu    sync.Mutex
	dice  *rand.Rand
	told  map[string]commands.TurnEnd
}

func (r *rivalry) roll(sides int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dice.IntN(sides)
}

func (r *rivalry) rest(most int) { <-time.After(time.Duration(r.roll(most)) * time.Millisecond) }

func (r *rivalry) hear(turn string, end commands.TurnEnd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told[turn] = end
}

func newRivalry(t *testing.T, seed uint64) *rivalry {
	r := &rivalry{log: newMemory(), dice: rand.New(rand.NewPCG(seed, 0)), told: map[string]commands.TurnEnd{}}
	keys, texts := newKeyring(), &texts{kept: map[string][]commands.TurnPiece{}}
	r.log.fates = func(domain.Commit) fate {
		return [...]fate{arrives, arrives, arrives, arrives, arrives, lost, unheard, withheld, refused, unfolded}[r.roll(10)]
	}
	boots := &nodes{beats: map[string]int64{}}
	for i := range 2 {
		boot := fmt.Sprintf("boot_%d", i+1)
		boots.beats[boot] = 1
		node := &talk{memory: r.log, keyring: keys, model: &model{}}
		node.script = func(ctx context.Context, say func(commands.Chunk) bool) error {
			for range 1 + r.roll(4) {
				if err := pause(ctx, time.Duration(r.roll(3000))*time.Millisecond); err != nil {
					return err
				}
				say(commands.Chunk{Text: "bla "})
			}
			if r.roll(5) == 0 {
				return &commands.ModelError{Code: "upstream_error", Err: errors.New("cut")}
			}
			return nil
		}
		node.chat = commands.NewChat(commands.ChatConfig{Boot: boot, TotalTimeout: time.Minute, EndTimeout: 15 * time.Second, Texts: texts, Logger: slog.New(slog.DiscardHandler)},
			r.log.store(), keys, node.model)
		t.Cleanup(node.chat.Close)
		r.nodes = append(r.nodes, node)
	}
	sweeper := commands.NewSweeper(commands.SweeperConfig{Texts: texts, Keyring: keys, BootDead: time.Hour, Logger: slog.New(slog.DiscardHandler)},
		r.log.store(), boots, &leftovers{memory: r.log}, commands.NewAgents(r.log.store()))
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() { _ = sweeper.Run(ctx) }() // it ends with its context, without an error
	go func() {
		for pause(ctx, time.Duration(r.roll(9000))*time.Millisecond) == nil {
			r.log.release()
		}
	}()
	return r
}

// check compares what happened with what was told.
func (r *rivalry) check(t *testing.T) (told int) {
	ends, texts := map[string]any{}, map[string]string{}
	received := map[string]conversation.MessageReceived{}
	ended := func(turn string, end any, text domain.Sealed) {
		if ends[turn] != nil {
			t.Errorf("%s has two ends: %+v, %+v", turn, ends[turn], end)
		}
		ends[turn] = end
		if !text.IsZero() {
			texts[turn] = r.nodes[0].open(t, text)
		}
	}
	for _, event := range r.log.accepted(t, "conversation") {
		switch e := event.(type) {
		case conversation.MessageReceived:
			if received[e.Turn].Turn != "" {
				t.Errorf("%s was received twice", e.Turn)
			}
			received[e.Turn] = e
		case conversation.ReplyCompleted:
			ended(e.Turn, e, e.Text)
		case conversation.ReplyFailed:
			ended(e.Turn, e, e.Text)
		case conversation.ReplyCancelled:
			ended(e.Turn, e, e.Text)
		}
	}
	for turn := range received {
		if ends[turn] == nil {
			t.Errorf("%s has no end", turn)
		}
	}
	for turn, heard := range r.told {
		failure, failed := errors.AsType[*commands.ModelError](heard.Err)
		switch end := ends[turn].(type) {
		case conversation.ReplyCompleted:
			if heard.Err != nil && !open(heard.Err) || heard.Err == nil && heard.Reply.Text != texts[turn] {
				t.Errorf("%s ended whole, with %q; its client was told %q, %v", turn, texts[turn], heard.Reply.Text, heard.Err)
			}
		case conversation.ReplyCancelled:
			if !errors.Is(heard.Err, commands.ErrClientGone) && !open(heard.Err) {
				t.Errorf("%s was cancelled; its client was told %v", turn, heard.Err)
			}
		case conversation.ReplyFailed:
			if !open(heard.Err) && (!failed || failure.Code != end.Code) {
				t.Errorf("%s failed, %s; its client was told %v", turn, end.Code, heard.Err)
			}
			if end.Code == commands.Interrupted && end.At.Before(received[turn].Received.Add(time.Minute)) {
				t.Errorf("%s was interrupted %v after it began, though its node was at it", turn, end.At.Sub(received[turn].Received))
			}
			if !strings.HasPrefix(texts[turn], heard.Reply.Text) && !open(heard.Err) {
				t.Errorf("%s was kept as %q; its client was told %q", turn, texts[turn], heard.Reply.Text)
			}
		}
	}
	return len(r.told)
}

// open reports that a client was told that nobody knows yet how its turn ends.
func open(err error) bool {
	return errors.Is(err, commands.ErrUnknownOutcome) || errors.Is(err, commands.ErrUnavailable) || errors.Is(err, commands.ErrConflict)
}

func TestRunsOfOneRequestMakeOneTurnWithOneEndAndThatIsTold(t *testing.T) {
	told := 0
	for seed := range uint64(150) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRivalry(t, seed)
				var clients sync.WaitGroup
				for i := range byte(3) {
					clients.Go(func() { r.retried(t, i+1) })
					clients.Go(func() { r.rest(1500); r.retried(t, i+1) }) // the same request, sent once more too early
				}
				clients.Wait()
				<-time.After(5 * time.Minute)
				synctest.Wait()
				told += r.check(t)
			})
		})
	}
	if told < 300 {
		t.Errorf("only %d turns were followed: the dice are too bad to tell", told)
	}
}
