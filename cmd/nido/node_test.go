// Beside the story: a node that cannot be wired.

package main

import (
	"log/slog"
	"strings"
	"testing"
)

func TestANodeThatCannotStartSaysWhy(t *testing.T) {
	n, err := newNode(t.Context(), nodeSettings{}, engineSettings{MasterKey: "short"}, allRoles, slog.New(slog.DiscardHandler))
	if n != nil || err == nil || !strings.Contains(err.Error(), "NIDO_MASTER_KEY must be 32 bytes") {
		t.Fatalf("node %v, error %v", n, err)
	}
}
