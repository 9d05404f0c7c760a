package main

// This file stands between packages that do not know each other: where two sides of a seam use their own types.

import (
	"context"
	"errors"
	"time"

	"github.com/nidohq/nido/api"
	"github.com/nidohq/nido/commands"
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

// Begin implements api.Idempotency.
func (o once) Begin(ctx context.Context, account, caller, key string, fingerprint []byte, proposed commands.Inputs) (commands.Inputs, *api.Recorded, error) {
	attempt, err := o.store.Begin(ctx, account, caller, key, fingerprint, o.boot, proposed)
	switch {
	case errors.Is(err, postgres.ErrFingerprint):
		return proposed, nil, api.ErrKeyReused
	case errors.Is(err, postgres.ErrInFlight):
		return proposed, nil, api.ErrInFlight
	case err != nil:
		return proposed, nil, err
	}
	inputs := commands.Inputs{Seed: attempt.Seed, Now: attempt.Now, Fresh: attempt.Seed == proposed.Seed}
	if attempt.Replay == nil {
		return inputs, nil, nil
	}
	replay := api.Recorded(*attempt.Replay)
	return inputs, &replay, nil
}

// Finish implements api.Idempotency.
func (o once) Finish(ctx context.Context, account, caller, key string, answer api.Recorded) error {
	return stillOurs(o.store.Finish(ctx, account, caller, key, o.boot, postgres.Response(answer)))
}

// Abandon implements api.Idempotency.
func (o once) Abandon(ctx context.Context, account, caller, key string) error {
	return stillOurs(o.store.Abandon(ctx, account, caller, key, o.boot))
}

// Forget implements api.Idempotency.
func (o once) Forget(ctx context.Context, account, caller, key string) error {
	return stillOurs(o.store.Forget(ctx, account, caller, key, o.boot))
}

// ForgetAnswer implements api.Idempotency.
func (o once) ForgetAnswer(ctx context.Context, account, caller, key string, answer api.Recorded) error {
	return o.store.ForgetAnswer(ctx, account, caller, key, postgres.Response(answer))
}

// stillOurs: another node took the request over and keeps the answer. It is the same one, made from the same inputs.
func stillOurs(err error) error {
	if errors.Is(err, postgres.ErrTakenOver) {
		return nil
	}
	return err
}
