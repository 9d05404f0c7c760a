package main

// This file stands where a fold has stopped: an operator decides to pass over a record that cannot be read.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/projections"
)

// skipCommand moves the fold past one record, for ever.
type skipCommand struct {
	At  string `help:"The record, as PARTITION:OFFSET." required:"" placeholder:"P:O"`
	Why string `help:"The reason, which is kept in the log with who skipped and when." required:""`
	By  string `help:"Who decides." env:"USER" default:"operator" placeholder:"NAME"`
	logSettings
}

// Run implements kong's command.
func (c skipCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	at, err := parsePosition(c.At)
	if err != nil {
		return err
	}
	if strings.TrimSpace(c.Why) == "" {
		return errors.New("--why must say why")
	}
	o, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, o.close) }()
	record, err := o.cluster.Record(ctx, at)
	if err != nil {
		return err
	}
	fault, err := c.pass(ctx, o, record)
	if err != nil {
		return err
	}
	// Behind the fold, which can refuse: a decision in the log that did not hold would be kept for ever. Where only this is
	// missing, a replay stops at the record, and the same command puts it right.
	if err := o.cluster.Skip(ctx, record, domain.Actor{Kind: "operator", ID: c.By}, time.Now(), c.Why); err != nil {
		return fmt.Errorf("%w; give the command again: the fold has passed the record, but the log does not say so yet", err)
	}
	fmt.Printf("skipped %d:%d (%v)\n", at.Partition, at.Offset, fault)
	return nil
}

// pass moves the fold, and says what was wrong with the record.
func (c skipCommand) pass(ctx context.Context, o *operator, record *message.Message) (fault, err error) {
	recorded, fault := kafka.Decode(record)
	if fault != nil {
		place, _ := kafka.PlaceOf(record)
		recorded = domain.Recorded{Position: place.Position, Hash: kafka.Hash(place.Key, record.Payload)}
	}
	decoded := fault == nil
	if decoded {
		fault = fmt.Errorf("a commit to %s", recorded.Stream)
	}
	err = projections.NewPostgres(o.pool, readSchema, o.log).Skip(ctx, recorded, decoded)
	switch {
	case errors.Is(err, projections.ErrFolded):
		return nil, fmt.Errorf("%w: the read models hold what it says, and every replay will; undo it by another command", err)
	case errors.Is(err, projections.ErrReadable):
		return nil, fmt.Errorf("%w (%w); only what nobody can read is skipped", err, fault)
	case errors.Is(err, projections.ErrNotThere):
		return nil, fmt.Errorf("%w; /readyz of a projector says where it stopped", err)
	}
	return fault, err
}

// parsePosition reads "partition:offset".
func parsePosition(text string) (domain.Position, error) {
	first, second, found := strings.Cut(text, ":")
	partition, err := strconv.ParseInt(first, 10, 32)
	offset, err2 := strconv.ParseInt(second, 10, 64)
	if !found || err != nil || err2 != nil || partition < 0 || offset < 0 {
		return domain.Position{}, fmt.Errorf("%q is no position such as 0:1234", text)
	}
	return domain.Position{Partition: int32(partition), Offset: offset}, nil
}
