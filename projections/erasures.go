package projections

// This file is the read model of what is to be forgotten. Events: conversation.erased, account.erased. Table: erasures.
// Questions: which ones come behind a place in the log, which one is about a stream.

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain/account"
	"github.com/nidohq/nido/domain/conversation"
)

// eraseEvent is the stored name of the event whose fold drops rows.
const eraseEvent = "conversation.erased"

// erasuresFold holds the columns of the rows to insert.
type erasuresFold struct {
	streams, ids, accounts []string
	withAccount            []bool
	parts                  []int32
	offsets                []int64
	at                     []time.Time
}

func (f *erasuresFold) fold(commit accepted) {
	for _, event := range commit.events {
		switch e := event.(type) {
		case conversation.Erased:
			f.add(commit, e.Erasure, e.At, e.WithAccount)
		case account.Erased:
			f.add(commit, e.Erasure, e.At, false)
		}
	}
}

func (f *erasuresFold) add(commit accepted, id string, at time.Time, withAccount bool) {
	f.streams = append(f.streams, string(commit.Stream))
	f.ids = append(f.ids, clean(id))
	f.accounts = append(f.accounts, clean(commit.Account))
	f.withAccount = append(f.withAccount, withAccount)
	f.parts = append(f.parts, commit.Partition)
	f.offsets = append(f.offsets, commit.Offset)
	f.at = append(f.at, at)
}

func (f *erasuresFold) write(batch *pgx.Batch) {
	const insert = `
		INSERT INTO erasures (stream, erasure, account, with_account, part, off, at)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::integer[], $6::bigint[], $7::timestamptz[])
		ON CONFLICT (stream) DO NOTHING`
	if len(f.streams) > 0 {
		batch.Queue(insert, f.streams, f.ids, f.accounts, f.withAccount, f.parts, f.offsets, f.at)
	}
}
