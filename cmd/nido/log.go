package main

// This file stands beside the log: an operator reads it, filtered, as JSON lines.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/infra/kafka"
	"github.com/nidohq/nido/infra/keyring"
	"github.com/nidohq/nido/projections"
)

const (
	logBatch = 500
	// logEvery is how often a followed log is asked for more.
	logEvery = 200 * time.Millisecond
	// logPatience is how long a followed record may wait for the fold's verdict before it is printed without.
	logPatience = 3 * time.Second
)

// logCommand prints events.
type logCommand struct {
	Stream    []string  `help:"Only these streams, such as agent-agt_k3j5." placeholder:"STREAM"`
	Type      []string  `help:"Only these types of events, such as agent.created." placeholder:"TYPE"`
	Account   []string  `help:"Only these accounts." placeholder:"ACCOUNT"`
	From      time.Time `help:"Only commits of this time or later, in RFC 3339." format:"2006-01-02T15:04:05Z07:00" placeholder:"TIME"`
	To        time.Time `help:"Only commits before this time." format:"2006-01-02T15:04:05Z07:00" placeholder:"TIME"`
	Follow    bool      `help:"Go on with what comes in."`
	Open      bool      `help:"Open sealed texts, with the master key."`
	MasterKey string    `help:"32 bytes in base64; only for --open." env:"NIDO_MASTER_KEY" placeholder:"KEY"`
	logSettings
}

// Run implements kong's command.
func (c logCommand) Run(ctx context.Context, log *slog.Logger) (err error) {
	if c.Open && c.MasterKey == "" {
		return errors.New("--open needs NIDO_MASTER_KEY")
	}
	o, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = closing(err, o.close) }()
	printer := &logPrinter{logCommand: c, verdicts: projections.NewPostgres(o.pool, readSchema, log), out: bufio.NewWriterSize(os.Stdout, 1<<20)}
	if c.Open {
		master, err := engineSettings{MasterKey: c.MasterKey}.masterKey()
		if err != nil {
			return err
		}
		if printer.keys, err = keyring.New(ctx, o.pool, master); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(logEvery)
	defer ticker.Stop()
	for from := (map[int32]int64{}); ; {
		ends, err := o.cluster.Ends(ctx)
		if err == nil {
			err = o.cluster.Read(ctx, from, ends, logBatch, printer.print)
		}
		if err != nil || !c.Follow {
			return ended(err)
		}
		from = ends
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// logPrinter prints batches, one at a time.
type logPrinter struct {
	logCommand
	verdicts *projections.Postgres
	keys     *keyring.Keyring // nil: texts stay sealed

	mu  sync.Mutex
	out *bufio.Writer
}

// logLine is one event, or a record that holds none.
type logLine struct {
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	Outcome   string          `json:"outcome"` // accepted, rejected, pending, skipped, undecodable
	Time      *time.Time      `json:"time,omitempty"`
	Stream    domain.StreamID `json:"stream,omitempty"`
	Version   domain.Version  `json:"version,omitempty"` // that the stream has once the commit is accepted
	Index     int             `json:"index"`
	Type      string          `json:"type,omitempty"`
	Schema    int             `json:"schema,omitempty"`
	Account   string          `json:"account,omitempty"`
	Actor     *domain.Actor   `json:"actor,omitempty"`
	Command   string          `json:"command,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Why       string          `json:"why,omitempty"` // of a skip, of being undecodable, or of texts that cannot be opened
}

func (p *logPrinter) print(ctx context.Context, partition int32, entries []kafka.Entry) error {
	stands, rejected, err := p.outcomes(ctx, partition, entries[0].Offset, entries[len(entries)-1].Offset)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, entry := range entries {
		outcome := "accepted"
		if _, lost := slices.BinarySearch(rejected, entry.Offset); lost {
			outcome = "rejected"
		} else if entry.Offset > stands {
			outcome = "pending"
		}
		if err := p.entry(ctx, entry, outcome); err != nil {
			return err
		}
	}
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// outcomes asks the fold. What has just come in is given a moment.
func (p *logPrinter) outcomes(ctx context.Context, partition int32, first, last int64) (stands int64, rejected []int64, err error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for late := time.After(logPatience); ; {
		stands, rejected, err = p.verdicts.Outcomes(ctx, partition, first, last)
		if err != nil || stands >= last || !p.Follow {
			return stands, rejected, err
		}
		select {
		case <-ctx.Done():
			return stands, rejected, context.Cause(ctx)
		case <-late:
			return stands, rejected, nil
		case <-ticker.C:
		}
	}
}

// entry prints the lines of one record.
func (p *logPrinter) entry(ctx context.Context, entry kafka.Entry, outcome string) error {
	line := logLine{Partition: entry.Partition, Offset: entry.Offset, Outcome: outcome}
	unfiltered := len(p.Stream)+len(p.Type)+len(p.Account) == 0 && p.From.IsZero() && p.To.IsZero()
	switch {
	case entry.Skip != nil:
		line.Outcome, line.Why, line.Actor, line.Time = "skipped", entry.Skip.Why, &entry.Skip.Actor, &entry.Skip.Time
		return p.line(line, unfiltered)
	case entry.Err != nil:
		line.Outcome, line.Why = "undecodable", entry.Err.Error()
		return p.line(line, unfiltered)
	case !p.wants(entry.Commit):
		return nil
	}
	line.Time, line.Stream, line.Version = &entry.Time, entry.Stream, entry.Version()
	line.Account, line.Actor, line.Command = entry.Account, &entry.Actor, entry.Command
	for i, event := range entry.Events {
		line.Index, line.Type, line.Schema, line.Data, line.Why = i, event.Type, event.Schema, event.Data, ""
		if p.keys != nil {
			if data, err := opened(ctx, p.keys, event.Data); err == nil {
				line.Data = data
			} else {
				line.Why = "not opened: " + err.Error()
			}
		}
		if err := p.line(line, len(p.Type) == 0 || slices.Contains(p.Type, event.Type)); err != nil {
			return err
		}
	}
	return nil
}

func (p *logPrinter) wants(commit domain.Commit) bool {
	return (len(p.Stream) == 0 || slices.Contains(p.Stream, string(commit.Stream))) &&
		(len(p.Account) == 0 || slices.Contains(p.Account, commit.Account)) &&
		(p.From.IsZero() || !commit.Time.Before(p.From)) && (p.To.IsZero() || commit.Time.Before(p.To))
}

func (p *logPrinter) line(line logLine, wanted bool) error {
	if !wanted {
		return nil
	}
	encoder := json.NewEncoder(p.out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil {
		return fmt.Errorf("print %d:%d: %w", line.Partition, line.Offset, err)
	}
	return nil
}
