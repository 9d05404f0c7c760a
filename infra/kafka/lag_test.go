package kafka

import (
	"errors"
	"testing"
	"time"

	"github.com/nidohq/nido/domain"
)

func TestTheLogSaysHowFarItGoesAndWhenARecordWasWritten(t *testing.T) {
	b := startBrokers(t, 1)
	cluster, log := b.open(2)
	before := time.Now().Add(-time.Millisecond).Truncate(time.Millisecond) // what the log keeps
	placed := map[domain.Position]bool{}
	for _, position := range b.append(log, 0, 20) {
		placed[position] = true
	}
	extents, err := cluster.Extents(t.Context(), cluster.Events())
	if err != nil {
		t.Fatal(err)
	}
	last := map[int32]int64{}
	for partition, extent := range extents {
		for offset := extent.Begin; offset < extent.End; offset++ {
			if !placed[domain.Position{Partition: partition, Offset: offset}] {
				t.Errorf("nothing was placed at %d:%d", partition, offset)
			}
			delete(placed, domain.Position{Partition: partition, Offset: offset})
			last[partition] = offset
		}
	}
	if len(extents) != 2 || len(placed) != 0 {
		t.Errorf("%v lie outside of %v", placed, extents)
	}
	written, err := cluster.Written(t.Context(), cluster.Events(), last)
	if err != nil {
		t.Fatal(err)
	}
	for partition := range last {
		if at := written[partition]; at.Before(before) || at.After(time.Now()) {
			t.Errorf("the last record of partition %d is of %v, not of %v or later", partition, at, before)
		}
	}
	if _, err := cluster.Written(t.Context(), cluster.Events(), map[int32]int64{0: extents[0].End}); !errors.Is(err, errNotThere) {
		t.Errorf("a record that is not there was written: %v", err)
	}
}

func TestAProjectorsBatchesAreTold(t *testing.T) {
	b := startBrokers(t, 1)
	cluster, log := b.open(1)
	b.append(log, 0, 30)
	store, heard := newStore(), &heardBatches{}
	failures := 2
	store.failing(func() error {
		if failures--; failures >= 0 {
			return errors.New("the store is away")
		}
		return nil
	})
	_, stop := run(t, cluster, ConsumerConfig{Topic: cluster.Events(), Name: "told", Handler: Commits(store), Observer: heard})
	store.await(t, "everything", func() bool { return store.sum() == 30 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if heard.records != 30 || heard.failures != 2 || heard.names != "told" {
		t.Errorf("heard of %d records and %d failures of %q", heard.records, heard.failures, heard.names)
	}
}

type heardBatches struct {
	records, failures int
	names             string
}

func (h *heardBatches) Applied(consumer string, records int, took time.Duration) {
	h.records, h.names = h.records+records, consumer
	if took <= 0 {
		h.names = "a batch that took no time"
	}
}

func (h *heardBatches) NotApplied(string) { h.failures++ }

// A node that has asked nothing for a while finds its connections dead after the brokers' restart.
func TestAnAgeIsFoundOverAConnectionThatDiedUnnoticed(t *testing.T) {
	b := startEmbedded(t, 1)
	cluster, log := b.open(1)
	b.append(log, 0, 1)
	for round := range 2 {
		if written, err := cluster.Written(t.Context(), cluster.Events(), map[int32]int64{0: 0}); err != nil || written[0].IsZero() {
			t.Errorf("round %d: %v, %v", round, written, err)
		}
		b.stop()
		b.start()
	}
	if extents, err := cluster.Extents(t.Context(), cluster.Events()); err != nil || extents[0].End != 1 {
		t.Errorf("%v, %v", extents, err)
	}
}
