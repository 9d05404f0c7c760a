package api

// This file stands behind a chat turn's acceptance: the turn as its followers see it, on the node that runs it or from
// what any node finds in the stores; and the route on which a broken stream goes on.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// TurnQueries finds turns by their ids.
type TurnQueries interface {
	// FindTurn returns an account's turn, or projections.ErrNotFound.
	FindTurn(ctx context.Context, account, turn string) (projections.Turn, error)
}

// TurnTexts has the text of turns that are still running, on whichever node.
type TurnTexts interface {
	Read(ctx context.Context, turn string, from int) ([]commands.TurnPiece, error)
}

const (
	// firstLook and longestLook bound the pauses between two looks at a turn that another node runs.
	firstLook   = 20 * time.Millisecond
	longestLook = 100 * time.Millisecond
	// lookPatience is how long the stores may be out of reach before a follower is told to come again.
	lookPatience = 10 * time.Second
)

// following is a turn's text and end as they come.
type following interface {
	// Next returns what comes behind an offset, or nothing when the alarm goes off first.
	Next(ctx context.Context, from int, alarm <-chan time.Time) (commands.Step, error)
}

// followed is a turn and how to follow it.
type followed struct {
	following
	id           string
	conversation string // the client's id
	agent        string
	started      time.Time
	live         *commands.Live // nil where another node runs it, or none any more
}

func ofThisNode(live *commands.Live) followed {
	return followed{
		following: live, id: live.Turn, conversation: live.ConversationID, agent: live.AgentID, started: live.StartedAt, live: live,
	}
}

// TurnEvents implements ServerInterface.
func (s *Server) TurnEvents(w http.ResponseWriter, r *http.Request, turnID TurnID, params TurnEventsParams) {
	from, over, err := lastSeen(turnID, params.LastEventID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	turn, err := s.find(r, turnID)
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case over:
		w.WriteHeader(http.StatusNoContent)
	default:
		leave, err := s.followers.enter(turnID)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.stream(w, r, turn, from, newTurnEvents(s, w, r, turn, params.LastEventID == nil))
		exchangeOf(r).afterwards(leave)
	}
}

// follow repeats the stream of a turn that has been begun before.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, turnID string) {
	turn, err := s.find(r, turnID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	leave, err := s.followers.enter(turnID)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.stream(w, r, turn, 0, s.dialect(w, r, turn))
	exchangeOf(r).afterwards(leave)
}

// lastSeen reads the id of the last event that arrived.
func lastSeen(turn string, last *string) (from int, over bool, err error) {
	if last == nil {
		return 0, false, nil
	}
	rest, ours := strings.CutPrefix(*last, turn+":")
	if ours && rest == "end" {
		return 0, true, nil
	}
	from, err = strconv.Atoi(rest)
	if !ours || err != nil || from < 0 {
		return 0, false, invalid("Last-Event-ID", "Last-Event-ID is not the id of an event of this turn.", "Last-Event-ID no es el id de un evento de este turno.")
	}
	return from, false, nil
}

// find finds a turn that the caller may follow.
func (s *Server) find(r *http.Request, turnID string) (followed, error) {
	x := exchangeOf(r)
	ctx, cancel := context.WithTimeout(r.Context(), admitTimeout)
	defer cancel()
	found, err := s.config.TurnQueries.FindTurn(ctx, x.caller.Account, turnID)
	switch {
	case err != nil:
		return followed{}, notFoundAs(err, "turn_not_found")
	case !x.caller.Grant().Reaches(found.Agent):
		return followed{}, problem("turn_not_found")
	}
	x.record.AgentID, x.record.Owner = found.Agent, string(found.Stream)
	if live := s.config.Turns.Running(turnID); live != nil {
		x.record.ConversationID = live.ConversationID
		return ofThisNode(live), nil
	}
	plain, erased, err := s.config.Keyring.Open(ctx, []domain.Sealed{found.ConversationID})
	if err != nil {
		return followed{}, fmt.Errorf("open the conversation's id: %w", err)
	}
	if erased[0] {
		return followed{}, problem("turn_not_found")
	}
	x.record.ConversationID = string(plain[0])
	stored := &storedTurn{server: s, account: x.caller.Account, id: turnID, conversation: string(plain[0])}
	return followed{following: stored, id: turnID, conversation: stored.conversation, agent: found.Agent, started: found.Received}, nil
}

