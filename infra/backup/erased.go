package backup

// This file stands between the restored log and everything that could open its texts: what was erased is erased again.
//
// A backup may hold the key of a conversation that the log says was erased: the key was copied before it was destroyed,
// or the commit came in while the backup ran. And the rows of the request log may have been copied before they were
// removed.

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/infra/progress"
)

// The events by which something is forgotten.
const (
	conversationErased = "conversation.erased"
	accountErased      = "account.erased"
)

const (
	conversationKind = "conversation"
	accountKind      = "account"
)

// destroyGroup is how many owners are told of at a time.
const destroyGroup = 1000

// candidates are streams with a record that may say so: it may be one that was rejected.
type candidates struct {
	mu      sync.Mutex
	streams map[string]bool
}

func newCandidates() *candidates { return &candidates{streams: map[string]bool{}} }

// see looks at a record without decoding it: nearly none of them says anything of the kind.
func (c *candidates) see(record kafka.Raw) {
	if bytes.Contains(record.Value, []byte(conversationErased)) || bytes.Contains(record.Value, []byte(accountErased)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.streams[string(record.Key)] = true
	}
}

// erased is what the log says is to be forgotten.
type erased struct {
	conversations map[domain.StreamID]time.Time
	accounts      map[string]time.Time
	// with are the conversations of the accounts.
	with map[domain.StreamID]bool
}

// accepted reads the log once more and applies its rule to the candidates: an erasure that lost against another commit on
// the same base did not happen, and the conversation lives.
func (c *candidates) accepted(ctx context.Context, cluster *kafka.Cluster, events Topic, told *progress.Progress) (*erased, error) {
	found := &erased{conversations: map[domain.StreamID]time.Time{}, accounts: map[string]time.Time{}, with: map[domain.StreamID]bool{}}
	if len(c.streams) == 0 {
		return found, nil
	}
	ends := map[int32]int64{}
	for _, partition := range events.Partitions {
		ends[partition.Partition] = partition.End
	}
	told.Begin("looking for what was erased", "records", events.records())
	var mu sync.Mutex
	versions := map[domain.StreamID]domain.Version{}
	conversations := map[string]map[domain.StreamID]bool{} // by account
	err := cluster.Read(ctx, nil, ends, appendRecords, func(_ context.Context, _ int32, entries []kafka.Entry) error {
		told.Add(int64(len(entries)), 0)
		mu.Lock()
		defer mu.Unlock()
		for _, entry := range entries {
			// A record that cannot be decoded stops the fold, which will be told to pass over it; it erases nothing.
			if entry.Skip != nil || entry.Err != nil {
				continue
			}
			if entry.Stream.Kind() == conversationKind && c.streams[string(domain.NewStreamID(accountKind, entry.Account))] {
				if conversations[entry.Account] == nil {
					conversations[entry.Account] = map[domain.StreamID]bool{}
				}
				conversations[entry.Account][entry.Stream] = true
			}
			if c.streams[string(entry.Stream)] && domain.Accepts(versions[entry.Stream], entry.Base) {
				versions[entry.Stream] = entry.Version()
				found.add(entry.Commit)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for account := range found.accounts {
		for stream := range conversations[account] {
			found.with[stream] = true
		}
	}
	told.End()
	return found, nil
}

func (e *erased) add(commit domain.Commit) {
	for _, event := range commit.Events {
		switch event.Type {
		case conversationErased:
			e.conversations[commit.Stream] = commit.Time
		case accountErased:
			e.accounts[commit.Stream.Name()] = commit.Time
		}
	}
}

// owners are those whose keys are to be destroyed.
func (e *erased) owners() []string {
	owners := slices.Collect(maps.Keys(e.accounts))
	for stream := range e.conversations {
		owners = append(owners, string(stream))
	}
	for stream := range e.with {
		owners = append(owners, string(stream))
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// destroyKeys destroys the keys of everything that was erased, for good. Doing it again does no harm.
func (r Restore) destroyKeys(ctx context.Context, e *erased, keys *keyring.Keyring) error {
	owners := e.owners()
	r.Progress.Begin("destroying the keys of what was erased", "owners", int64(len(owners)))
	for group := range slices.Chunk(owners, destroyGroup) {
		if err := keys.Destroy(ctx, group...); err != nil {
			return fmt.Errorf("destroy again what was erased: %w", err)
		}
		r.Progress.Add(int64(len(group)), 0)
	}
	if len(owners) > 0 {
		r.Progress.End()
	}
	return r.tellUnasked(ctx, owners)
}

// tellUnasked names what the keyring, copied behind the log, says was erased and the log does not: the erasure was asked
// for while the backup ran. Its texts are gone, but the log does not know why.
func (r Restore) tellUnasked(ctx context.Context, owners []string) error {
	rows, err := r.Pool.Query(ctx, `SELECT owner FROM nido.destroyed_owners ORDER BY owner`)
	if err != nil {
		return fmt.Errorf("read the tombstones: %w", err)
	}
	destroyed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read the tombstones: %w", err)
	}
	for _, owner := range destroyed {
		if _, asked := slices.BinarySearch(owners, owner); !asked {
			_, _ = fmt.Fprintf(r.Out, "the keys of %s are destroyed, but its erasure came behind the end of the backup's log: ask for it again\n", owner)
		}
	}
	return nil
}

// row is a row of the request log; a column that it does not have is nil.
type row func(column string) any

// gone says of a row whether what is in it was erased: its key is destroyed, or its account was erased. Rows of before the
// log kept their keys are told by their conversation, whose stream is named by the agent and an HMAC of what the
// client called it.
func (r Restore) gone(ctx context.Context, e *erased, keys *keyring.Keyring) (func(row) bool, error) {
	rows, err := r.Pool.Query(ctx, `SELECT id FROM nido.data_keys WHERE wrapped IS NULL`)
	if err != nil {
		return nil, fmt.Errorf("read the tombstones: %w", err)
	}
	destroyed := map[string]bool{}
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { destroyed[id] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read the tombstones: %w", err)
	}
	return func(value row) bool {
		account, _ := value("account").(string)
		if _, gone := e.accounts[account]; gone {
			return true
		}
		if key, _ := value("data_key").(string); key != "" {
			return destroyed[key]
		}
		conversation, _ := value("conversation_id").(string)
		if conversation == "" || len(e.conversations) == 0 {
			return false
		}
		agent, _ := value("agent_id").(string)
		at, _ := value("at").(time.Time)
		erasedAt, gone := e.conversations[domain.NewStreamID(conversationKind, agent+"."+keys.Index(conversation))]
		return gone && !at.After(erasedAt)
	}, nil
}

// blanked is what an erased row has instead of what was said: the same that an erasure leaves.
func blanked(column string, value any) any {
	switch column {
	case "conversation_id", "path", "query", "client_request_id", "remote_ip", "user_agent", "request_headers", "response_headers",
		"request_body", "response_body", "words":
		return ""
	case "request_truncated", "response_truncated":
		return false
	case "request_bytes", "response_bytes":
		return uint64(0)
	case "erased":
		return true
	}
	return value
}
