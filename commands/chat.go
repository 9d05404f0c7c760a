package commands

// This file stands at the chat turn: a message comes in, the model is asked while the commit is on its way, and the
// reply becomes the turn's one end.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/domain/agent"
	"github.com/nidohq/nido/domain/conversation"
)

// ErrStale means that the conversation moved on between the read that a turn was based on and its commit. The caller
// reads again and sends again.
var ErrStale = errors.New("the conversation moved on")

// ErrClientGone is why a turn was cancelled: its client went away.
var ErrClientGone = errors.New("the client went away")

// errClientGone is the cancellation cause behind it, which everybody who knows contexts understands.
var errClientGone = fmt.Errorf("%w: %w", ErrClientGone, context.Canceled)

// ChatConfig is what a chat needs to know.
type ChatConfig struct {
	Boot         string        // this process' boot id, which its turns carry
	TotalTimeout time.Duration // of a turn; past it anybody may end it. Default 5 minutes
	EndTimeout   time.Duration // for getting an end accepted while the client waits. Default 15 seconds
	Texts        TurnTexts     // where streamed text is kept before it is shown; nil shows it unkept
	Line         *Line         // where messages wait for busy conversations; nil lets none wait
	Clock        Clock         // default time.Now
	Observer     TurnObserver  // of turns; nil for nobody
	Logger       *slog.Logger
}

// Chat runs turns.
type Chat struct {
	ChatConfig
	handler  Handler[conversation.Command, conversation.Event, conversation.State]
	keyring  Keyring
	model    Model
	keeper   *keeper
	turns    *turns
	closings *closings
}

// NewChat wires a chat.
func NewChat(config ChatConfig, store Store, keyring Keyring, model Model) *Chat {
	if config.TotalTimeout == 0 {
		config.TotalTimeout = 5 * time.Minute
	}
	if config.EndTimeout == 0 {
		config.EndTimeout = 15 * time.Second
	}
	if config.Clock == nil {
		config.Clock = time.Now
	}
	if config.Observer == nil {
		config.Observer = nobody{}
	}
	return &Chat{
		ChatConfig: config,
		handler:    Handler[conversation.Command, conversation.Event, conversation.State]{Store: store, Aggregate: conversation.Aggregate},
		keyring:    keyring, model: model, keeper: newKeeper(config.Texts, config.Logger), turns: newTurns(), closings: &closings{cancels: map[int]context.CancelFunc{}},
	}
}

// Queue takes a place before a busy conversation. It returns a *domain.Refusal (conversation_busy) where there is none.
func (c *Chat) Queue(ctx context.Context, conversation domain.StreamID) (*Waiter, error) {
	if c.Line == nil {
		return nil, domain.Refuse("conversation_busy", "the agent is still answering the message before; try again when it has", "el agente todavía está respondiendo el mensaje anterior; hay que reintentar cuando termine")
	}
	return c.Line.Enter(ctx, conversation)
}

// Turn is a message and everything that one query knew about where it goes.
type Turn struct {
	Conversation string          // the client's id for it
	Mac          string          // of that id
	Snapshot     domain.Snapshot // of the conversation's stream
	History      []SealedMessage // oldest first
	DataKey      DataKey         // the conversation's, nil if it is new
	AgentID      string
	Settings     agent.Settings
	Text         string
	Metadata     map[string]string // kept with a new conversation
	Instructions string            // of the client, behind the agent's own
	Given        []Message         // what was said before as the client tells it, instead of the history; nil for the history
	Stop         []string          // where the model shall stop
	Temperature  *float64          // instead of the agent's
	// MaxOutputTokens bounds the reply, within what the agent's settings allow.
	MaxOutputTokens *int
	Streamed        bool // its text is followed while it comes
	Sole            bool // no other run can make the same turn: its request comes once
	Continue        bool // it goes on where its client leaves
	// Ending is called when the model is done and the turn's end goes to the log, and what it returns when the end is
	// there, or given up. Nil for nobody.
	Ending func() (ended func())
}

// SealedMessage is an earlier message as the read model has it.
type SealedMessage struct {
	Role Role
	Text domain.Sealed
}

// Reply is the answer to a turn.
type Reply struct {
	Turn           string
	MessageID      string
	ConversationID string
	Text           string
	Model          string
	Usage          conversation.Usage
	Finish         conversation.Finish // why a whole reply ends where it does, where the provider said
	FirstReply     time.Duration       // from the message to the first token
	CreatedAt      time.Time
	DataKey        DataKey // the conversation's, for the request log
}

