package main

// This file stands between packages that do not know each other: where two sides of a seam use their own types.

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/postgres"
	"github.com/nidohq/nido/projections"
)

// lifeSigns are the boots as the sweeper knows them.
type lifeSigns struct{ *postgres.Boots }

// All implements commands.Boots.
func (l lifeSigns) All(ctx context.Context) ([]commands.Boot, error) {
	found, err := l.Boots.All(ctx)
	boots := make([]commands.Boot, len(found))
	for i, boot := range found {
		boots[i] = commands.Boot{ID: boot.ID, Beat: boot.Beat}
	}
	return boots, err
}

// leftovers finds in the read models what the sweeper asks for.
type leftovers struct {
	conversations projections.Conversations
	hosts         projections.Hosts
}

// Turns implements commands.Leftovers.
func (l leftovers) Turns(ctx context.Context, living []string, now time.Time, limit int) ([]commands.LeftTurn, error) {
	found, err := l.conversations.OpenTurns(ctx, projections.Orphans{Living: living, Before: now, Now: now, Limit: limit})
	turns := make([]commands.LeftTurn, len(found))
	for i, turn := range found {
		turns[i] = commands.LeftTurn{Stream: turn.Stream, Turn: turn.Turn, Boot: turn.Boot, Deadline: turn.Deadline}
	}
	return turns, err
}

// Claims implements commands.Leftovers.
func (l leftovers) Claims(ctx context.Context, before time.Time, limit int) ([]commands.LeftClaim, error) {
	found, err := l.hosts.Unbound(ctx, before, limit)
	claims := make([]commands.LeftClaim, len(found))
	for i, host := range found {
		claims[i] = commands.LeftClaim{Slug: host.Slug, Account: host.Account, Agent: host.Agent}
	}
	return claims, err
}

// dayCounts finds for the watch who has come near the day's limit.
type dayCounts struct{ projections.Accounts }

// NearLimit implements commands.DayCounts.
func (d dayCounts) NearLimit(ctx context.Context, percent int) ([]commands.DayCount, error) {
	found, err := d.Accounts.NearLimit(ctx, percent)
	counts := make([]commands.DayCount, len(found))
	for i, spent := range found {
		counts[i] = commands.DayCount{Account: spent.Account, Day: spent.At, Limit: spent.Limit, Used: spent.Used}
	}
	return counts, err
}

// deprecations counts uses and reads the counts.
type deprecations struct {
	*postgres.DeprecatedUses
	projections.Deprecations
}

// once keeps answers under Idempotency-Keys for the API.
type once struct {
	store *postgres.Idempotency
	boot  string
}

func (o once) run(run api.Run) postgres.Run {
	return postgres.Run{Account: run.Account, Caller: run.Caller, Key: run.Key, Boot: o.boot, Proposed: run.Proposed}
}

// Begin implements api.Idempotency.
func (o once) Begin(ctx context.Context, run api.Run, fingerprint []byte) (commands.Inputs, *api.Recorded, error) {
	proposed := run.Proposed
	attempt, err := o.store.Begin(ctx, o.run(run), fingerprint)
	switch {
	case errors.Is(err, postgres.ErrFingerprint):
		return proposed, nil, api.ErrKeyReused
	case errors.Is(err, postgres.ErrInFlight):
		return proposed, nil, api.ErrInFlight
	case errors.Is(err, postgres.ErrErased):
		return proposed, &api.Recorded{Owner: attempt.Replay.Owner}, api.ErrErased
	case err != nil:
		return proposed, nil, err
	}
	inputs := commands.Inputs{Seed: attempt.Seed, Now: proposed.Now, Fresh: attempt.Seed == proposed.Seed}
	if attempt.Replay == nil {
		return inputs, nil, nil
	}
	replay := api.Recorded(*attempt.Replay)
	return inputs, &replay, nil
}

// Finish implements api.Idempotency.
func (o once) Finish(ctx context.Context, run api.Run, answer api.Recorded) error {
	_, err := had(o.store.Finish(ctx, o.run(run), postgres.Response(answer)))
	return err
}

