package commands

// This file stands behind the chat turn: the policy that ends what its own node cannot end any more. It looks at turns
// of nodes that have stopped beating, turns past their deadline, and claims on slugs that nobody finished.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
)

// LeftTurn is an open turn that somebody has to look at.
type LeftTurn struct {
	Stream   domain.StreamID
	Turn     string
	Boot     string
	Deadline time.Time
}

// LeftClaim is a claim on a slug that was never bound.
type LeftClaim struct {
	Slug    string
	Account string
	Agent   string
}

// Leftovers finds what was left.
type Leftovers interface {
	// Turns returns open turns whose boot is none of the living ones or whose deadline has passed.
	Turns(ctx context.Context, living []string, now time.Time, limit int) ([]LeftTurn, error)
	// Claims returns claims made before a time and not bound.
	Claims(ctx context.Context, before time.Time, limit int) ([]LeftClaim, error)
}

// SweeperConfig is how patient the sweeper is.
type SweeperConfig struct {
	Every      time.Duration // between two looks; default 5 seconds
	BootDead   time.Duration // a boot unchanged for so long, as this process saw it, is dead; default 30 seconds
	ClaimStale time.Duration // a claim unbound for so long is finished or given back; default 5 minutes
	Texts      TurnTexts     // what readers have seen of the turns that it ends; nil for nothing
	Keyring    Keyring       // opens and seals it; needed with Texts
	Clock      Clock         // default time.Now
	Observer   TurnObserver  // of turns; nil for nobody
	Logger     *slog.Logger
}

// Sweeper is the policy. Several may run at once: what they decide goes through the streams like everything else.
type Sweeper struct {
	SweeperConfig
	boots  Boots
	left   Leftovers
	chat   Handler[conversation.Command, conversation.Event, conversation.State]
	agents *Agents
	seen   map[string]sighting
	last   time.Time // of the last look that succeeded
}

const (
	// sweepBatch bounds what is taken on together, sweepRounds how often in one look, and sweepPatience how long that may
	// take; the next look does the rest.
	sweepBatch    = 500
	sweepRounds   = 20
	sweepPatience = time.Minute
	// sweepWriters is how many turns are ended at a time: a node that died may have left thousands, and their clients wait.
	sweepWriters = 8
	// sweepFaults is after how many that failed a look gives up: a store is away, and the next look may find it.
	sweepFaults = 8
)

// NewSweeper wires a sweeper.
func NewSweeper(config SweeperConfig, store Store, boots Boots, left Leftovers, agents *Agents) *Sweeper {
	setDefault(&config.Every, 5*time.Second)
	setDefault(&config.BootDead, 30*time.Second)
	setDefault(&config.ClaimStale, 5*time.Minute)
	if config.Clock == nil {
		config.Clock = time.Now
	}
	if config.Observer == nil {
		config.Observer = nobody{}
	}
	return &Sweeper{
		SweeperConfig: config, boots: boots, left: left, agents: agents, seen: map[string]sighting{},
		chat: Handler[conversation.Command, conversation.Event, conversation.State]{Store: store, Aggregate: conversation.Aggregate},
	}
}

func setDefault(value *time.Duration, standard time.Duration) {
	if *value == 0 {
		*value = standard
	}
}

// Run sweeps until the context ends.
func (s *Sweeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.Every)
	defer ticker.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.Logger.WarnContext(ctx, "sweep", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look sweeps for at most so long that a store which says nothing does not end the sweeping.
func (s *Sweeper) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepPatience)
	defer cancel()
	return s.Sweep(ctx)
}

// Sweep looks once.
func (s *Sweeper) Sweep(ctx context.Context) error {
	now := s.Clock()
	boots, err := s.boots.All(ctx)
	if err != nil {
		return fmt.Errorf("read boots: %w", err)
	}
	living, dead := s.judge(boots, now)
	var faults []error
	more := true
	for round := 0; more && len(faults) == 0 && round < sweepRounds; round++ {
		turns, err := s.leftTurns(ctx, living, dead, now)
		if err != nil {
			return fmt.Errorf("find left turns: %w", err)
		}
		more, faults = len(turns) == sweepBatch, s.interruptAll(ctx, turns, now)
	}
	claims, err := s.left.Claims(ctx, now.UTC().Add(-s.ClaimStale), sweepBatch)
	if err != nil {
		return errors.Join(append(faults, fmt.Errorf("find left claims: %w", err))...)
	}
	for _, claim := range claims {
		if err := s.agents.FinishClaim(ctx, s.meta(claim.Account, now), claim.Slug, claim.Agent); err != nil {
			faults = append(faults, fmt.Errorf("finish the claim on a slug: %w", err))
		}
	}
	if len(faults) == 0 && !more && len(dead) > 0 { // nothing names these boots any more
		faults = append(faults, s.boots.Remove(ctx, dead...))
	}
	return errors.Join(faults...)
}