// storedTurn is a turn as the stores have it: its end, or its text so far.
type storedTurn struct {
	server       *Server
	account      string
	id           string
	conversation string
}

// Next looks until there is something.
func (t *storedTurn) Next(ctx context.Context, from int, alarm <-chan time.Time) (commands.Step, error) {
	lost := time.Time{}
	for pause := firstLook; ; pause = min(2*pause, longestLook) {
		step, err := t.look(ctx, from)
		switch {
		case err == nil && (step.Text != "" || step.End != nil):
			return step, nil
		case err == nil:
			lost = time.Time{}
		case !unreachable(err) || ctx.Err() != nil:
			return step, err
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > lookPatience:
			return step, err
		}
		select {
		case <-time.After(pause):
		case <-alarm:
			return commands.Step{}, nil
		case <-ctx.Done():
			return commands.Step{}, context.Cause(ctx)
		}
	}
}

// look asks for the end first: when it is there, the pieces may be gone.
func (t *storedTurn) look(ctx context.Context, from int) (commands.Step, error) {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout) // a store that says nothing must not hold back the pings, either
	defer cancel()
	found, err := t.server.config.TurnQueries.FindTurn(ctx, t.account, t.id)
	if err != nil {
		return commands.Step{}, notFoundAs(err, "turn_not_found")
	}
	if found.End != nil {
		return t.end(ctx, from, *found.End)
	}
	pieces, err := t.server.config.TurnTexts.Read(ctx, t.id, from)
	if err != nil || len(pieces) == 0 {
		return commands.Step{}, err
	}
	sealed := make([]domain.Sealed, len(pieces))
	for i, piece := range pieces {
		sealed[i] = piece.Text
	}
	plain, _, err := t.server.config.Keyring.Open(ctx, sealed)
	if err != nil {
		return commands.Step{}, fmt.Errorf("open a running turn's text: %w", err)
	}
	var text strings.Builder
	for i, piece := range pieces {
		if skip := from - piece.Offset; skip < len(plain[i]) {
			text.Write(plain[i][max(skip, 0):])
		}
	}
	return commands.Step{Text: text.String()}, nil
}

// end is what the end commit says.
func (t *storedTurn) end(ctx context.Context, from int, end projections.Message) (commands.Step, error) {
	plain, erased, err := t.server.config.Keyring.Open(ctx, []domain.Sealed{end.Text})
	switch {
	case err != nil:
		return commands.Step{}, fmt.Errorf("open a turn's text: %w", err)
	case erased[0]:
		return commands.Step{}, problem("turn_not_found")
	}
	text := string(plain[0])
	over := &commands.TurnEnd{Reply: commands.Reply{
		Turn: t.id, MessageID: end.ID, ConversationID: t.conversation, Text: text, Model: end.Model, Usage: end.Usage, Finish: end.Finish,
		FirstReply: end.FirstReply, CreatedAt: end.At,
	}}
	switch end.Outcome {
	case projections.Failed:
		over.Err = &commands.ModelError{Code: end.Code, Err: errors.New("the turn had failed")}
	case projections.Cancelled:
		over.Err = commands.ErrClientGone
	}
	return commands.Step{Text: behind(text, from), End: over}, nil
}

// behind is the text from an offset on. A client may know of more than there is, where the node and the text's table were
// lost together; and one that asks for the middle of a character gets it whole.
func behind(text string, from int) string {
	from = min(from, len(text))
	for from > 0 && from < len(text) && !utf8.RuneStart(text[from]) {
		from--
	}
	return text[from:]
}