// Abandon implements api.Idempotency.
func (o once) Abandon(ctx context.Context, run api.Run) (bool, error) {
	return had(o.store.Abandon(ctx, o.run(run)))
}

// Forget implements api.Idempotency.
func (o once) Forget(ctx context.Context, run api.Run) error {
	_, err := had(o.store.Forget(ctx, o.run(run)))
	return err
}

// ForgetAnswer implements api.Idempotency.
func (o once) ForgetAnswer(ctx context.Context, run api.Run, answer api.Recorded) error {
	return o.store.ForgetAnswer(ctx, o.run(run), postgres.Response(answer))
}

// had tells whether a run had its request still. Where another one took it over and keeps the answer, that is the same one,
// made from the same inputs.
func had(err error) (bool, error) {
	if errors.Is(err, postgres.ErrTakenOver) {
		return false, nil
	}
	return err == nil, err
}

// analytics is what an erasure needs of ClickHouse.
type analytics struct{ *projections.Forgetting }

// ForgetConversations implements commands.Analytics.
func (a analytics) ForgetConversations(ctx context.Context, gone []commands.GoneConversation) error {
	list := make([]projections.ForgottenConversation, len(gone))
	for i, one := range gone {
		list[i] = projections.ForgottenConversation(one)
	}
	return a.Conversations(ctx, list)
}

// ForgetAccount implements commands.Analytics.
func (a analytics) ForgetAccount(ctx context.Context, account string) error {
	return a.Account(ctx, account)
}

// belongings finds in the read models what an account has.
type belongings struct {
	erasures projections.Erasures
	hosts    projections.Hosts
	agents   projections.Agents
	keys     projections.Keys
}

// belongingsPiece is how many conversations are listed together.
const belongingsPiece = 2000

// Conversations implements commands.Belongings.
func (b belongings) Conversations(ctx context.Context, account string, each func([]domain.StreamID) error) error {
	var behind *projections.LeftConversation
	for {
		found, err := b.erasures.Conversations(ctx, account, behind, belongingsPiece)
		if err != nil || len(found) == 0 {
			return err
		}
		streams := make([]domain.StreamID, len(found))
		for i, one := range found {
			streams[i] = one.Stream
		}
		if err := each(streams); err != nil {
			return err
		}
		behind = &found[len(found)-1]
	}
}

// Agents implements commands.Belongings. An agent that has been deleted may still have to give its name back.
func (b belongings) Agents(ctx context.Context, account string) ([]string, error) {
	named, err := b.hosts.Agents(ctx, account)
	if err != nil {
		return nil, err
	}
	living, err := everyPage(func(page projections.Page) ([]string, *projections.Cursor, error) {
		found, next, err := b.agents.List(ctx, account, nil, page)
		ids := make([]string, len(found))
		for i, one := range found {
			ids[i] = one.ID
		}
		return ids, next, err
	})
	all := append(named, living...)
	slices.Sort(all)
	return slices.Compact(all), err
}

// Keys implements commands.Belongings.
func (b belongings) Keys(ctx context.Context, account string) ([]string, error) {
	return everyPage(func(page projections.Page) ([]string, *projections.Cursor, error) {
		found, next, err := b.keys.List(ctx, account, page)
		var ids []string
		for _, one := range found {
			if one.RevokedAt == nil {
				ids = append(ids, one.PublicID)
			}
		}
		return ids, next, err
	})
}

// everyPage reads a list to its end.
func everyPage(read func(projections.Page) ([]string, *projections.Cursor, error)) (all []string, err error) {
	for page := (projections.Page{Limit: 100}); ; {
		found, next, err := read(page)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
		if next == nil {
			return all, nil
		}
		page.After = next
	}
}

// Left implements commands.Belongings.
func (b belongings) Left(ctx context.Context) ([]commands.OfAccount, error) {
	found, err := b.erasures.Left(ctx, belongingsPiece)
	left := make([]commands.OfAccount, len(found))
	for i, one := range found {
		left[i] = commands.OfAccount{Stream: one.Stream, Account: one.Account}
	}
	return left, err
}
