package projections_test

// This file stands below the tests that need conversations: logs of chats, built through the aggregate's codec.

import (
	"fmt"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

// seal stands for the keyring's work: these tests only see that the bytes stay what they are.
func seal(key, text string) domain.Sealed {
	return domain.Sealed{Key: key, Data: []byte("\x00\xff" + text)}
}

// chat is one conversation on its way through a log.
type chat struct {
	account, agent, mac string
	version             domain.Version
	turns               int
	at                  time.Time
}

func newChat(account, agent, mac string, at time.Time) *chat {
	return &chat{account: account, agent: agent, mac: mac, at: at}
}

func (c *chat) name() string            { return c.agent + "." + c.mac }
func (c *chat) stream() domain.StreamID { return projections.ConversationStream(c.agent, c.mac) }
func (c *chat) key() string             { return "dk_" + c.name() }
func (c *chat) turn() string            { return fmt.Sprintf("%s.t%d", c.name(), c.turns) }

// commit puts events on top of the conversation.
func (c *chat) commit(command string, events ...any) domain.Commit {
	made := commit(conversation.Aggregate, c.name(), c.version, command, c.at, events...)
	made.Account = c.account
	c.version++
	return made
}

// receive opens the next turn, and the conversation if it is the first.
func (c *chat) receive(text, boot string) domain.Commit {
	c.turns++
	c.at = c.at.Add(time.Second)
	received := conversation.MessageReceived{
		Turn: c.turn(), Message: c.turn() + ".in", Text: seal(c.key(), text), Boot: boot, Received: c.at, Deadline: c.at.Add(5 * time.Minute),
	}
	if c.version > 0 {
		return c.commit(c.turn()+".receive", received)
	}
	return c.commit(c.turn()+".receive", conversation.Started{
		Account: c.account, Agent: c.agent, Key: c.key(), ID: seal(c.key(), "id of "+c.mac), IDMAC: c.mac,
	}, received)
}

// complete ends the turn.
func (c *chat) complete(text string) domain.Commit {
	c.at = c.at.Add(time.Second)
	return c.commit(c.turn()+".end", conversation.ReplyCompleted{
		Turn: c.turn(), Message: c.turn() + ".out", Text: seal(c.key(), text), Model: "echo",
		Usage: conversation.Usage{InputTokens: 3, OutputTokens: 4, Estimated: true}, Finish: conversation.FinishLength, FirstReply: time.Millisecond, FullReply: time.Second, At: c.at,
	})
}

// fail ends the turn without a reply.
func (c *chat) fail(code string) domain.Commit {
	c.at = c.at.Add(time.Second)
	return c.commit(c.turn()+".end", conversation.ReplyFailed{Turn: c.turn(), Message: c.turn() + ".out", Code: code, At: c.at})
}
