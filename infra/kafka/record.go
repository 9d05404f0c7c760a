package kafka

// This file stands between a commit and the log: the record, a CloudEvent in the binary mode of CloudEvents' Kafka
// protocol binding. docs/events/README.md describes it for foreign consumers.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
)

// The attributes of a commit's record. Watermill's metadata are Kafka's headers.
const (
	headerSpec         = "ce_specversion"
	headerID           = "ce_id"
	headerSource       = "ce_source"
	headerType         = "ce_type"
	headerSubject      = "ce_subject"
	headerTime         = "ce_time"
	headerPartitionKey = "ce_partitionkey"
	headerAccount      = "ce_account"
	headerTrace        = "ce_traceparent"
	headerContent      = "content-type"

	specVersion = "1.0"
	commitType  = "com.nido.commit.v1" // another value document is another type
	source      = "/nido"
	contentType = "application/json"
)

// document is the record's value. The stream is the record's key, and the trace is about the request, not the fact:
// both travel in headers only.
type document struct {
	Account string          `json:"account"`
	Actor   domain.Actor    `json:"actor"`
	Base    domain.Version  `json:"base"`
	Command string          `json:"command"`
	Time    time.Time       `json:"time"`
	Events  []domain.Stored `json:"events"`
}

// Encode makes a commit's message. It refuses commits that Decode would not read.
func Encode(commit domain.Commit) (*message.Message, error) {
	if err := check(commit); err != nil {
		return nil, fmt.Errorf("encode commit: %w", err)
	}
	at := commit.Time.UTC()
	value, err := writeDocument(document{
		Account: commit.Account, Actor: commit.Actor, Base: commit.Base, Command: commit.Command, Time: at, Events: commit.Events,
	})
	if err != nil {
		return nil, fmt.Errorf("encode commit: %w", err)
	}
	msg := message.NewMessage(eventID(commit), value)
	msg.Metadata = message.Metadata{
		headerSpec: specVersion, headerID: msg.UUID, headerSource: source, headerType: commitType,
		headerSubject: string(commit.Stream), headerTime: at.Format(time.RFC3339Nano),
		headerPartitionKey: string(commit.Stream), headerAccount: commit.Account, headerContent: contentType,
	}
	if commit.Trace != "" {
		msg.Metadata[headerTrace] = commit.Trace
	}
	return msg, nil
}

// eventID names the commit among all of its source. The command id alone would not do: a command that lost its base
// is decided again on the next, and that is another commit. The base keeps the two apart, while the same commit sent
// twice after a doubtful acknowledgement keeps its id, so that consumers may drop the second as CloudEvents intends.
func eventID(commit domain.Commit) string {
	return commit.Command + "." + strconv.FormatInt(int64(commit.Base), 10)
}

// Decode reads a message that a Consumer or ReadAll made of a record. It believes nothing: headers, key and value must
// agree. Its errors wrap domain.ErrUndecodable and name the place.
func Decode(msg *message.Message) (domain.Recorded, error) {
	place, ok := PlaceOf(msg)
	if !ok {
		return domain.Recorded{}, errors.New("decode commit: the message has no place in the log")
	}
	commit, err := decode(place.Key, msg)
	if err != nil {
		return domain.Recorded{}, fmt.Errorf("%s, partition %d, offset %d: %w: %w", place.Topic, place.Partition, place.Offset, domain.ErrUndecodable, err)
	}
	return domain.Recorded{Position: place.Position, Commit: commit, Hash: Hash(place.Key, msg.Payload)}, nil
}

func decode(key []byte, msg *message.Message) (domain.Commit, error) {
	var none domain.Commit
	header := msg.Metadata
	if header[headerSpec] != specVersion || header[headerType] != commitType {
		return none, fmt.Errorf("not a commit: %s %q, %s %q", headerSpec, header[headerSpec], headerType, header[headerType])
	}
	if media, _, _ := strings.Cut(header[headerContent], ";"); strings.TrimSpace(media) != contentType {
		return none, fmt.Errorf("content-type is %q", header[headerContent])
	}
	value, err := readDocument(msg.Payload)
	if err != nil {
		return none, fmt.Errorf("value: %w", err)
	}
	commit := domain.Commit{
		Stream: domain.StreamID(key), Base: value.Base, Command: value.Command, Account: value.Account, Actor: value.Actor,
		Time: value.Time.UTC(), Trace: header[headerTrace], Events: value.Events,
	}
	if err := check(commit); err != nil {
		return none, err
	}
	at, err := time.Parse(time.RFC3339Nano, header[headerTime])
	if err != nil {
		return none, fmt.Errorf("%s: %w", headerTime, err)
	}
	switch {
	case header[headerSource] == "":
		return none, fmt.Errorf("%s is missing", headerSource)
	case header[headerID] != eventID(commit):
		return none, fmt.Errorf("%s is %q, the value says %q", headerID, header[headerID], eventID(commit))
	case header[headerSubject] != string(key) || header[headerPartitionKey] != string(key):
		return none, fmt.Errorf("%s %q or %s %q is not the key %q", headerSubject, header[headerSubject], headerPartitionKey, header[headerPartitionKey], key)
	case header[headerAccount] != commit.Account:
		return none, fmt.Errorf("%s is %q, the value says %q", headerAccount, header[headerAccount], commit.Account)
	case !at.Equal(commit.Time):
		return none, fmt.Errorf("%s is %s, the value says %s", headerTime, at, commit.Time)
	}
	return commit, nil
}

// check is what every commit in the log satisfies, whoever wrote it.
func check(commit domain.Commit) error {
	switch {
	case commit.Stream.Kind() == "" || commit.Stream.Name() == "":
		return fmt.Errorf("stream %q is not <kind>-<name>", commit.Stream)
	case commit.Base < 0:
		return fmt.Errorf("base version is %d", commit.Base)
	case commit.Command == "":
		return errors.New("command id is missing")
	case commit.Account == "":
		return errors.New("account is missing")
	case commit.Actor.Kind == "":
		return errors.New("actor is missing")
	case commit.Time.IsZero():
		return errors.New("time is missing")
	case len(commit.Events) == 0:
		return errors.New("there are no events")
	}
	for i, event := range commit.Events {
		if event.Type == "" || event.Schema < 1 || len(event.Data) == 0 {
			return fmt.Errorf("event %d has no type, schema number or data", i)
		}
	}
	return nil
}
