package conversation_test

// This file stands at the decision: every command on a conversation, and every refusal.

import (
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/domain/domaintest"
)

var (
	noon     = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	hello    = domain.Sealed{Key: "dk_1", Data: []byte("sealed hello")}
	started  = conversation.Started{Account: "acc_1", Agent: "agt_1", Key: "dk_1", ID: domain.Sealed{Key: "dk_1", Data: []byte("sealed id")}, IDMAC: "mac"}
	received = conversation.MessageReceived{Turn: "turn_1", Message: "msg_1", Text: hello, Boot: "boot_1", Received: noon, Deadline: noon.Add(time.Minute)}
	second   = conversation.MessageReceived{Turn: "turn_2", Message: "msg_3", Text: hello, Boot: "boot_2", Received: noon.Add(time.Hour), Deadline: noon.Add(2 * time.Hour)}

	completed = conversation.ReplyCompleted{Turn: "turn_1", Message: "msg_2", Text: hello, Model: "echo", At: noon}
	failed    = conversation.ReplyFailed{Turn: "turn_1", Message: "msg_2", Code: "interrupted", At: noon}
	cancelled = conversation.ReplyCancelled{Turn: "turn_1", Message: "msg_2", Text: hello, At: noon}
	resolved  = conversation.Resolved{At: noon}
	reopened  = conversation.Reopened{At: noon}
	erased    = conversation.Erased{Erasure: "era_1", At: noon}
)