// Send runs one turn and answers once its end has been accepted. It returns a *domain.Refusal (conversation_busy),
// ErrStale, a *ModelError, or an error that wraps ErrUnknownOutcome or ErrUnavailable. A cancelled context ends the
// upstream call and, with it, the turn, unless the turn is to continue.
func (c *Chat) Send(ctx context.Context, meta Meta, turn Turn) (Reply, error) {
	live, err := c.Begin(ctx, meta, turn)
	if err != nil {
		return Reply{}, err
	}
	end, err := live.Ended(context.WithoutCancel(ctx)) // the turn bounds itself, and ends with its client
	if err != nil {
		return Reply{}, err
	}
	return end.Reply, end.Err
}

// Begin opens a turn and returns once its message has been accepted; the turn goes on by itself from there. Its errors
// are those of Send, up to the acceptance.
func (c *Chat) Begin(ctx context.Context, meta Meta, turn Turn) (*Live, error) {
	began := time.Now()
	receiving, span := span(ctx, receiveCommand)
	live, err := c.begin(ctx, receiving, meta, turn)
	outcome := outcomeOf(err)
	endSpan(span, outcome)
	lost := 0
	if outcome == OutcomeLost {
		lost = 1
	}
	c.handler.observer().Commanded(receiveCommand, outcome, lost, time.Since(began))
	return live, err
}

// receiveCommand is how the command that opens a turn is called where commands are counted.
var receiveCommand = commandName(conversation.Aggregate.Kind, "receive")

// begin is Begin. What goes on after it belongs to ctx, what it does itself to receiving, which is a part of that.
func (c *Chat) begin(ctx, receiving context.Context, meta Meta, turn Turn) (*Live, error) {
	open, err := c.prepare(receiving, meta, turn)
	if err != nil {
		return nil, err
	}
	// The message is durable whether or not its client still waits.
	background := context.WithoutCancel(ctx)
	upstream, stop := context.WithCancelCause(background)
	live := open.newLive(stop)
	if !turn.Continue {
		live.Tie(ctx)
	}
	if turn.Streamed && turn.Sole {
		live.keptBy(background, c.keeper)
	}
	accepted := make(chan bool, 1)
	c.turns.begin(open.id)
	go func() {
		defer close(live.over)
		defer stop(nil)
		upstream, expire := context.WithTimeout(upstream, open.time(c))
		defer expire()
		prompt := open.takePrompt()
		if open.turn.Streamed {
			prompt.Rest = live.rest
		}
		said := generate(upstream, c.model, prompt, c.Clock, live.Say)
		if said.err == nil {
			c.Observer.Replied(said.first, said.full)
		}
		if <-accepted {
			c.finish(background, open, live, said)
		}
	}()
	won, err := c.handler.Commit(context.WithoutCancel(receiving), open.decision.Commit)
	if err == nil && !won {
		err = ErrStale
	}
	if err != nil {
		stop(err)
		accepted <- false
		<-live.over
		c.turns.fail(open.id)
		if errors.Is(err, ErrUnknownOutcome) { // else the message has not left: there is nothing to end, nor to look for
			c.abandon(ctx, open)
		}
		return nil, c.withdraw(background, live, err)
	}
	open.decision.Commit.Events, open.decision.Events = nil, nil // the log has them
	c.Observer.TurnStarted()
	c.turns.add(live)
	if turn.Streamed && !turn.Sole {
		live.keptBy(background, c.keeper)
	}
	live.open()
	accepted <- true
	return live, nil
}

