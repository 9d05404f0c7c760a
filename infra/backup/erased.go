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

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
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
func (c *candidates) accepted(ctx context.Context, cluster *kafka.Cluster, events Topic) (*erased, error) {
	found := &erased{conversations: map[domain.StreamID]time.Time{}, accounts: map[string]time.Time{}, with: map[domain.StreamID]bool{}}
	if len(c.streams) == 0 {
		return found, nil
	}
	ends := map[int32]int64{}
	for _, partition := range events.Partitions {
		ends[partition.Partition] = partition.End
	}
	var mu sync.Mutex
	versions := map[domain.StreamID]domain.Version{}
	conversations := map[string]map[domain.StreamID]bool{} // by account
	err := cluster.Read(ctx, nil, ends, appendRecords, func(_ context.Context, _ int32, entries []kafka.Entry) error {
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
	for account := range found.accounts {
		for stream := range conversations[account] {
			found.with[stream] = true
		}
	}
	return found, err
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

// destroyKeys destroys the keys of everything that was erased, for good. Doing it again does no harm.
func (e *erased) destroyKeys(ctx context.Context, keys *keyring.Keyring, progress *Progress) error {
	owners := slices.Sorted(maps.Keys(e.accounts))
	for stream := range e.conversations {
		owners = append(owners, string(stream))
	}
	for stream := range e.with {
		owners = append(owners, string(stream))
	}
	progress.begin("destroying the keys of what was erased", "owners", int64(len(owners)))
	for group := range slices.Chunk(owners, destroyGroup) {
		if err := keys.Destroy(ctx, group...); err != nil {
			return fmt.Errorf("destroy again what was erased: %w", err)
		}
		progress.add(int64(len(group)), 0)
	}
	if len(owners) > 0 {
		progress.end()
	}
	return nil
}

// keeps says of a row of the request log whether it is to come back: not if its account was erased, nor if it was about a
// conversation that was erased later. Its stream is named by the agent and by an HMAC of what the client called it.
func (e *erased) keeps(keys *keyring.Keyring) func(value func(column string) string) bool {
	macs := map[string]bool{}
	for stream := range e.conversations {
		macs[stream.Name()] = true
	}
	return func(value func(column string) string) bool {
		if len(e.accounts) == 0 && len(macs) == 0 {
			return true
		}
		if _, gone := e.accounts[value("account")]; gone {
			return false
		}
		conversation := value("conversation_id")
		return conversation == "" || !macs[value("agent_id")+"."+keys.Index(conversation)]
	}
}