func TestDecisions(t *testing.T) {
	tell := domaintest.About(conversation.Aggregate)
	receive := func(message conversation.MessageReceived) conversation.Receive {
		return conversation.Receive{Start: started, MessageReceived: message}
	}
	elsewhere := conversation.Receive{Start: conversation.Started{Account: "acc_2", Agent: "agt_1"}, MessageReceived: second}
	otherAgent := conversation.Receive{Start: conversation.Started{Account: "acc_1", Agent: "agt_2"}, MessageReceived: second}
	domaintest.Stories{
		"the first message starts the conversation": tell.Given().When(receive(received)).Then(started, received),
		"a later message opens a turn":              tell.Given(started, received, completed).When(receive(second)).Then(second),
		"a message is received once":                tell.Given(started, received).When(receive(received)).ThenNothing(),
		"a message waits for the turn before":       tell.Given(started, received).When(receive(second)).ThenRefused("conversation_busy", ""),
		"a message comes after a failed turn":       tell.Given(started, received, failed).When(receive(second)).Then(second),
		"a message comes after a cancelled turn":    tell.Given(started, received, cancelled).When(receive(second)).Then(second),
		"a message reopens a resolved conversation": tell.Given(started, received, completed, resolved).When(receive(second)).
			Then(conversation.Reopened{At: second.Received, ByMessage: true}, second),
		"a message does not reopen what was reopened already":   tell.Given(started, received, completed, resolved, reopened).When(receive(second)).Then(second),
		"another account's conversation takes no message":       tell.Given(started, received, completed).When(elsewhere).ThenRefused("conversation_not_found", ""),
		"another agent's conversation takes no message":         tell.Given(started, received, completed).When(otherAgent).ThenRefused("conversation_not_found", ""),
		"a reply ends its turn":                                 tell.Given(started, received).When(conversation.Complete{ReplyCompleted: completed}).Then(completed),
		"a failure ends its turn":                               tell.Given(started, received).When(conversation.Fail{ReplyFailed: failed}).Then(failed),
		"a cancellation ends its turn":                          tell.Given(started, received).When(conversation.Cancel{ReplyCancelled: cancelled}).Then(cancelled),
		"a reply ends its turn after the conversation resolved": tell.Given(started, received, resolved).When(conversation.Complete{ReplyCompleted: completed}).Then(completed),

		"a turn is completed once":                      tell.Given(started, received, completed).When(conversation.Complete{ReplyCompleted: completed}).ThenRefused("turn_closed", ""),
		"a failed turn is not completed":                tell.Given(started, received, failed).When(conversation.Complete{ReplyCompleted: completed}).ThenRefused("turn_closed", ""),
		"a turn fails once":                             tell.Given(started, received, failed).When(conversation.Fail{ReplyFailed: failed}).ThenRefused("turn_closed", ""),
		"a completed turn does not fail":                tell.Given(started, received, completed).When(conversation.Fail{ReplyFailed: failed}).ThenRefused("turn_closed", ""),
		"a turn is cancelled once":                      tell.Given(started, received, cancelled).When(conversation.Cancel{ReplyCancelled: cancelled}).ThenRefused("turn_closed", ""),
		"a completed turn is not cancelled":             tell.Given(started, received, completed).When(conversation.Cancel{ReplyCancelled: cancelled}).ThenRefused("turn_closed", ""),
		"a late end does not end the next turn":         tell.Given(started, received, failed, second).When(conversation.Complete{ReplyCompleted: completed}).ThenRefused("turn_closed", ""),
		"a turn that never began has no end":            tell.Given().When(conversation.Complete{ReplyCompleted: completed}).ThenRefused("turn_closed", ""),
		"a turn that never began does not fail":         tell.Given().When(conversation.Fail{ReplyFailed: failed}).ThenRefused("turn_closed", ""),
		"a turn that never began is not cancelled":      tell.Given().When(conversation.Cancel{ReplyCancelled: cancelled}).ThenRefused("turn_closed", ""),
		"a conversation is resolved":                    tell.Given(started, received, completed).When(conversation.Resolve{Account: "acc_1", At: noon}).Then(resolved),
		"a conversation is resolved during a turn":      tell.Given(started, received).When(conversation.Resolve{Account: "acc_1", At: noon}).Then(resolved),
		"a conversation is resolved once":               tell.Given(started, received, completed, resolved).When(conversation.Resolve{Account: "acc_1", At: noon.Add(1)}).ThenNothing(),
		"another account's conversation stays open":     tell.Given(started, received).When(conversation.Resolve{Account: "acc_2", At: noon}).ThenRefused("conversation_not_found", ""),
		"what does not exist is not resolved":           tell.Given().When(conversation.Resolve{Account: "acc_1"}).ThenRefused("conversation_not_found", ""),
		"nobody's conversation is not resolved":         tell.Given().When(conversation.Resolve{}).ThenRefused("conversation_not_found", ""),
		"a conversation is reopened":                    tell.Given(started, received, completed, resolved).When(conversation.Reopen{Account: "acc_1", At: noon}).Then(reopened),
		"an open conversation is not reopened":          tell.Given(started, received, completed).When(conversation.Reopen{Account: "acc_1", At: noon}).ThenNothing(),
		"another account's conversation stays resolved": tell.Given(started, received, resolved).When(conversation.Reopen{Account: "acc_2", At: noon}).ThenRefused("conversation_not_found", ""),
		"what does not exist is not reopened":           tell.Given().When(conversation.Reopen{Account: "acc_1"}).ThenRefused("conversation_not_found", ""),

		"a conversation is erased":          tell.Given(started, received, completed).When(conversation.Erase{Account: "acc_1", Erasure: "era_1", At: noon}).Then(erased),
		"a resolved conversation is erased": tell.Given(started, received, completed, resolved).When(conversation.Erase{Account: "acc_1", Erasure: "era_1", At: noon}).Then(erased),
		"an erasure ends the open turn": tell.Given(started, received).When(conversation.Erase{Account: "acc_1", Erasure: "era_1", At: noon}).
			Then(conversation.Erased{Erasure: "era_1", At: noon, Turn: "turn_1"}),
		"a conversation is erased with its account": tell.Given(started, received, completed).When(conversation.Erase{Account: "acc_1", Erasure: "era_1", At: noon, WithAccount: true}).
			Then(conversation.Erased{Erasure: "era_1", At: noon, WithAccount: true}),
		"a conversation is erased once":                tell.Given(started, received, completed, erased).When(conversation.Erase{Account: "acc_1", Erasure: "era_2", At: noon.Add(1)}).ThenNothing(),
		"another account's conversation is not erased": tell.Given(started, received, completed).When(conversation.Erase{Account: "acc_2", Erasure: "era_1"}).ThenRefused("conversation_not_found", ""),
		"what does not exist is not erased":            tell.Given().When(conversation.Erase{Account: "acc_1", Erasure: "era_1"}).ThenRefused("conversation_not_found", ""),
		"an erased conversation takes no message":      tell.Given(started, received, completed, erased).When(receive(second)).ThenRefused("conversation_erased", ""),
		"another account hears nothing of an erasure":  tell.Given(started, received, completed, erased).When(elsewhere).ThenRefused("conversation_not_found", ""),
		"a reply comes too late for an erased turn":    tell.Given(started, received, erased).When(conversation.Complete{ReplyCompleted: completed}).ThenRefused("conversation_erased", ""),
		"an erased turn does not fail":                 tell.Given(started, received, erased).When(conversation.Fail{ReplyFailed: failed}).ThenRefused("conversation_erased", ""),
		"an erased turn is not cancelled":              tell.Given(started, received, erased).When(conversation.Cancel{ReplyCancelled: cancelled}).ThenRefused("conversation_erased", ""),
		"an erased conversation is not resolved":       tell.Given(started, received, completed, erased).When(conversation.Resolve{Account: "acc_1"}).ThenRefused("conversation_not_found", ""),
		"an erased conversation is not reopened":       tell.Given(started, received, completed, resolved, erased).When(conversation.Reopen{Account: "acc_1"}).ThenRefused("conversation_not_found", ""),
	}.Run(t)
}

func TestTheStateNamesWhoWorksOnTheTurnAndUntilWhen(t *testing.T) {
	state := domaintest.Fold(t, conversation.Aggregate, []conversation.Event{started, received, failed, second})
	want := conversation.OpenTurn{ID: "turn_2", Boot: "boot_2", Received: second.Received, Deadline: second.Deadline}
	if state.Turn == nil || *state.Turn != want || state.Turns != 2 || state.Key != "dk_1" {
		t.Fatalf("state %+v, turn %+v", state, state.Turn)
	}
}