// leftTurns finds the turns to end. A node may have booted and opened turns since the boots were read; so turns of boots
// that were not known then are left alone if their boot is there now.
func (s *Sweeper) leftTurns(ctx context.Context, living, dead []string, now time.Time) ([]LeftTurn, error) {
	turns, err := s.left.Turns(ctx, living, now.UTC(), sweepBatch)
	if err != nil || len(turns) == 0 {
		return nil, err
	}
	boots, err := s.boots.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("read boots again: %w", err)
	}
	return slices.DeleteFunc(turns, func(turn LeftTurn) bool {
		exists := slices.ContainsFunc(boots, func(boot Boot) bool { return boot.ID == turn.Boot })
		return exists && !slices.Contains(dead, turn.Boot) && now.Before(turn.Deadline)
	}), nil
}

// interruptAll ends turns, several at a time.
func (s *Sweeper) interruptAll(ctx context.Context, turns []LeftTurn, now time.Time) (faults []error) {
	next := make(chan LeftTurn)
	var mu sync.Mutex
	var writers sync.WaitGroup
	for range min(sweepWriters, len(turns)) {
		writers.Go(func() {
			for turn := range next {
				if err := s.interrupt(ctx, turn, now); err != nil {
					mu.Lock()
					faults = append(faults, fmt.Errorf("end turn %s: %w", turn.Turn, err))
					mu.Unlock()
				}
			}
		})
	}
	for _, turn := range turns {
		mu.Lock()
		enough := len(faults) >= sweepFaults
		mu.Unlock()
		if enough {
			break
		}
		next <- turn
	}
	close(next)
	writers.Wait()
	return faults
}

// interrupt ends a turn as interrupted. That it has had its end meanwhile is fine.
func (s *Sweeper) interrupt(ctx context.Context, left LeftTurn, now time.Time) error {
	snapshot, err := s.chat.Streams.Load(ctx, left.Stream, "")
	if err != nil {
		return err
	}
	known, err := s.chat.Know(snapshot)
	if err != nil {
		return err
	}
	meta := s.meta(known.State.Account, now)
	text, err := s.shown(ctx, left.Turn, known.State.Key)
	if err != nil {
		return err
	}
	ended, err := s.chat.Handle(ctx, left.Stream.Name(), "interrupt", meta, conversation.Fail{ReplyFailed: conversation.ReplyFailed{
		Turn: left.Turn, Message: meta.Inputs.ID("msg", " reply"), Text: text, Code: Interrupted, At: meta.Inputs.Now,
	}})
	if over(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(ended.Events) > 0 {
		s.Observer.TurnEnded(EndInterrupted)
	}
	s.Logger.InfoContext(ctx, "turn interrupted", "turn", left.Turn, "boot", left.Boot)
	if !text.IsZero() {
		return s.Texts.Forget(ctx, left.Turn)
	}
	return nil
}

// shown is what readers may have seen of a turn, sealed for its end: it must not vanish with its node.
func (s *Sweeper) shown(ctx context.Context, turn, dataKey string) (domain.Sealed, error) {
	if s.Texts == nil {
		return domain.Sealed{}, nil
	}
	pieces, err := s.Texts.Read(ctx, turn, 0)
	if err != nil || len(pieces) == 0 {
		return domain.Sealed{}, err
	}
	keys, _, err := s.Keyring.Find(ctx, dataKey)
	if err != nil {
		return domain.Sealed{}, fmt.Errorf("find the conversation's data key: %w", err)
	}
	key, ok := keys[dataKey]
	if !ok { // erased meanwhile
		return domain.Sealed{}, nil
	}
	var text []byte
	for _, piece := range pieces {
		plain, err := key.Open(piece.Text)
		if err != nil {
			return domain.Sealed{}, fmt.Errorf("open a turn's text: %w", err)
		}
		text = append(text[:min(piece.Offset, len(text))], plain...)
	}
	return key.Seal(text), nil
}

func (s *Sweeper) meta(account string, now time.Time) Meta {
	return Meta{Account: account, Actor: domain.Actor{Kind: "system", ID: "sweeper"}, Inputs: NewInputs(now)}
}
