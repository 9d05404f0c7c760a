package replay

// This file stands where a fold that is made anew meets the one that serves: at the same offset of every partition.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nidohq/nido/projections"
)

const (
	// nearEnough is how many records the second fold may be behind when the first one is held still.
	nearEnough = 500
	// stillness bounds how long commands wait for it; what is not done by then is tried again.
	stillness = 2 * time.Second
	// meetings is how often that is tried.
	meetings = 20
)

// errNotMet: the second fold did not catch up in the time for which the first one may be held still.
var errNotMet = errors.New("the fold did not catch up")

// meet folds until the target stands where served stands, and then calls met while served is held still. what names the
// work for the progress; bulk, which may be nil, is called when much has been folded.
func (f Fold) meet(ctx context.Context, what string, served *projections.Postgres, bulk func(context.Context) error, met func(ctx context.Context, frozen *projections.Frozen) error) error {
	for round := 0; ; {
		stand, err := served.Checkpoints(ctx)
		if err != nil {
			return err
		}
		behind, err := f.behind(ctx, stand)
		if err != nil {
			return err
		}
		if behind > nearEnough {
			f.Progress.Begin(what, "events", behind)
			if err := f.To(ctx, ends(stand)); err != nil {
				return err
			}
			f.Progress.End()
			if bulk != nil {
				if err := bulk(ctx); err != nil {
					return err
				}
			}
			continue
		}
		f.Progress.Begin(what, "events", 0) // nothing worth a line
		err = f.meetOnce(ctx, served, met)
		if round++; !errors.Is(err, errNotMet) || round == meetings {
			return err
		}
	}
}

func (f Fold) meetOnce(ctx context.Context, served *projections.Postgres, met func(ctx context.Context, frozen *projections.Frozen) error) (err error) {
	frozen, err := served.Freeze(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, frozen.Release(ctx)) }()
	limited, cancel := context.WithTimeoutCause(ctx, stillness, errNotMet)
	defer cancel()
	if err := f.To(limited, ends(frozen.Checkpoints)); err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return errNotMet
		}
		return err
	}
	return met(ctx, frozen)
}

// behind is how many records the target has not folded that are before some checkpoints.
func (f Fold) behind(ctx context.Context, stand map[int32]int64) (behind int64, err error) {
	for partition, offset := range stand {
		own, _, err := f.Target.Checkpoint(ctx, partition)
		if err != nil {
			return 0, err
		}
		if own > offset {
			return 0, fmt.Errorf("partition %d has been folded to %d, beyond the %d that is served", partition, own, offset)
		}
		behind += offset - own
	}
	return behind, nil
}

// ends turns last offsets into next ones.
func ends(checkpoints map[int32]int64) map[int32]int64 {
	next := make(map[int32]int64, len(checkpoints))
	for partition, offset := range checkpoints {
		next[partition] = offset + 1
	}
	return next
}
