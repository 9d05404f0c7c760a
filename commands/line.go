package commands

// This file stands before a turn: here wait the messages whose conversation is busy and whose client asked for that. Who
// waits holds a place and nothing else, no connection and no lock; a node has one of a conversation's messages at its head,
// which tries when the open turn has ended, wherever that ran, and the others stay behind it.

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
)

const (
	// LinePatience is how long a message waits for its conversation.
	LinePatience = time.Minute
	// lineLength is how many messages wait for one conversation, on all nodes together.
	lineLength = 16
	// lineLook lies between two looks at the turns of other nodes; those of this one say themselves that they are over.
	lineLook = 100 * time.Millisecond
	// lookTimeout bounds one look, and leaveTimeout giving a place back.
	lookTimeout  = 2 * time.Second
	leaveTimeout = 2 * time.Second
)

// How a wait went.
const (
	WaitFree   = "free"   // the message went on
	WaitBusy   = "busy"   // too many were before it, or it took too long
	WaitLeft   = "left"   // its client left
	WaitFailed = "failed" // a store could not be asked, or the process stops
)

// OpenTurns knows which conversations are busy.
type OpenTurns interface {
	// Busy returns those of the conversations in which a turn is open.
	Busy(ctx context.Context, conversations []domain.StreamID) ([]domain.StreamID, error)
}

// LineConfig is what a line needs.
type LineConfig struct {
	Places    Places
	OpenTurns OpenTurns
	Patience  time.Duration // of a message; default LinePatience
	// Waited is told how each wait went; default nobody.
	Waited func(how string, waited time.Duration)
	Logger *slog.Logger
}

// Line is where messages wait on this node.
type Line struct {
	LineConfig
	order *Queue // one at a time is the head of a conversation's waiters

	mu      sync.Mutex
	heads   map[domain.StreamID]chan struct{} // closed when the conversation may be free
	waiting map[*Waiter]context.CancelCauseFunc
	places  map[string]bool // of this node, by their waiters' ids
	looking bool
	closed  chan struct{}
	running sync.WaitGroup
}

// NewLine returns a line in which nobody waits.
func NewLine(config LineConfig) *Line {
	config.Patience = cmp.Or(config.Patience, LinePatience)
	if config.Waited == nil {
		config.Waited = func(string, time.Duration) {}
	}
	return &Line{
		LineConfig: config, order: NewQueue(), heads: map[domain.StreamID]chan struct{}{}, waiting: map[*Waiter]context.CancelCauseFunc{},
		places: map[string]bool{}, closed: make(chan struct{}),
	}
}

// Waiter is a message that waits. It belongs to one goroutine.
type Waiter struct {
	line     *Line
	stream   domain.StreamID
	id       string
	began    time.Time
	deadline time.Time
	leave    func() // gives the head's place to the next; nil while others stand before it
	gaveWay  bool   // to an older message of another node
	how      string
}

