package projections

// This file stands behind the append: the connection on which the fold's announcements come in.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// listenPatience is how long the listening connection may be silent before it is asked whether it still lives.
	listenPatience = 15 * time.Second
	// reconnectFirst and reconnectMax bound the pause before a lost listening connection is made again.
	reconnectFirst = 50 * time.Millisecond
	reconnectMax   = 2 * time.Second
)

// listenAlways keeps a listening connection, making it again whenever it is lost.
func (p *Progress) listenAlways(ctx context.Context, heard chan<- announcement, connected chan<- struct{}) {
	pause := reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := p.listen(ctx, heard, connected)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > reconnectMax {
			pause = reconnectFirst
		}
		p.log.WarnContext(ctx, "lost the connection that tells how far the fold is; looking instead", "error", err, "retry_in", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, reconnectMax)
	}
}

// listen hands on what one connection hears, until it is lost.
func (p *Progress) listen(ctx context.Context, heard chan<- announcement, connected chan<- struct{}) (err error) {
	// Not one of the pool's: it would be missing there for ever.
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		err = errors.Join(err, conn.Close(closing))
	}()
	if err := begin(ctx, conn); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	select {
	case connected <- struct{}{}:
	default: // it has not looked since the connection before
	}
	for {
		notification, err := p.next(ctx, conn)
		if err != nil {
			return err
		}
		if notification == nil {
			continue
		}
		var news announcement
		if err := json.Unmarshal(notification, &news); err != nil {
			return fmt.Errorf("read an announcement: %w", err)
		}
		select {
		case heard <- news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin asks for the announcements. A server that has taken the connection and says no more is left.
func begin(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	_, err := conn.Exec(ctx, `LISTEN `+progressChannel)
	return err
}

// next waits for one notification; silence for too long makes it ask whether the server is still there.
func (p *Progress) next(ctx context.Context, conn *pgx.Conn) ([]byte, error) {
	waiting, cancel := context.WithTimeout(ctx, listenPatience)
	defer cancel()
	notification, err := conn.WaitForNotification(waiting)
	if err == nil {
		return []byte(notification.Payload), nil
	}
	if waiting.Err() == nil || ctx.Err() != nil || conn.IsClosed() {
		return nil, fmt.Errorf("wait for an announcement: %w", err)
	}
	asking, cancelAsking := context.WithTimeout(ctx, lookPatience)
	defer cancelAsking()
	if err := conn.Ping(asking); err != nil {
		return nil, fmt.Errorf("ask whether the server is there: %w", err)
	}
	return nil, nil
}
