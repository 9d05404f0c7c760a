package conversation_test

// This file stands at the decision and at the log: what holds for whatever is asked of a conversation, and the events
// that were ever stored.

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/domaintest"
)

func commands() *rapid.Generator[conversation.Command] {
	return rapid.Custom(func(t *rapid.T) conversation.Command {
		account := rapid.SampledFrom([]string{"acc_1", "acc_1", "acc_1", "acc_2"}).Draw(t, "account")
		turn := rapid.SampledFrom([]string{"turn_1", "turn_2", "turn_3", "turn_4"}).Draw(t, "turn")
		text := domain.Sealed{Key: "dk_1", Data: rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "text")}
		at := noon.Add(time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "microseconds")) * time.Microsecond)
		switch rapid.IntRange(0, 9).Draw(t, "command") {
		case 0, 1, 2:
			return conversation.Receive{
				Start:           conversation.Started{Account: account, Agent: "agt_1", Key: "dk_1", ID: text, IDMAC: "mac"},
				MessageReceived: conversation.MessageReceived{Turn: turn, Message: "msg " + turn, Text: text, Boot: "boot", Received: at, Deadline: at.Add(time.Minute)},
			}
		case 3:
			return conversation.Complete{ReplyCompleted: conversation.ReplyCompleted{Turn: turn, Text: text, At: at}}
		case 4:
			return conversation.Fail{ReplyFailed: conversation.ReplyFailed{Turn: turn, Text: text, Code: "interrupted", At: at}}
		case 5:
			return conversation.Cancel{ReplyCancelled: conversation.ReplyCancelled{Turn: turn, At: at}}
		case 6:
			return conversation.Resolve{Account: account, At: at}
		}
		if rapid.IntRange(0, 4).Draw(t, "erase") == 0 { // seldom: nothing comes behind it
			return conversation.Erase{Account: account, Erasure: "era " + turn, At: at}
		}
		return conversation.Reopen{Account: account, At: at}
	})
}

// ended is the turn that a command or an event ends, or "".
func ended(what any) string {
	switch end := what.(type) {
	case conversation.Complete:
		return end.Turn
	case conversation.Fail:
		return end.Turn
	case conversation.Cancel:
		return end.Turn
	case conversation.ReplyCompleted:
		return end.Turn
	case conversation.ReplyFailed:
		return end.Turn
	case conversation.ReplyCancelled:
		return end.Turn
	case conversation.Erased:
		return end.Turn
	}
	return ""
}

func TestEveryMessageGetsOneEndWhateverIsAsked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		open, received, ends := map[string]bool{}, 0, 0
		domaintest.Play(t, conversation.Aggregate, rapid.SliceOfN(commands(), 0, 40).Draw(t, "commands"), func(step domaintest.Step[conversation.Command, conversation.Event, conversation.State]) {
			for i, event := range step.Events {
				switch event := event.(type) {
				case conversation.Started:
					if i != 0 || step.Before.Account != "" {
						t.Fatalf("%#v started a conversation that had begun", step.Command)
					}
				case conversation.MessageReceived:
					received++
					open[event.Turn] = true
				case conversation.ReplyCompleted, conversation.ReplyFailed, conversation.ReplyCancelled:
					ends++
					if !open[ended(event)] {
						t.Fatalf("%#v ended a turn that was not open", step.Command)
					}
					delete(open, ended(event))
				case conversation.Erased:
					if event.Turn != "" {
						ends++
					}
					if event.Turn != "" && !open[event.Turn] || event.Turn == "" && len(open) > 0 {
						t.Fatalf("%#v says that it ended %q, open were %v", step.Command, event.Turn, open)
					}
					delete(open, event.Turn)
				}
				if step.Before.Erased {
					t.Fatalf("%#v happened after the erasure", event)
				}
			}
			if len(open) > 1 || (step.After.Turn != nil) != (len(open) == 1) || (step.After.Turn != nil && !open[step.After.Turn.ID]) {
				t.Fatalf("%#v: open are %v, says the state %+v", step.Command, open, step.After.Turn)
			}
			if ends != received-len(open) || step.After.Turns != received {
				t.Fatalf("%#v: %d messages, %d ends, %d open; the state counts %d", step.Command, received, ends, len(open), step.After.Turns)
			}
			if turn := ended(step.Command); turn != "" {
				_, err := conversation.Aggregate.Decider.Decide(step.Command, step.After)
				want := "turn_closed"
				if step.After.Erased {
					want = "conversation_erased"
				}
				if refusal, ok := errors.AsType[*domain.Refusal](err); !ok || refusal.Code != want {
					t.Fatalf("%#v sent once more answers %v", step.Command, err)
				}
			}
		})
	})
}

func TestStoredEvents(t *testing.T) {
	usage := conversation.Usage{InputTokens: 12, OutputTokens: 34}
	start := started
	start.Metadata = domain.Sealed{Key: "dk_1", Data: []byte("sealed metadata")}
	domaintest.CheckGolden(t, conversation.Aggregate,
		domaintest.Golden[conversation.Event]{Type: "conversation.started", Schema: 1, Event: start},
		domaintest.Golden[conversation.Event]{Type: "message.received", Schema: 1, Event: received},
		domaintest.Golden[conversation.Event]{Type: "reply.completed", Schema: 1, Event: conversation.ReplyCompleted{
			Turn: "turn_1", Message: "msg_2", Text: hello, Model: "gpt-4o-mini", Usage: usage,
			FirstReply: 250 * time.Millisecond, FullReply: 1500 * time.Millisecond, At: noon,
		}},
		domaintest.Golden[conversation.Event]{Type: "reply.failed", Schema: 1, Event: conversation.ReplyFailed{
			Turn: "turn_1", Message: "msg_2", Text: hello, Model: "gpt-4o-mini", Usage: usage, Code: "upstream_timeout", At: noon,
		}},
		domaintest.Golden[conversation.Event]{Type: "reply.cancelled", Schema: 1, Event: conversation.ReplyCancelled{
			Turn: "turn_1", Message: "msg_2", Text: hello, Model: "gpt-4o-mini", Usage: usage, At: noon,
		}},
		domaintest.Golden[conversation.Event]{Type: "conversation.resolved", Schema: 1, Event: resolved},
		domaintest.Golden[conversation.Event]{Type: "conversation.reopened", Schema: 1, Event: conversation.Reopened{At: noon, ByMessage: true}},
		domaintest.Golden[conversation.Event]{Type: "conversation.erased", Schema: 1, Event: conversation.Erased{
			Erasure: "era_1", At: noon, Turn: "turn_1", WithAccount: true,
		}},
	)
}
