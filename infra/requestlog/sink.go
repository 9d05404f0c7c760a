package requestlog

// This file stands behind Kafka: bundles become rows of the request log in ClickHouse.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// Sink writes bundles into the request log. It is safe for concurrent use, one call of Apply per partition at a time.
type Sink struct {
	requests *projections.Requests
	opener   projections.Opener
	log      *slog.Logger
	now      func() time.Time
}

// NewSink returns a sink into the request log's tables, which must have been prepared.
func NewSink(requests *projections.Requests, opener projections.Opener, log *slog.Logger) *Sink {
	return &Sink{requests: requests, opener: opener, log: log, now: time.Now}
}

// Checkpoint returns the last record of a partition that has been written, and its hash; -1 where nothing has been.
func (s *Sink) Checkpoint(ctx context.Context, partition int32) (offset int64, hash []byte, err error) {
	return s.requests.Checkpoint(ctx, partition)
}

// Idle notes that a partition had nothing left to write at an instant.
func (s *Sink) Idle(ctx context.Context, partition int32, at time.Time) error {
	return s.requests.Idle(ctx, partition, at)
}

// Apply writes the bundles of one partition, if the checkpoint stands at after, and moves it to last. Its error says
// that the same batch must come again, projections.ErrFenced that the checkpoint stands elsewhere.
//
// A bundle that cannot be read is telemetry that is lost: it is noted as a gap, and does not stop the log.
func (s *Sink) Apply(ctx context.Context, partition int32, after, last int64, hash []byte, payloads [][]byte) error {
	batch := projections.RequestBatch{Partition: partition, After: after, Last: last, Hash: hash}
	if err := s.requests.Begin(ctx, &batch); err != nil {
		return fmt.Errorf("begin the request log's bundles %d:%d-%d: %w", partition, after+1, last, err)
	}
	var entries []entry
	var sealed []domain.Sealed
	for _, payload := range payloads {
		found, texts, err := decodeBundle(payload)
		if err != nil {
			sum := sha256.Sum256(payload) // the same loss, in whatever batch it comes again
			s.lose(ctx, &batch, projections.Gap{ID: "bundle:" + hex.EncodeToString(sum[:16])}, err)
			continue
		}
		entries = append(entries, found.Entries...)
		sealed = append(sealed, texts...)
		for _, g := range found.Gaps {
			batch.Gaps = append(batch.Gaps, projections.Gap(g))
		}
	}
	plain, erased, err := s.opener.Open(ctx, sealed)
	if err != nil {
		return fmt.Errorf("open the request log's bundles %d:%d-%d: %w", partition, after+1, last, err)
	}
	for i, e := range entries {
		request, err := e.join(plain[i], erased[i])
		if err != nil {
			s.lose(ctx, &batch, projections.Gap{ID: "entry:" + e.ID, Account: e.Account, Lost: 1, From: e.At, To: e.At}, err)
			continue
		}
		batch.Requests = append(batch.Requests, request)
	}
	if err := s.requests.Insert(ctx, batch); err != nil {
		return fmt.Errorf("write the request log's bundles %d:%d-%d: %w", partition, after+1, last, err)
	}
	return nil
}

// lose notes a gap for something unreadable. What is unknown about it stays unknown: how many, whose, and when but by now.
func (s *Sink) lose(ctx context.Context, batch *projections.RequestBatch, lost projections.Gap, err error) {
	s.log.ErrorContext(ctx, "a part of the request log cannot be read", "partition", batch.Partition, "after", batch.After,
		"last", batch.Last, "gap", lost.ID, "error", err)
	if lost.From.IsZero() {
		lost.From = s.now()
		lost.To = lost.From
	}
	lost.Why = "undecodable"
	batch.Gaps = append(batch.Gaps, lost)
}