// Enter takes a place. It returns a *domain.Refusal (conversation_busy) where there is none.
func (l *Line) Enter(ctx context.Context, conversation domain.StreamID) (*Waiter, error) {
	now := time.Now()
	w := &Waiter{line: l, stream: conversation, id: "wait_" + rand.Text(), began: now, deadline: now.Add(l.Patience), how: WaitFailed}
	took, err := l.Places.Take(ctx, conversation, w.id, lineLength, l.Patience+leaveTimeout)
	if err != nil {
		return nil, fmt.Errorf("take a place before the conversation: %w: %w", ErrUnavailable, err)
	}
	if !took {
		l.Waited(WaitBusy, 0)
		return nil, domain.Refuse("conversation_busy", "%d messages are waiting for this conversation already; try again later", "ya hay %d mensajes esperando en esta conversación; hay que reintentar más tarde", lineLength)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.places[w.id] = true
	return w, nil
}

// errPatience is why a message does not wait any longer.
var errPatience = errors.New("the conversation has been busy for too long")

// Await returns when the conversation may be free and it is this message's turn to try. Whoever finds it busy again waits
// again, at the head. It returns a *domain.Refusal (conversation_busy) when the patience is over, an error that wraps
// ErrUnavailable when the process stops, and the context's cause when the client leaves.
func (w *Waiter) Await(ctx context.Context) error {
	limited, expire := context.WithDeadlineCause(ctx, w.deadline, errPatience)
	defer expire()
	limited, stop := context.WithCancelCause(limited)
	defer stop(nil)
	if !w.line.add(w, stop) {
		return w.failed(ctx, errStopping)
	}
	defer w.line.remove(w)
	if w.leave == nil {
		leave, err := w.line.order.enter(limited, w.stream)
		if err != nil {
			return w.failed(ctx, err)
		}
		w.leave = leave
	}
	select {
	case <-w.line.watch(context.WithoutCancel(ctx), w.stream):
		if err := w.giveWay(limited); err != nil {
			return w.failed(ctx, err)
		}
		w.how = WaitFree
		return nil
	case <-limited.Done():
		w.line.unwatch(w.stream)
		return w.failed(ctx, context.Cause(limited))
	}
}

// failed says why a wait was in vain.
func (w *Waiter) failed(ctx context.Context, why error) error {
	switch {
	case ctx.Err() != nil:
		w.how = WaitLeft
		return fmt.Errorf("wait for the conversation: %w", context.Cause(ctx))
	case errors.Is(why, errPatience):
		w.how = WaitBusy
		return domain.Refuse("conversation_busy", "the conversation has been busy for %.0f seconds; try again later", "la conversación lleva %.0f segundos ocupada; hay que reintentar más tarde", w.line.Patience.Seconds())
	}
	w.how = WaitFailed
	return fmt.Errorf("wait for the conversation: %w: %w", ErrUnavailable, why)
}

// Leave lets the next one try, and gives the place back. It returns how long the message has waited.
func (w *Waiter) Leave(ctx context.Context) time.Duration {
	if w.leave != nil {
		w.leave()
	}
	w.line.mu.Lock()
	delete(w.line.places, w.id)
	w.line.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := w.line.Places.Leave(ctx, w.id); err != nil {
		w.line.Logger.WarnContext(ctx, "place before a conversation not given back; it expires", "error", err)
	}
	waited := time.Since(w.began)
	w.line.Waited(w.how, waited)
	return waited
}

func (l *Line) add(w *Waiter, stop context.CancelCauseFunc) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isClosed() {
		l.waiting[w] = stop
	}
	return !l.isClosed()
}

func (l *Line) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *Line) remove(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, w)
}

// Waiting counts the messages that wait on this node.
func (l *Line) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// Close sends everybody away who waits, and whoever comes.
func (l *Line) Close() {
	l.mu.Lock()
	if !l.isClosed() {
		close(l.closed)
	}
	for _, stop := range l.waiting {
		stop(errStopping)
	}
	l.mu.Unlock()
	l.running.Wait()
}

// watch tells when a conversation may be free.
func (l *Line) watch(ctx context.Context, conversation domain.StreamID) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	freed := make(chan struct{})
	l.heads[conversation] = freed
	if !l.looking && !l.isClosed() {
		l.looking = true
		l.running.Go(func() { l.look(ctx) })
	}
	return freed
}

func (l *Line) unwatch(conversation domain.StreamID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.heads, conversation)
}

// Freed says that a conversation may be free. One that is not is found busy by whoever tries.
func (l *Line) Freed(conversations ...domain.StreamID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conversation := range conversations {
		if freed, ok := l.heads[conversation]; ok {
			close(freed)
			delete(l.heads, conversation)
		}
	}
}

// look asks for all conversations at once which of them are still busy, again and again while anybody waits. While the
// stores cannot be asked, those who wait find out themselves what is wrong, and tell their clients.
func (l *Line) look(ctx context.Context) {
	ticker := time.NewTicker(lineLook)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.closed:
			return
		}
		watched := l.watched()
		if len(watched) == 0 {
			return
		}
		limited, cancel := context.WithTimeout(ctx, lookTimeout)
		busy, err := l.OpenTurns.Busy(limited, watched)
		cancel()
		if err != nil {
			l.Logger.WarnContext(ctx, "cannot see which conversations are busy", "watched", len(watched), "error", err)
		}
		still := make(map[domain.StreamID]bool, len(busy))
		for _, conversation := range busy {
			still[conversation] = true
		}
		for _, conversation := range watched {
			if !still[conversation] {
				l.Freed(conversation)
			}
		}
	}
}

// watched lists the conversations with a head. Without one the looking ends.
func (l *Line) watched() []domain.StreamID {
	l.mu.Lock()
	defer l.mu.Unlock()
	watched := make([]domain.StreamID, 0, len(l.heads))
	for conversation := range l.heads {
		watched = append(watched, conversation)
	}
	l.looking = len(watched) > 0
	return watched
}