// withdraw drops what has been kept of a turn that was not accepted. A lost message is sent again, as the same turn: nobody may
// find in that what was said in this.
func (c *Chat) withdraw(ctx context.Context, live *Live, why error) error {
	if !live.fail(why) {
		return why
	}
	dropped := c.keeper.forget(ctx, live)
	if !errors.Is(why, ErrStale) {
		return why // it is not sent again; what cannot be dropped is swept
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	select {
	case err := <-dropped:
		if err != nil {
			return fmt.Errorf("drop the text of a turn that was not accepted: %w: %w", ErrUnavailable, err)
		}
		return why
	case <-ctx.Done():
		return fmt.Errorf("drop the text of a turn that was not accepted: %w: %w", ErrUnavailable, context.Cause(ctx))
	case <-c.keeper.closed:
		return fmt.Errorf("drop the text of a turn that was not accepted: %w: %w", ErrUnavailable, errStopping)
	}
}

// opening is a turn that has been decided and not been ended.
type opening struct {
	meta     Meta
	turn     Turn
	id       string // of the turn
	stream   string // the stream's name
	key      DataKey
	model    string
	prompt   Prompt // until it is sent
	decision Decision[conversation.Event, conversation.State]
}

func (c *Chat) prepare(ctx context.Context, meta Meta, turn Turn) (*opening, error) {
	open := &opening{meta: meta, turn: turn, id: meta.Inputs.ID("turn"), stream: turn.AgentID + "." + turn.Mac, key: turn.DataKey}
	known, err := c.handler.Know(turn.Snapshot)
	if err != nil {
		return nil, err
	}
	if known.State.Turn != nil { // before a key is made or anything sealed; the decider says the same
		_, err := c.handler.Decide(known, open.stream, "receive", meta, conversation.Receive{MessageReceived: conversation.MessageReceived{Turn: open.id}})
		return nil, cmp.Or(err, ErrStale) // it is this one's own turn that is open
	}
	if open.key == nil {
		if open.key, err = c.keyring.Create(ctx, string(c.handler.Aggregate.Stream(open.stream))); err != nil {
			return nil, fmt.Errorf("make the conversation's data key: %w: %w", ErrUnavailable, err)
		}
	}
	if open.prompt, err = open.newPrompt(); err != nil {
		return nil, err
	}
	receive, err := c.receive(open)
	if err != nil {
		return nil, err
	}
	open.decision, err = c.handler.Decide(known, open.stream, "receive", meta, receive)
	if err == nil && open.decision.Settled() {
		return nil, ErrStale // committed before: the caller's next look finds the turn
	}
	// A turn may last minutes, and there may be thousands of them: what the prompt was made from is not needed any more.
	open.model = open.prompt.Model
	open.turn = Turn{Conversation: turn.Conversation, AgentID: turn.AgentID, Streamed: turn.Streamed, Ending: turn.Ending}
	return open, err
}

// time is how long the turn may still take: at its deadline anybody may end it, with less to say than whoever runs it.
func (o *opening) time(c *Chat) time.Duration {
	return min(c.TotalTimeout, o.meta.Inputs.Now.Add(c.TotalTimeout).Sub(c.Clock()))
}

// takePrompt hands the prompt to the only one who needs it, for as long as they do.
func (o *opening) takePrompt() Prompt {
	prompt := o.prompt
	o.prompt = Prompt{}
	return prompt
}

func (c *Chat) receive(open *opening) (conversation.Receive, error) {
	meta, turn := open.meta, open.turn
	var metadata domain.Sealed
	if len(turn.Metadata) > 0 {
		plain, err := json.Marshal(turn.Metadata)
		if err != nil {
			return conversation.Receive{}, fmt.Errorf("encode metadata: %w", err)
		}
		metadata = open.key.Seal(plain)
	}
	return conversation.Receive{
		Start: conversation.Started{
			Account: meta.Account, Agent: turn.AgentID, Key: open.key.ID(),
			ID: open.key.Seal([]byte(turn.Conversation)), IDMAC: turn.Mac, Metadata: metadata,
		},
		MessageReceived: conversation.MessageReceived{
			Turn: open.id, Message: meta.Inputs.ID("msg"), Text: open.key.Seal([]byte(turn.Text)), Boot: c.Boot,
			Received: meta.Inputs.Now, Deadline: meta.Inputs.Now.Add(c.TotalTimeout),
		},
	}, nil
}

func (o *opening) newPrompt() (Prompt, error) {
	settings := o.turn.Settings
	prompt := Prompt{
		Model: settings.Model, Instructions: settings.Instructions, Temperature: settings.Temperature,
		MaxOutputTokens: settings.MaxOutputTokens, Stop: o.turn.Stop,
	}
	if o.turn.Temperature != nil {
		prompt.Temperature = o.turn.Temperature
	}
	if asked, own := o.turn.MaxOutputTokens, settings.MaxOutputTokens; asked != nil && (own == nil || *asked < *own) {
		prompt.MaxOutputTokens = asked
	}
	if o.turn.Instructions != "" {
		prompt.Instructions = strings.TrimSpace(prompt.Instructions + "\n\n" + o.turn.Instructions)
	}
	if o.turn.Given != nil {
		prompt.Messages = append(slices.Clone(o.turn.Given), Message{Role: User, Text: o.turn.Text})
		return prompt, nil
	}
	prompt.Messages = make([]Message, 0, len(o.turn.History)+1)
	for _, earlier := range o.turn.History {
		plain, err := o.key.Open(earlier.Text)
		if err != nil {
			return Prompt{}, fmt.Errorf("open an earlier message: %w", err)
		}
		prompt.Messages = append(prompt.Messages, Message{Role: earlier.Role, Text: string(plain)})
	}
	prompt.Messages = append(prompt.Messages, Message{Role: User, Text: o.turn.Text})
	return prompt, nil
}
